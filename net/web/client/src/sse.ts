/** One message of a stream of Server-Sent Events (HTML Standard §9.2). */
export interface ServerSentEvent {
  /** Its name; `message` if it has none. */
  event: string;
  data: string;
  /** The last id that the stream gave, with this message or before it. */
  id: string;
}

/** Takes a stream apart, piece by piece, wherever the pieces are cut. */
export class SseParser {
  /** What the stream said about how long to wait before coming back, in milliseconds. */
  retryMs: number | undefined;
  private readonly decoder = new TextDecoder("utf-8");
  private rest = "";
  private afterCarriageReturn = false;
  private lastId = "";
  private event = "";
  private data: string[] = [];

  /** The messages that this piece completes. What is incomplete at the end of a stream is no
   * message. */
  push(bytes: Uint8Array): ServerSentEvent[] {
    // The decoder also takes away a byte order mark.
    let text = this.decoder.decode(bytes, { stream: true });
    if (text === "") return [];
    // A line feed that follows a carriage return of the piece before ends no line of its own.
    if (this.afterCarriageReturn && text.startsWith("\n")) text = text.slice(1);
    this.afterCarriageReturn = text === "" ? false : text.endsWith("\r");
    const lines = (this.rest + text).split(/\r\n|\r|\n/);
    this.rest = lines.pop() ?? "";
    return lines.flatMap((line) => this.take(line) ?? []);
  }

  private take(line: string): ServerSentEvent | undefined {
    if (line === "") return this.dispatch();
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") this.event = value;
    else if (field === "data") this.data.push(value);
    else if (field === "id" && !value.includes("\0")) this.lastId = value;
    else if (field === "retry" && /^\d+$/.test(value)) this.retryMs = Number(value);
    return undefined;
  }

  private dispatch(): ServerSentEvent | undefined {
    const { event, data } = this;
    this.event = "";
    this.data = [];
    if (data.length === 0) return undefined;
    return { event: event === "" ? "message" : event, data: data.join("\n"), id: this.lastId };
  }
}
