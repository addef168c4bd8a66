/** What the store does not take, and what becomes of it. */
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import type { Decision, OutboxEntry } from "../../src/index.js";
import { Browser, TEXTS } from "../support/device.js";
import { StubStore, json, problemOf, type SyncEvent } from "../support/stub-store.js";
import { until, untilEqual } from "../support/until.js";

const KEY = "acme/list/groceries";
const added = (text: string) => ({ type: "Added", data: { text } });

let store: StubStore;
let device: Browser;

beforeEach(() => {
  store = new StubStore();
  device = new Browser(store);
});

afterEach(() => device.close());

const stored = () => store.texts(KEY);

/** A tab whose list was written to offline on a condition that does not hold. */
async function conflicting(decide?: (entry: OutboxEntry) => Decision | undefined) {
  store.append(KEY, "Added", { text: "theirs" });
  store.down = true;
  const replica = await device.tab(decide === undefined ? {} : { onConflict: decide });
  const list = await replica.open(KEY, TEXTS);
  await list.write(added("mine"), { expect: "seen" });
  await list.write(added("later"));
  store.down = false;
  return { replica, list };
}

test("the app is asked about a conflict, and drops the event", async () => {
  const asked: OutboxEntry[] = [];
  const { list } = await conflicting((entry) => {
    asked.push(entry);
    return { drop: true };
  });
  await untilEqual(["theirs", "later"], () => list.state);
  assert.deepEqual(stored(), ["theirs", "later"]);
  assert.deepEqual(asked.map((entry) => entry.conflict?.missed.map((one) => one.data)),
    [[{ text: "theirs" }]]);
  assert.equal(store.events(KEY).at(-1)?.sequence, 1);
});

test("the app is asked about a conflict, and sends something else", async () => {
  const { list } = await conflicting(() => ({ resend: { event: added("mine, too") } }));
  await untilEqual(["theirs", "mine, too", "later"], () => list.state);
  assert.deepEqual(stored(), ["theirs", "mine, too", "later"]);
});

test("what was seen includes what one wrote oneself", async () => {
  store.append(KEY, "Added", { text: "theirs" });
  const replica = await device.tab();
  const list = await replica.open(KEY, TEXTS);
  await untilEqual(["theirs"], () => list.state);
  store.down = true;
  for (const text of ["one", "two"]) await list.write(added(text), { expect: "seen" });
  store.down = false;
  await untilEqual(["theirs", "one", "two"], () => list.state);
  assert.equal(replica.status.conflicts, 0);
});

test("a conflict that nobody decides waits, over a restart, until it is resolved", async () => {
  const { replica, list } = await conflicting();
  await until("in conflict", () => replica.status.conflicts === 1);
  assert.equal(replica.status.unsent, 2);
  await untilEqual(["theirs", "mine?", "later?"], () => list.state);
  replica.close();
  const again = await device.tab();
  const reopened = await again.open(KEY, TEXTS);
  const [entry] = await again.conflicts();
  assert.ok(entry !== undefined);
  await again.resolve(entry, { resend: { expect: "any" } });
  await untilEqual(["theirs", "mine", "later"], () => reopened.state);
});

test("a tab that takes over asks again about what was left undecided", async () => {
  const { replica } = await conflicting();
  await until("in conflict", () => replica.status.conflicts === 1);
  const next = await device.tab({ onConflict: () => ({ drop: true }) });
  replica.close();
  await until("decided", () => next.status.unsent === 0);
  assert.deepEqual(stored(), ["theirs", "later"]);
});

test("what is refused for good can be seen, with the path, and be written anew", async () => {
  const fields = { event: 0, path: "/text", reason: "too short" };
  store.refuse = (event) =>
    (event.data as { text: string }).text === "" ? problemOf("SchemaViolation", "never", fields)
      : undefined;
  const replica = await device.tab();
  const list = await replica.open(KEY, TEXTS);
  store.down = true;
  for (const text of ["one", "", "two"]) await list.write(added(text));
  store.down = false;
  await untilEqual(["one", "two"], () => list.state);
  assert.deepEqual(stored(), ["one", "two"]);
  const [letter] = await replica.letters();
  assert.ok(letter !== undefined);
  assert.deepEqual([letter.problem["path"], letter.problem["reason"]], ["/text", "too short"]);
  await until("counted", () => replica.status.refused === 1);
  await replica.dismiss(letter, added("better"));
  await untilEqual(["one", "two", "better"], () => list.state);
  assert.deepEqual(await replica.letters(), []);
  assert.deepEqual(store.events(KEY).map((event) => event.sequence), [1, 2, 3]);
});

