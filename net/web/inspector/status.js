// What the node says of itself, asked again and again while somebody looks, and what changed since
// the page was opened: the gateway only tells the last reason.

import { ask } from "./gateway.js";

const EVERY_MS = 2_000;
const PATIENCE_MS = 10_000;
const CHANGES_MAX = 50;
const WATCHED = ["role", "epoch", "in_sync", "reason", "distrust"];

const listeners = new Set();
const known = { status: null, problem: null, before: null, changes: [] };
let started = false;
let waiting = null;

// `told` is called with what is known, now and after every answer, until `signal`.
export function onStatus(told, signal = null) {
  listeners.add(told);
  signal?.addEventListener("abort", () => listeners.delete(told));
  if (known.status !== null || known.problem !== null) told(known);
  if (started) return;
  started = true;
  document.addEventListener("visibilitychange", () => {
    if (document.hidden || waiting === null) return;
    clearTimeout(waiting);
    look();
  });
  look();
}

async function look() {
  waiting = null;
  if (!document.hidden) {
    try {
      take(await ask("/v1/cluster", AbortSignal.timeout(PATIENCE_MS)));
    } catch (problem) {
      known.problem = problem;
    }
    for (const told of listeners) told(known);
  }
  waiting = setTimeout(look, EVERY_MS);
}

function take(status) {
  const answered = { ...status, at: performance.now() };
  if (known.status !== null) {
    const change = changed(known.status, status);
    if (change !== null) known.changes.unshift({ time: new Date(), ...change });
    known.changes.length = Math.min(known.changes.length, CHANGES_MAX);
  }
  Object.assign(known, { before: known.status, status: answered, problem: null });
}

// What is another than before, as [field, before, after]; null: nothing.
export function changed(before, after) {
  const same = (field) => JSON.stringify(before[field]) === JSON.stringify(after[field]);
  const fields = WATCHED.filter((field) => !same(field));
  if (fields.length === 0) return null;
  const reason = after.distrust ?? after.reason ?? null;
  return { reason, fields: fields.map((name) => [name, before[name], after[name]]) };
}
