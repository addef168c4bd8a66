/** A feed as it happens, over as many connections as it takes. */
import { Backoff, pause, type BackoffOptions } from "./backoff.js";
import { CeleriantError, localError } from "./error.js";
import type { CallOptions, Query, Transport } from "./http.js";
import { SseParser, type ServerSentEvent } from "./sse.js";
import type { Event, Notice, Problem } from "./types.js";

/** Where a feed starts: the beginning, now, behind a stamp, or at a time (RFC 3339). */
export type From = "start" | "now" | number | string;

/** What of a feed to tell. */
export interface WatchOptions {
  /** `now` if nothing is said. */
  from?: From;
  /** Only events of these types. */
  types?: readonly string[];
  /** Events without their payloads. */
  headersOnly?: boolean;
}

/** How to follow a feed. */
export interface FollowOptions extends WatchOptions, CallOptions {
  /** A connection that is silent for so long is given up, in milliseconds; the server says
   * something every 5 seconds; 20,000 if nothing is said. */
  heartbeatTimeoutMs?: number;
  /** Pauses before connecting again; 500 ms to 30 s if nothing is said. */
  backoff?: BackoffOptions;
}

/** Something happened, in the order of stamps. */
export type Change =
  /** An event was appended. */
  | { kind: "event"; stamp: number; event: Event }
  /** An aggregate was deleted or trimmed. Comes whatever types are asked for. */
  | { kind: "notice"; stamp: number; notice: Notice };

/** What a follower gets. */
export type FollowMessage =
  | Change
  /** Everything up to this stamp was told; `caughtUp`: nothing more was there. */
  | { kind: "checkpoint"; stamp: number; caughtUp: boolean }
  /** There is a connection. */
  | { kind: "connected" }
  /** There is none, and why; the next attempt is made in `retryInMs`. */
  | { kind: "disconnected"; error: CeleriantError; retryInMs: number };

const HEARTBEAT_TIMEOUT_MS = 20_000;
const BACKOFF: BackoffOptions = { minMs: 500, maxMs: 30_000 };

/** Follows a feed until its signal is aborted (then it throws the signal's reason) or the store
 * says that it makes no sense to go on. Resumes behind the last stamp that it told. */
export async function* follow(
  transport: Transport,
  selector: string,
  options: FollowOptions,
): AsyncGenerator<FollowMessage, never> {
  const backoff = new Backoff(options.backoff ?? BACKOFF);
  const { signal } = options;
  let last: number | undefined;
  let retryMs = 0;
  for (;;) {
    signal?.throwIfAborted();
    const connection = new Connection(transport, selector, options);
    try {
      await connection.open(last);
      yield { kind: "connected" };
      for await (const message of connection.messages()) {
        last = message.stamp;
        backoff.reset();
        yield message;
      }
    } catch (error) {
      const why = reasonToGoOn(error, signal, connection.isOpen && transport.canRenew);
      retryMs = Math.max(backoff.next(), connection.retryMs ?? 0, why.retryAfterMs ?? 0);
      yield { kind: "disconnected", error: why, retryInMs: retryMs };
    } finally {
      connection.close();
    }
    await pause(retryMs, signal);
  }
}

/** What is no reason to go on is thrown. A token that was good and is over is one, if there may be
 * another. */
function reasonToGoOn(
  error: unknown,
  signal: AbortSignal | undefined,
  mayRenew: boolean,
): CeleriantError {
  if (signal?.aborted) throw signal.reason;
  if (!(error instanceof CeleriantError)) throw error;
  const isOver = mayRenew && error.error === "Unauthenticated";
  if (error.retry === "never" && !isOver) throw error;
  return error;
}

/** A feed as its address says it. */
export function watchQuery(selector: string, options: WatchOptions): Query {
  return { selector, from: options.from, types: options.types, headers_only: options.headersOnly };
}

type StampedMessage = Extract<FollowMessage, { stamp: number }>;

/** One connection: it ends with an error, whatever ends it. */
class Connection {
  private readonly parser = new SseParser();
  private readonly abort = new AbortController();
  private readonly silenceMs: number;
  private body: ReadableStreamDefaultReader<Uint8Array> | undefined;

  constructor(
    private readonly transport: Transport,
    private readonly selector: string,
    private readonly options: FollowOptions,
  ) {
    this.silenceMs = options.heartbeatTimeoutMs ?? HEARTBEAT_TIMEOUT_MS;
  }

  get retryMs(): number | undefined {
    return this.parser.retryMs;
  }

  /** The store let it in. */
  get isOpen(): boolean {
    return this.body !== undefined;
  }

  async open(last: number | undefined): Promise<void> {
    const { signal } = this.options;
    const signals = [this.abort.signal, ...(signal === undefined ? [] : [signal])];
    const headers: Record<string, string> = { accept: "text/event-stream" };
    if (last !== undefined) headers["last-event-id"] = String(last);
    const response = await this.transport.stream({
      method: "GET",
      path: "/v1/watch",
      query: watchQuery(this.selector, this.options),
      headers,
      signal: AbortSignal.any(signals),
    });
    if (response.body === null) throw localError("UnexpectedAnswer", "same", "no body");
    this.body = response.body.getReader();
  }

  async *messages(): AsyncGenerator<StampedMessage> {
    for (;;) {
      const { done, value } = await this.read();
      if (done || value === undefined) throw localError("Unreachable", "same", "cut off");
      for (const event of this.parser.push(value)) {
        const message = understand(event);
        if (message !== undefined) yield message;
      }
    }
  }

  close(): void {
    this.abort.abort();
  }

  private async read(): Promise<ReadableStreamReadResult<Uint8Array>> {
    if (this.body === undefined) throw new TypeError("not open");
    const silence = setTimeout(() => {
      this.abort.abort(localError("Unreachable", "same", `silent for ${this.silenceMs} ms`));
    }, this.silenceMs);
    try {
      return await this.body.read();
    } catch (error) {
      if (this.abort.signal.reason instanceof CeleriantError) throw this.abort.signal.reason;
      throw localError("Unreachable", "same", error);
    } finally {
      clearTimeout(silence);
    }
  }
}

/** What is unknown is left to later versions of this client. */
function understand(message: ServerSentEvent): StampedMessage | undefined {
  const stamp = Number(message.id);
  switch (message.event) {
    case "append":
      return { kind: "event", stamp, event: JSON.parse(message.data) as Event };
    case "deleted":
    case "trimmed":
      return { kind: "notice", stamp, notice: JSON.parse(message.data) as Notice };
    case "checkpoint": {
      const told = JSON.parse(message.data) as { checkpoint: number; caught_up: boolean };
      return { kind: "checkpoint", stamp: told.checkpoint, caughtUp: told.caught_up };
    }
    case "problem": {
      // The store says why it ends, without the fields that only an answer's head has.
      const problem = JSON.parse(message.data) as Problem;
      throw new CeleriantError({ ...problem, title: problem.error, status: 0 });
    }
    default:
      return undefined;
  }
}