test("one event that spoils a whole request does not hold up the others", async () => {
  const bad = problemOf("InvalidArgument", "never", { field: "writes[1].events[0].type" });
  const large = problemOf("TooLarge", "never");
  store.answer = (events) => {
    const texts = events.map((event) => (event.data as { text: string }).text);
    if (texts[1] === "bad") return json(400, bad);
    return texts.includes("large") ? json(413, large) : undefined;
  };
  const replica = await device.tab();
  const list = await replica.open(KEY, TEXTS);
  store.down = true;
  for (const text of ["one", "bad", "two", "large", "three"]) await list.write(added(text));
  store.down = false;
  await untilEqual(["one", "two", "three"], () => list.state);
  const letters = (await replica.letters()).map((letter) => letter.problem.error).sort();
  assert.deepEqual(letters, ["InvalidArgument", "TooLarge"]);
});

test("a request that is refused as a whole is shown, kept, and sent again", async () => {
  const denied = problemOf("Unauthenticated", "never", { status: 401 });
  store.answer = () => json(401, denied);
  const replica = await device.tab();
  const list = await replica.open(KEY, TEXTS);
  await list.write(added("one"));
  await until("told", () => replica.status.problem?.error === "Unauthenticated");
  assert.equal(replica.status.connected, false);
  store.answer = () => undefined;
  await untilEqual(["one"], () => list.state);
  await until("connected", () => replica.status.connected);
});

/** Answers that nothing can be done now. */
function noLeader(events: readonly SyncEvent[]): Response {
  const problem = problemOf("NoLeader", "same");
  const of = ({ key, sequence }: SyncEvent) => ({ key, sequence, status: "retry", problem });
  return json(200, { results: events.map(of) });
}

test("what must be tried again is not tried in haste", async () => {
  store.answer = noLeader;
  const replica = await device.tab({ pace: { backoff: { minMs: 60_000, maxMs: 60_000 } } });
  const list = await replica.open(KEY, TEXTS);
  for (const text of ["one", "two", "three", "four", "five"]) {
    await list.write(added(text));
    await until("told", () => replica.status.problem?.error === "NoLeader");
  }
  assert.ok(store.requests.length <= 2, `${store.requests.length} requests`);
});

test("what must be tried again is shown, kept, and sent again", async () => {
  store.answer = noLeader;
  const replica = await device.tab();
  const list = await replica.open(KEY, TEXTS);
  await list.write(added("one"));
  await until("told", () => replica.status.problem?.error === "NoLeader");
  await until("tried again", () => store.requests.length > 2);
  store.answer = () => undefined;
  await untilEqual(["one"], () => list.state);
  assert.deepEqual(stored(), ["one"]);
});

test("an event is written, whatever becomes of showing it", async () => {
  const errors: string[] = [];
  const replica = await device.tab({ onError: (error) => errors.push(String(error)) });
  const list = await replica.open(KEY, TEXTS);
  list.subscribe(() => {
    throw new Error("listener");
  });
  const broken = await replica.open(KEY, {
    initial: 0,
    apply: () => {
      throw new Error("apply");
    },
  });
  await broken.write(added("one"));
  await untilEqual(["one"], () => list.state);
  assert.ok(errors.includes("Error: listener") && errors.includes("Error: apply"));
  assert.deepEqual(stored(), ["one"]);
});

test("an answer that is not about what was sent changes nothing", async () => {
  store.answer = () => json(200, { results: [] });
  const replica = await device.tab();
  const list = await replica.open(KEY, TEXTS);
  await list.write(added("one"));
  await until("told", () => replica.status.problem?.error === "UnexpectedAnswer");
  assert.equal(replica.status.unsent, 1);
  store.answer = () => undefined;
  await untilEqual(["one"], () => list.state);
});

test("a store that lost the end of our events takes the next ones", async () => {
  const replica = await device.tab();
  const list = await replica.open(KEY, TEXTS);
  for (const text of ["one", "two"]) await list.write(added(text));
  await untilEqual(["one", "two"], () => list.state);
  store.rollBack(KEY, replica.clientId, 1);
  await list.write(added("three"));
  await until("sent", () => replica.status.unsent === 0);
  assert.deepEqual(stored(), ["one", "three"]);
  assert.equal(store.events(KEY).at(-1)?.sequence, 2);
  await untilEqual(["one", "three"], () => list.state);
});

test("an app whose handler throws is told, and the event waits", async () => {
  store.append(KEY, "Added", { text: "theirs" });
  const errors: unknown[] = [];
  const replica = await device.tab({
    onError: (error) => errors.push(error),
    onConflict: () => {
      throw new Error("handler");
    },
  });
  const list = await replica.open(KEY, TEXTS);
  await list.write(added("mine"), { expect: "none" });
  await until("told", () => String(errors[0]) === "Error: handler");
  assert.equal(replica.status.unsent, 1);
});
