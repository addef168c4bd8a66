import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { test } from "node:test";
import { Backoff, pause } from "../../src/backoff.js";
import { Bell, Coalesced, Slots } from "../../src/replica/waiting.js";

test("pauses double up to a limit, half of each is chance, and start small after a success", () => {
  for (const [chance, pauses] of [[0, [5, 10, 20, 25, 25]], [1, [10, 20, 40, 50, 50]]] as const) {
    const backoff = new Backoff({ minMs: 10, maxMs: 50 }, () => chance);
    assert.deepEqual(pauses.map(() => backoff.next()), pauses);
    backoff.reset();
    assert.equal(backoff.next(), pauses[0]);
  }
});

test("a pause ends with its signal", async () => {
  const abort = new AbortController();
  const paused = pause(60_000, abort.signal);
  abort.abort();
  await paused;
  await pause(60_000, abort.signal);
});

test("a bell that rang before anybody waited is heard, once", async () => {
  const bell = new Bell();
  const { signal } = new AbortController();
  bell.ring();
  await bell.wait(signal);
  let isOver = false;
  const second = bell.wait(signal).then(() => (isOver = true));
  await Promise.resolve();
  assert.equal(isOver, false);
  bell.ring();
  await second;
  bell.ring();
  bell.silence();
  await bell.wait(signal, 1);
  await bell.wait(AbortSignal.abort());
  assert.deepEqual(getEventListeners(signal, "abort"), [], "nothing is left behind");
});

test("slots are given in turn, and not to who left", async () => {
  const slots = new Slots(1);
  const leaving = new AbortController();
  const { signal } = new AbortController();
  assert.equal(await slots.take(signal), true);
  const gone = slots.take(leaving.signal);
  const next = slots.take(signal);
  leaving.abort();
  assert.equal(await gone, false);
  assert.equal(slots.contended, true);
  slots.give();
  assert.equal(await next, true);
  assert.equal(slots.contended, false);
  assert.equal(await slots.take(AbortSignal.abort()), false);
});

test("a job that is asked for while it runs runs once more, not once for each", async () => {
  let runs = 0;
  const job = new Coalesced(async () => {
    runs += 1;
    await Promise.resolve();
  });
  await Promise.all([job.run(), job.run(), job.run()]);
  assert.equal(runs, 2);
  await job.run();
  assert.equal(runs, 3);
});

test("a job that failed can be asked for again", async () => {
  let fails = true;
  const job = new Coalesced(async () => {
    if (fails) throw new Error("no");
  });
  await assert.rejects(job.run(), /no/);
  fails = false;
  await job.run();
});
