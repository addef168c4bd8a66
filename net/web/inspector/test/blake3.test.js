// BLAKE3 against the official vectors.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { deriveKey, hash, keyedHash } from "../blake3.js";
import { toHex } from "../format.js";

const vectors = JSON.parse(readFileSync(new URL("blake3-vectors.json", import.meta.url)));
const key = new TextEncoder().encode(vectors.key);
const input = (length) => Uint8Array.from({ length }, (_, at) => at % 251);

test("there are vectors on both sides of every border of block, chunk and subtree", () => {
  const lengths = vectors.cases.map((one) => one.input_len);
  for (const length of [0, 1, 64, 65, 1024, 1025, 2048, 2049, 102400]) {
    assert.ok(lengths.includes(length), `${length}`);
  }
});

for (const one of vectors.cases) {
  test(`${one.input_len} bytes hash as the vectors say, in all three modes`, () => {
    const bytes = input(one.input_len);
    assert.equal(toHex(hash(bytes)), one.hash);
    assert.equal(toHex(keyedHash(key, bytes)), one.keyed_hash);
    assert.equal(toHex(deriveKey(vectors.context, bytes)), one.derive_key);
  });
}

test("bytes that lie in the middle of others hash the same", () => {
  const around = input(3000);
  const inside = around.subarray(251, 251 + 1025);
  assert.equal(toHex(hash(inside)), vectors.cases.find((one) => one.input_len === 1025).hash);
});

test("a key of another length is refused", () => {
  assert.throws(() => keyedHash(key.subarray(1), input(1)), RangeError);
});
