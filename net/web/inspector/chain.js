// An aggregate's chain of event hashes, computed anew from what the gateway says. The bytes are
// listed in schema/docs/record.md; nothing here needs a browser.

import { hash, keyedHash } from "./blake3.js";
import { fromBase64, toHex, fromHex } from "./format.js";

const EVENT_KEY = new TextEncoder().encode("celeriant event hash v1".padEnd(32));
const CONTENT_TYPES = ["bytes", "json", "avro", "protobuf"];
const HAS_EVENT_ID = 1;
const FIXED_BYTES = 24;

// The answer lacks what is needed to compute a hash: that says nothing about the event.
export class Missing extends Error {}

// Hash of version 0, as hex: of the key, so that a chain cannot pass for another aggregate's.
export const chainStart = (key) => toHex(hash(new TextEncoder().encode(key)));

// Follows a chain, from its start or from a hash that is taken for granted.
export class Chain {
  constructor(key, version = 0, from = chainStart(key)) {
    Object.assign(this, { key, version, hash: from });
  }

  // Checks the next event. Returns null, or what does not match; then the chain stays where it was.
  check(event) {
    const { version } = event;
    const expected = this.version + 1;
    if (version !== expected) return { kind: "gap", version: expected, found: version };
    if (event.key !== this.key) return { kind: "key", version, found: event.key };
    let computed;
    try {
      computed = eventHash(this.hash, event);
    } catch (error) {
      const kind = error instanceof Missing ? "missing" : "malformed";
      return { kind, version, reason: error.message };
    }
    if (computed !== event.hash) {
      return { kind: "hash", version, stated: event.hash, computed, event };
    }
    Object.assign(this, { version, hash: computed });
    return null;
  }
}

// An event's hash as hex, from the one before it and the event with its payload as raw bytes.
export function eventHash(before, event) {
  const { head, payload } = canonical(event);
  const bytes = new Uint8Array(80 + head.length + payload.length);
  const view = new DataView(bytes.buffer);
  bytes.set(fromHex(before), 0);
  view.setBigUint64(32, BigInt(event.version), true);
  view.setBigUint64(40, BigInt(event.stamp), true);
  view.setBigInt64(48, micros(event.server_time, "server_time"), true);
  bytes.set(uuid(event.client_id), 56);
  view.setBigUint64(72, BigInt(event.sequence ?? 0), true);
  bytes.set(head, 80);
  bytes.set(payload, 80 + head.length);
  return toHex(keyedHash(EVENT_KEY, bytes));
}

// An event's canonical bytes, in two pieces.
export function canonical(event) {
  if (typeof event.data_base64 !== "string") {
    throw new Missing("the payload's bytes are not in the answer: it must be asked for with raw=1");
  }
  const payload = fromBase64(event.data_base64);
  const type = new TextEncoder().encode(event.type);
  const meta = event.meta.map(metaEntry);
  const id = event.event_id === null ? [] : [uuid(event.event_id)];
  const rest = [...id, type, ...meta];
  const length = rest.reduce((sum, piece) => sum + piece.length, FIXED_BYTES);
  const head = new Uint8Array(length);
  const view = new DataView(head.buffer);
  const [major, minor] = event.schema.split(".").map(Number);
  view.setUint32(0, length + payload.length, true);
  view.setUint8(4, contentType(event.content_type));
  view.setUint8(5, event.event_id === null ? 0 : HAS_EVENT_ID);
  view.setUint8(6, type.length);
  view.setUint8(7, meta.length);
  view.setUint16(8, major, true);
  view.setUint16(10, minor, true);
  view.setBigInt64(12, micros(event.time, "time"), true);
  view.setUint32(20, payload.length, true);
  let at = FIXED_BYTES;
  for (const piece of rest) {
    head.set(piece, at);
    at += piece.length;
  }
  return { head, payload };
}

function metaEntry([name, value]) {
  const [key, text] = [name, value].map((part) => new TextEncoder().encode(part));
  const entry = new Uint8Array(3 + key.length + text.length);
  entry[0] = key.length;
  new DataView(entry.buffer).setUint16(1, text.length, true);
  entry.set(key, 3);
  entry.set(text, 3 + key.length);
  return entry;
}

function contentType(name) {
  const number = CONTENT_TYPES.indexOf(name);
  if (number < 0) throw new Missing(`the content type ${name} is not known to this page`);
  return number;
}

// A UUID as 16 bytes, little-endian like every number; none is zero.
function uuid(text) {
  if (text === null) return new Uint8Array(16);
  return fromHex(text.replaceAll("-", "")).reverse();
}

// Microseconds since 1970. `Date` stops at milliseconds, so the fraction is added apart.
export function micros(text, field = "time") {
  if (text === null) throw new Missing(`${field} is not in the answer: it is no possible time`);
  const parts = /^(-?\d+)-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)\.(\d{6})Z$/.exec(text);
  if (parts === null) throw new TypeError(`${field} is not a time in µs: ${text}`);
  const [year, month, day, hour, minute, second, fraction] = parts.slice(1).map(Number);
  const whole = new Date(0);
  // `Date.UTC` takes the years 0 to 99 for those of a century ago.
  whole.setUTCFullYear(year, month - 1, day);
  whole.setUTCHours(hour, minute, second);
  return BigInt(whole.getTime()) * 1000n + BigInt(fraction);
}
