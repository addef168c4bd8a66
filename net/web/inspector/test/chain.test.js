// The chain, against what a server answered to `…/events?raw=1` (chain-read.json, as it came).

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { Chain, Missing, canonical, chainStart, eventHash, micros } from "../chain.js";
import { keyedHash } from "../blake3.js";
import { toHex } from "../format.js";
import { parse } from "../gateway.js";

const TEXT = readFileSync(new URL("chain-read.json", import.meta.url), "utf8");
const read = () => parse(TEXT);

// The first thing that does not match, or the chain.
function check({ key, events }, chain = new Chain(key)) {
  for (const event of events) {
    const problem = chain.check(event);
    if (problem !== null) return problem;
  }
  return chain;
}

test("what a server answered verifies, up to its last hash", () => {
  const page = read();
  const chain = check(page);
  assert.equal(chain.version, 5);
  assert.equal(chain.hash, page.events[4].hash);
});

test("metadata keeps its order, also keys that look like numbers", () => {
  const names = read().events[0].meta.map(([name]) => name);
  assert.deepEqual(names, ["zulu", "10", "2", 'a"3', "user"]);
});

test("hashes are those that the server's own tests hold", () => {
  // schema/src/hash.rs: GOLDEN_START, and GOLDEN_EVENT with the same bytes, without an event.
  const key = new TextEncoder().encode("celeriant event hash v1         ");
  const start = "ed5b6fce926677a9c1107299856a22ac4073c0e78480d03bd0673b96cf3b7ba1";
  assert.equal(chainStart("acme/order/4821"), start);
  const bytes = new Uint8Array(80 + 11);
  bytes.set(start.match(/../g).map((pair) => parseInt(pair, 16)));
  [[32, 1], [40, 2], [48, 3], [56, 4], [72, 5]].forEach(([at, value]) => { bytes[at] = value; });
  bytes.set(new TextEncoder().encode("headpayload"), 80);
  const golden = "7297bea94e19b7c58df8bc199f95e790ac9a8a97493298cdaebffb440285ea96";
  assert.equal(toHex(keyedHash(key, bytes)), golden);
});

const CHANGES = {
  type: "Closed",
  schema: "1.1",
  content_type: "avro",
  data_base64: "eyJiIjoyfQ==",
  client_id: null,
  sequence: 2,
  event_id: null,
  meta: [["zulu", "1"]],
  time: "2025-01-01T00:00:00.000002Z",
  server_time: "2026-11-30T02:33:34.015451Z",
  stamp: 482531312123602,
  hash: "00".repeat(32),
};

for (const [field, value] of Object.entries(CHANGES)) {
  test(`another ${field} is found, and named by its version`, () => {
    // The fields of the fourth event that are empty anyway cannot be emptied.
    const places = [0, 3].filter((at) => read().events[at][field] !== value);
    assert.ok(places.includes(0));
    for (const at of places) {
      const page = read();
      page.events[at][field] = value;
      const problem = check(page);
      assert.equal(problem.kind, "hash");
      assert.equal(problem.version, at + 1);
    }
  });
}

test("metadata in another order is another event", () => {
  const page = read();
  page.events[0].meta.reverse();
  assert.deepEqual([check(page).kind, check(page).version], ["hash", 1]);
});

test("an event that is left out, comes twice or belongs to another aggregate is found", () => {
  const page = read();
  const [first, second, third] = page.events;
  assert.deepEqual(check({ ...page, events: [first, third] }), {
    kind: "gap", version: 2, found: 3,
  });
  assert.equal(check({ ...page, events: [first, first] }).kind, "gap");
  const foreign = { ...second, key: "sample/chain/other" };
  assert.equal(check({ ...page, events: [first, foreign] }).kind, "key");
  assert.equal(check(page, new Chain("sample/chain/other")).kind, "key");
});

test("a chain goes on behind a hash that is taken for granted", () => {
  const page = read();
  const chain = new Chain(page.key, 2, page.events[1].hash);
  assert.equal(check({ ...page, events: page.events.slice(2) }, chain).version, 5);
});

test("what the answer lacks is said, not guessed", () => {
  const page = read();
  delete page.events[0].data_base64;
  assert.deepEqual([check(page).kind, check(page).version], ["missing", 1]);
  assert.throws(() => canonical({ ...read().events[0], time: null }), Missing);
  const broken = { ...read().events[0], data_base64: "*" };
  assert.equal(check({ ...page, events: [broken] }).kind, "malformed");
  assert.throws(() => eventHash("zz", read().events[0]), TypeError);
});

test("times are exact to the microsecond, also before 1970 and in the first centuries", () => {
  assert.equal(micros("1970-01-01T00:00:00.000001Z"), 1n);
  assert.equal(micros("1969-12-31T23:59:59.999999Z"), -1n);
  assert.equal(micros("2025-01-01T00:00:00.123456Z"), 1735689600123456n);
  const early = BigInt(Date.parse("0099-03-01T12:00Z")) * 1000n;
  assert.equal(micros("0099-03-01T12:00:00.000000Z"), early);
  assert.throws(() => micros("2025-01-01T00:00:00Z"), TypeError);
});
