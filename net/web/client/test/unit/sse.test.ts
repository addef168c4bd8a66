import assert from "node:assert/strict";
import { test } from "node:test";
import { SseParser, type ServerSentEvent } from "../../src/sse.js";

const STREAM = [
  "\uFEFFretry: 1500", ": a comment", "id: 1", "event: append", "data: {\"a\":", "data: \"ü\"}", "",
  "data:no space", "id", "", "id: 5\0", "event: only a name", "",
  "unknown: x", "data", "", "data: cut",
];
const EVENTS: ServerSentEvent[] = [
  { event: "append", data: "{\"a\":\n\"ü\"}", id: "1" },
  { event: "message", data: "no space", id: "" },
  { event: "message", data: "", id: "" },
];

for (const [name, end] of [["LF", "\n"], ["CRLF", "\r\n"], ["CR", "\r"]] as const) {
  test(`a stream with ${name} is understood wherever it is cut`, () => {
    const bytes = new TextEncoder().encode(STREAM.join(end));
    for (let cut = 0; cut <= bytes.length; cut += 1) {
      const parser = new SseParser();
      const events = [...parser.push(bytes.slice(0, cut)), ...parser.push(bytes.slice(cut))];
      assert.deepEqual(events, EVENTS, `cut at ${cut}`);
      assert.equal(parser.retryMs, 1500);
    }
    const parser = new SseParser();
    const bits = [...bytes].flatMap((byte) => parser.push(Uint8Array.of(byte)));
    assert.deepEqual(bits, EVENTS, "byte by byte");
  });
}
