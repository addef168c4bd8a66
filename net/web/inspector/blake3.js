// BLAKE3 (github.com/BLAKE3-team/BLAKE3-specs), 32 bytes of output: plain, keyed and derive-key
// mode. Browsers do not have it, and the page loads nothing from elsewhere. All of the input is at
// hand, so the tree is walked by halves instead of with a stack of unfinished chunks.

const IV = Uint32Array.of(
  0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
);
const PERMUTATION = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8];
const ROUNDS = 7;
const BLOCK_BYTES = 64;
const CHUNK_BYTES = 1024;
const CHUNK_START = 1;
const CHUNK_END = 2;
const PARENT = 4;
const ROOT = 8;
const KEYED = 16;
const DERIVE_CONTEXT = 32;
const DERIVE_MATERIAL = 64;

// Where each round finds its words: the permutation, applied again and again.
const SCHEDULE = [Array.from({ length: 16 }, (_, at) => at)];
while (SCHEDULE.length < ROUNDS) {
  const before = SCHEDULE[SCHEDULE.length - 1];
  SCHEDULE.push(PERMUTATION.map((from) => before[from]));
}

// Plain BLAKE3 of bytes.
export function hash(bytes) {
  return root(subtree(bytes, 0, { key: IV, flags: 0 }));
}

// Keyed mode; the key is 32 bytes.
export function keyedHash(key, bytes) {
  if (key.length !== 32) throw new RangeError(`a key has 32 bytes, not ${key.length}`);
  return root(subtree(bytes, 0, { key: words(key), flags: KEYED }));
}

// Key derivation; the context is a text.
export function deriveKey(context, material) {
  const name = new TextEncoder().encode(context);
  const key = root(subtree(name, 0, { key: IV, flags: DERIVE_CONTEXT }));
  return root(subtree(material, 0, { key: words(key), flags: DERIVE_MATERIAL }));
}

// The last compression of a subtree, not done yet: the root's is another than a node's.
function subtree(bytes, counter, mode) {
  if (bytes.length <= CHUNK_BYTES) return chunk(bytes, counter, mode);
  const chunks = Math.ceil(bytes.length / CHUNK_BYTES);
  // The left side is full: the largest power of two that leaves something for the right.
  const left = 2 ** Math.floor(Math.log2(chunks - 1));
  const split = left * CHUNK_BYTES;
  const block = new Uint32Array(16);
  block.set(chaining(subtree(bytes.subarray(0, split), counter, mode)), 0);
  block.set(chaining(subtree(bytes.subarray(split), counter + left, mode)), 8);
  return { cv: mode.key, block, counter: 0, length: BLOCK_BYTES, flags: mode.flags | PARENT };
}

function chunk(bytes, counter, mode) {
  let cv = mode.key;
  let flags = mode.flags | CHUNK_START;
  let at = 0;
  for (; bytes.length - at > BLOCK_BYTES; at += BLOCK_BYTES) {
    const block = words(bytes.subarray(at, at + BLOCK_BYTES));
    cv = chaining({ cv, block, counter, length: BLOCK_BYTES, flags });
    flags = mode.flags;
  }
  const last = new Uint8Array(BLOCK_BYTES);
  last.set(bytes.subarray(at));
  const length = bytes.length - at;
  return { cv, block: words(last), counter, length, flags: flags | CHUNK_END };
}

const chaining = (output) => compress(output, output.flags);

function root(output) {
  const result = new Uint8Array(32);
  const view = new DataView(result.buffer);
  compress(output, output.flags | ROOT).forEach((word, at) => view.setUint32(at * 4, word, true));
  return result;
}

function words(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const result = new Uint32Array(bytes.length / 4);
  for (let at = 0; at < result.length; at += 1) result[at] = view.getUint32(at * 4, true);
  return result;
}

// The first eight words; the other eight only matter for longer outputs.
function compress({ cv, block, counter, length }, flags) {
  const state = new Uint32Array(16);
  state.set(cv);
  state.set(IV.subarray(0, 4), 8);
  state[12] = counter;
  state[13] = Math.floor(counter / 2 ** 32);
  state[14] = length;
  state[15] = flags;
  for (const order of SCHEDULE) {
    mix(state, 0, 4, 8, 12, block[order[0]], block[order[1]]);
    mix(state, 1, 5, 9, 13, block[order[2]], block[order[3]]);
    mix(state, 2, 6, 10, 14, block[order[4]], block[order[5]]);
    mix(state, 3, 7, 11, 15, block[order[6]], block[order[7]]);
    mix(state, 0, 5, 10, 15, block[order[8]], block[order[9]]);
    mix(state, 1, 6, 11, 12, block[order[10]], block[order[11]]);
    mix(state, 2, 7, 8, 13, block[order[12]], block[order[13]]);
    mix(state, 3, 4, 9, 14, block[order[14]], block[order[15]]);
  }
  for (let at = 0; at < 8; at += 1) state[at] ^= state[at + 8];
  return state.subarray(0, 8);
}

function mix(state, a, b, c, d, x, y) {
  state[a] = state[a] + state[b] + x;
  state[d] = rotate(state[d] ^ state[a], 16);
  state[c] += state[d];
  state[b] = rotate(state[b] ^ state[c], 12);
  state[a] = state[a] + state[b] + y;
  state[d] = rotate(state[d] ^ state[a], 8);
  state[c] += state[d];
  state[b] = rotate(state[b] ^ state[c], 7);
}

const rotate = (word, bits) => (word >>> bits) | (word << (32 - bits));
