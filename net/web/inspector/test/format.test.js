// What people read, and what the gateway's answers are turned into.

import assert from "node:assert/strict";
import { test } from "node:test";

import {
  ago, asText, clock, count, fromBase64, fromHex, hexDump, plural, pretty, quoted, short, size,
  toHex,
} from "../format.js";
import { address, parse, problem, segments } from "../gateway.js";

const text = (json) => [...pretty(json)].map(([, piece]) => piece).join("");
const kinds = (json) => [...pretty(json)].map(([kind]) => kind).filter((kind) => kind !== "space");

test("JSON gets line breaks, and keeps every digit and its order", () => {
  const json = '{"b":12345678901234567890.50,"2":1,"1":[true,null,{}],"e":[]}';
  assert.equal(text(json), `{
  "b": 12345678901234567890.50,
  "2": 1,
  "1": [
    true,
    null,
    {}
  ],
  "e": []
}`);
  assert.equal(text(" \n 1e400 "), "1e400");
});

test("what is a token and what is inside of a text are not mixed up", () => {
  const json = String.raw`{"a:{\"":"],\\","c":"<b>\u003c"}`;
  assert.equal(text(json).replaceAll(/\n */g, "").replaceAll('": "', '":"'), json);
  assert.deepEqual(kinds('{"a":"b","c":-1,"d":false}'), [
    "mark", "name", "mark", "text", "mark", "name", "mark", "number", "mark", "name", "mark",
    "word", "mark",
  ]);
});

test("what is not JSON is not made to look like it", () => {
  for (const bad of ["", "{", '{"a":1,}', "[1] 2", "NaN"]) assert.equal(pretty(bad), null, bad);
});

test("bytes are text only if they are UTF-8, and always a table", () => {
  assert.equal(asText(Uint8Array.of(0x5a, 0xc3, 0xab)), "Zë");
  assert.equal(asText(Uint8Array.of(0xff)), null);
  const dump = hexDump(new TextEncoder().encode("<b>0123456789abc\0d"));
  assert.equal(dump, [
    "000000  3c 62 3e 30 31 32 33 34 35 36 37 38 39 61 62 63  <b>0123456789abc",
    "000010  00 64                                            ·d",
  ].join("\n"));
  assert.equal(hexDump(new Uint8Array(100), 16).split("\n").length, 1);
});

test("hex and base64 go both ways", () => {
  assert.equal(toHex(fromHex("00ff10")), "00ff10");
  assert.throws(() => fromHex("0"), TypeError);
  assert.throws(() => fromHex("xx"), TypeError);
  assert.deepEqual([...fromBase64("AAEC/w==")], [0, 1, 2, 255]);
});

test("numbers, times and sizes read well", () => {
  assert.equal(count(1234567), "1,234,567");
  assert.deepEqual([plural(0, "event"), plural(1, "event")], ["0 events", "1 event"]);
  assert.equal(clock("2026-11-30T02:26:20.466821Z"), "2026-11-30 02:26:20.466821 UTC");
  assert.equal(clock(null), "no possible time");
  const now = Date.parse("2026-11-30T12:00:00Z");
  assert.equal(ago("2026-11-30T11:59:59.5Z", now), "just now");
  assert.equal(ago("2026-11-30T11:58:59Z", now), "1 minute ago");
  assert.equal(ago("2026-11-27T11:59:59Z", now), "3 days ago");
  assert.equal(ago("2026-11-30T14:00:00Z", now), "in 2 hours");
  assert.equal(ago("soon", now), "");
  assert.deepEqual([size(1), size(1536), size(8 << 20)], ["1 byte", "1.5 KiB", "8.0 MiB"]);
  assert.equal(short("0123456789abcdef", 4), "0123");
});

test("addresses carry any name, and only parameters that are set", () => {
  assert.equal(segments(["a b", "?#", "ü%"]), "a%20b/%3F%23/%C3%BC%25");
  assert.equal(address("/v1/x", { a: null, b: "", c: 0, d: "a&b" }), "/v1/x?c=0&d=a%26b");
  assert.equal(address("/v1/x", {}), "/v1/x");
});

test("a command that is shown can be pasted into a shell", () => {
  assert.equal(quoted("acme/account/a-1"), "acme/account/a-1");
  assert.equal(quoted("a/b/$(rm) it's"), String.raw`'a/b/$(rm) it'\''s'`);
});

test("refusals are told with their name and whether trying again helps", () => {
  const told = problem({ error: "NoLeader", message: "nobody leads", retry: "same" }, 503);
  assert.deepEqual([told.name, told.message], ["NoLeader", "nobody leads"]);
  assert.match(told.advice, /may help/);
  assert.equal(problem(null, 502).name, "HTTP 502");
  assert.equal(parse("<html>"), null);
});
