// Values as people read them. Pure functions of values; nothing here needs a browser.

const MINUTE = 60_000;
const AGES = [
  [365 * 24 * 60 * MINUTE, "year"],
  [30 * 24 * 60 * MINUTE, "month"],
  [24 * 60 * MINUTE, "day"],
  [60 * MINUTE, "hour"],
  [MINUTE, "minute"],
  [1000, "second"],
];
const TOKEN = /"(?:[^"\\]|\\.)*"|[{}[\]:,]|[^\s{}[\]:,"]+/gs;
const INDENT = "  ";
const DUMP_WIDTH = 16;

// JSON with line breaks, as pieces [kind, text]. Token by token, because a number that went through
// `JSON.parse` could be another one, and an object's order, too. Not JSON: null.
export function pretty(json) {
  try {
    JSON.parse(json);
  } catch {
    return null;
  }
  return pieces(json.match(TOKEN));
}

function* pieces(tokens) {
  let depth = 0;
  const line = () => ["space", `\n${INDENT.repeat(depth)}`];
  for (const [at, token] of tokens.entries()) {
    const next = tokens[at + 1];
    if (token === "{" || token === "[") {
      depth += 1;
      yield ["mark", token];
      if (next !== "}" && next !== "]") yield line();
    } else if (token === "}" || token === "]") {
      depth -= 1;
      const before = tokens[at - 1];
      if (before !== "{" && before !== "[") yield line();
      yield ["mark", token];
    } else if (token === ",") {
      yield ["mark", token];
      yield line();
    } else if (token === ":") {
      yield ["mark", ": "];
    } else {
      yield [next === ":" ? "name" : kind(token), token];
    }
  }
}

function kind(token) {
  if (token.startsWith('"')) return "text";
  return /^[-\d]/.test(token) ? "number" : "word";
}

// Bytes as text if they are UTF-8, else null.
export function asText(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return null;
  }
}

// Bytes as a table of numbers, and what is visible ASCII in them.
export function hexDump(bytes, most = bytes.length) {
  const lines = [];
  for (let at = 0; at < Math.min(bytes.length, most); at += DUMP_WIDTH) {
    const row = [...bytes.subarray(at, Math.min(at + DUMP_WIDTH, most))];
    const numbers = row.map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const visible = row.map((byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : "·"));
    const place = at.toString(16).padStart(6, "0");
    lines.push(`${place}  ${numbers.padEnd(DUMP_WIDTH * 3)} ${visible.join("")}`);
  }
  return lines.join("\n");
}

export const toHex = (bytes) => Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");

export function fromHex(text) {
  if (!/^(?:[0-9a-f]{2})*$/i.test(text)) throw new TypeError(`not hex: ${text}`);
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

export const fromBase64 = (text) => Uint8Array.from(atob(text), (char) => char.charCodeAt(0));

export const count = (number) => number.toLocaleString("en-US");

// "1 event", "2 events".
export const plural = (number, one) => `${count(number)} ${one}${number === 1 ? "" : "s"}`;

// `2026-11-30T02:26:20.466821Z` as it is read; what is no time stays as it is.
export function clock(text) {
  if (text === null) return "no possible time";
  return text.replace("T", " ").replace(/Z$/, " UTC");
}

// How long ago, roughly.
export function ago(text, now = Date.now()) {
  const passed = now - Date.parse(text);
  if (!Number.isFinite(passed)) return "";
  const size = Math.abs(passed);
  const age = AGES.find(([unit]) => size >= unit);
  if (age === undefined) return "just now";
  const told = plural(Math.floor(size / age[0]), age[1]);
  return passed < 0 ? `in ${told}` : `${told} ago`;
}

export function size(bytes) {
  if (bytes < 1024) return plural(bytes, "byte");
  const [divisor, unit] = bytes < 1024 * 1024 ? [1024, "KiB"] : [1024 * 1024, "MiB"];
  return `${(bytes / divisor).toFixed(1)} ${unit}`;
}

// A word for a shell.
export const quoted = (text) => (
  /^[\w./:@+-]+$/.test(text) ? text : `'${text.replaceAll("'", String.raw`'\''`)}'`);

// Enough of a hash or UUID to tell it from another.
export const short = (text, length = 12) => (text.length > length ? text.slice(0, length) : text);
