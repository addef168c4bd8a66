// What the page asks the gateway, and what it makes of the answers.

const ADVICE = {
  never: "Trying again will not help.",
  same: "Trying again may help.",
  after_reading: "Read again before you try again.",
  other_node: "The other node can answer this.",
};

// A refusal, or no answer at all, in words.
export class Problem extends Error {
  constructor(name, message, { status = 0, retry = null } = {}) {
    super(message);
    Object.assign(this, { name, status, retry, advice: ADVICE[retry] ?? "" });
  }
}

export const segments = (names) => names.map(encodeURIComponent).join("/");

// Of an aggregate's head or events, as this very node has them: a follower answers, too.
export function aggregateAddress(names, what, parameters = {}) {
  return address(`/v1/aggregates/${segments(names)}/${what}`, { any: 1, ...parameters });
}

// An address with those parameters that are set.
export function address(path, parameters) {
  const set = Object.entries(parameters).filter(([, value]) => value !== null && value !== "");
  return set.length === 0 ? path : `${path}?${new URLSearchParams(set)}`;
}

export async function ask(where, signal) {
  let answer;
  let text;
  try {
    answer = await fetch(where, { signal });
    text = await answer.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("No answer", "The node cannot be reached. Is it running?",
      { retry: "same" });
  }
  const body = parse(text);
  if (!answer.ok) throw problem(body, answer.status);
  if (body === null) throw new Problem("No answer", "What came is not from a Celeriant gateway.");
  return body;
}

export function problem(body, status = 0) {
  if (typeof body?.error !== "string") {
    return new Problem(`HTTP ${status}`, "Something between this page and the node refused.");
  }
  return new Problem(body.error, body.message, { status, retry: body.retry });
}

// JSON, with metadata as pairs in their order: an object's keys that look like numbers would come
// first, and the hash covers the order. Such keys only occur there: payloads come as raw bytes.
export function parse(text) {
  try {
    return JSON.parse(text.replace(/(?<!\\)"(\d+)":/g, '"\\u0000$1":'), pairs);
  } catch {
    return null;
  }
}

// No metadata key has a control character, so the mark cannot be somebody's own.
function pairs(name, value) {
  if (name !== "meta" || value === null || typeof value !== "object") return value;
  return Object.entries(value).map(([key, text]) => [key.replace(/^\0/, ""), text]);
}
