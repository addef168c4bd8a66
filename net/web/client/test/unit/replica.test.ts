import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import type { LocalAggregate, Replica } from "../../src/index.js";
import { Browser, TEXTS } from "../support/device.js";
import { StubStore, json, problemOf } from "../support/stub-store.js";
import { until, untilEqual } from "../support/until.js";

const KEY = "acme/list/groceries";

let store: StubStore;
let browsers: Browser[];

beforeEach(() => {
  store = new StubStore();
  browsers = [];
});

afterEach(() => {
  for (const browser of browsers) browser.close();
});

function browser(): Browser {
  const one = new Browser(store);
  browsers.push(one);
  return one;
}

const added = (text: string) => ({ type: "Added", data: { text } });

/** Texts at the store, in order. */
const stored = () => store.texts(KEY);

/** All states that were shown. */
function watch<State>(list: LocalAggregate<State>): State[] {
  const shown: State[] = [];
  list.subscribe(() => shown.push(list.state));
  return shown;
}

const hasSent = (replica: Replica) => () => replica.status.unsent === 0;

test("what is written offline is shown, survives a restart, and arrives once", async () => {
  store.down = true;
  const device = browser();
  const first = await device.tab();
  const list = await first.open(KEY, TEXTS);
  await list.write(added("milk"));
  await list.write(added("eggs"));
  assert.deepEqual(list.state, ["milk?", "eggs?"]);
  assert.deepEqual(list.confirmed, []);
  first.close();
  const second = await device.tab();
  const again = await second.open(KEY, TEXTS);
  assert.deepEqual(again.state, ["milk?", "eggs?"]);
  assert.equal(second.clientId, first.clientId);
  assert.equal(again.loaded, false);
  store.down = false;
  await untilEqual(["milk", "eggs"], () => again.state);
  assert.deepEqual(stored(), ["milk", "eggs"]);
  assert.deepEqual(store.events(KEY).map((event) => event.sequence), [1, 2]);
  assert.equal(again.loaded, true);
});

test("confirmed events are there offline", async () => {
  const device = browser();
  store.append(KEY, "Added", { text: "theirs" });
  const first = await device.tab();
  const list = await first.open(KEY, TEXTS);
  await untilEqual(["theirs"], () => list.state);
  await list.write(added("mine"));
  await untilEqual(["theirs", "mine"], () => list.state);
  first.close();
  store.down = true;
  const second = await device.tab();
  const again = await second.open(KEY, TEXTS);
  assert.deepEqual(again.state, ["theirs", "mine"]);
  store.down = false;
  device.online();
  await until("connected", () => second.status.connected);
  assert.match(store.opened.at(-1) ?? "", /^acme\/list\/groceries \d+$/, "resumed");
});

test("an event that comes back before its answer is never shown twice", async () => {
  let answer = (): void => undefined;
  store.gate = new Promise((resolve) => (answer = resolve));
  const replica = await browser().tab();
  const list = await replica.open(KEY, TEXTS);
  const shown = watch(list);
  await list.write(added("milk"));
  await untilEqual(["milk"], () => list.state);
  answer();
  await until("sent", hasSent(replica));
  await list.write(added("eggs"));
  await untilEqual(["milk", "eggs"], () => list.state);
  for (const state of shown) {
    const texts = state.map((text) => text.replace("?", ""));
    assert.equal(new Set(texts).size, texts.length, `shown: ${state.join()}`);
  }
});

test("an event whose answer is lost is sent again and lands once", async () => {
  store.losesAnswers = true;
  const replica = await browser().tab();
  const list = await replica.open("acme/list/other", TEXTS);
  const quiet = await replica.open(KEY, TEXTS);
  for (let n = 0; n < 40; n += 1) await quiet.write(added(String(n)));
  await until("three attempts", () => store.requests.length >= 3);
  store.losesAnswers = false;
  await until("all sent", hasSent(replica));
  assert.equal(stored().length, 40);
  await untilEqual(stored(), () => quiet.state);
  assert.deepEqual(list.state, []);
});

test("no request has more events of an aggregate than the store recognises", async () => {
  store.down = true;
  const replica = await browser().tab();
  const list = await replica.open(KEY, TEXTS);
  for (let n = 0; n < 40; n += 1) await list.write(added(String(n)));
  store.down = false;
  await until("all sent", hasSent(replica));
  assert.deepEqual(store.requests.map(({ events }) => events.length), [16, 16, 8]);
});

test("a tab that closes between sending and answer leaves an event that lands once", async () => {
  const device = browser();
  store.gate = new Promise(() => undefined);
  const first = await device.tab();
  const list = await first.open(KEY, TEXTS);
  await list.write(added("milk"));
  await until("sent", () => stored().length === 1);
  first.close();
  store.gate = Promise.resolve();
  const second = await device.tab();
  const again = await second.open(KEY, TEXTS);
  await untilEqual(["milk"], () => again.state);
  await until("sent", hasSent(second));
  assert.deepEqual(stored(), ["milk"]);
});

test("two tabs write at once: one sends, both show the same, and one takes over", async () => {
  const device = browser();
  const [one, two] = [await device.tab(), await device.tab()];
  const lists = [await one.open(KEY, TEXTS), await two.open(KEY, TEXTS)] as const;
  const writes = Array.from({ length: 10 }, (_, n) => lists[n % 2]?.write(added(String(n))));
  await Promise.all(writes);
  await until("ten at the store", () => stored().length === 10);
  for (const list of lists) await untilEqual(stored(), () => list.state);
  assert.deepEqual(store.events(KEY).map((event) => event.sequence), writes.map((_, n) => n + 1));
  assert.deepEqual([one.status.leading, two.status.leading], [true, false]);
  assert.equal(store.feeds.size, 1, "one feed for both");
  one.close();
  await until("the other leads", () => two.status.leading);
  await lists[1].write(added("after"));
  await untilEqual("after", () => stored().at(-1));
  await untilEqual(stored(), () => lists[1].state);
});

test("a tab that does not lead knows how things are", async () => {
  const device = browser();
  const [one, two] = [await device.tab(), await device.tab()];
  await one.open(KEY, TEXTS);
  await until("connected", () => one.status.connected && two.status.connected);
  const three = await device.tab();
  await until("told", () => three.status.connected);
  store.down = true;
  store.cut();
  await until("disconnected", () => !two.status.connected && !three.status.connected);
});

test("an aggregate that only another tab has open is followed", async () => {
  const device = browser();
  const [, two] = [await device.tab(), await device.tab()];
  const list = await two.open(KEY, TEXTS);
  store.append(KEY, "Added", { text: "theirs" });
  await untilEqual(["theirs"], () => list.state);
  list.close();
  await until("not followed any more", () => store.feeds.size === 0);
});

test("a tab that takes over follows what others have open", async () => {
  const device = browser();
  const [one, two, three] = [await device.tab(), await device.tab(), await device.tab()];
  const list = await three.open(KEY, TEXTS);
  await until("followed", () => store.feeds.size === 1);
  one.close();
  await until("the second leads", () => two.status.leading);
  store.append(KEY, "Added", { text: "theirs" });
  await untilEqual(["theirs"], () => list.state);
});

test("what is on its way is followed until it has come back, open or not", async () => {
  store.down = true;
  const replica = await browser().tab();
  const list = await replica.open(KEY, TEXTS);
  await list.write(added("milk"));
  list.close();
  store.down = false;
  await until("sent", hasSent(replica));
  await until("come back", () => list.refresh().then(() => list.pending.length === 0));
  assert.deepEqual(list.state, ["milk"]);
  await until("not followed any more", () => store.feeds.size === 0);
});

test("two devices converge", async () => {
  const [one, two] = [await browser().tab(), await browser().tab()];
  const lists = [await one.open(KEY, TEXTS), await two.open(KEY, TEXTS)] as const;
  store.down = true;
  store.cut();
  await lists[0].write(added("from one"));
  await lists[1].write(added("from two"));
  store.down = false;
  await until("both at the store", () => stored().length === 2);
  for (const list of lists) await untilEqual(stored(), () => list.state);
});

test("feeds are resumed, not told from the start", async () => {
  const replica = await browser().tab();
  const list = await replica.open(KEY, TEXTS);
  await list.write(added("milk"));
  await untilEqual(["milk"], () => list.state);
  store.cut();
  store.append(KEY, "Added", { text: "eggs" });
  await untilEqual(["milk", "eggs"], () => list.state);
  assert.equal(store.opened[0], `${KEY} start`);
  assert.match(store.opened[1] ?? "", /^acme\/list\/groceries \d+$/);
});

test("the network's return ends a long pause", async () => {
  store.down = true;
  const device = browser();
  const replica = await device.tab({ pace: { backoff: { minMs: 60_000, maxMs: 60_000 } } });
  const list = await replica.open(KEY, TEXTS);
  await list.write(added("milk"));
  await until("a failure", () => replica.status.problem?.error === "Unreachable");
  for (const text of ["eggs", "bread", "tea"]) await list.write(added(text));
  assert.ok(store.attempts <= 2, `one feed, one request: ${store.attempts}`);
  store.down = false;
  device.online();
  await untilEqual(["milk", "eggs", "bread", "tea"], () => list.state);
});

test("a feed that connects ends a long pause", async () => {
  const denied = problemOf("Unauthenticated", "never");
  store.answer = () => json(401, denied);
  const replica = await browser().tab({ pace: { backoff: { minMs: 60_000, maxMs: 60_000 } } });
  const list = await replica.open(KEY, TEXTS);
  await until("connected", () => replica.status.connected);
  await list.write(added("milk"));
  await until("refused", () => replica.status.problem?.error === "Unauthenticated");
  store.answer = () => undefined;
  await replica.open("acme/list/other", TEXTS);
  await untilEqual(["milk"], () => list.state);
});

test("with more open aggregates than connections, all are told", async () => {
  const replica = await browser().tab({ pace: { streams: 2, turnMs: 5 } });
  const keys = ["a", "b", "c", "d", "e"].map((id) => `acme/list/${id}`);
  const lists = await Promise.all(keys.map((key) => replica.open(key, TEXTS)));
  for (const round of ["1", "2"]) {
    for (const key of keys) store.append(key, "Added", { text: round });
    for (const list of lists) await until(`${list.key} ${round}`, () => list.state.includes(round));
    assert.ok(store.feeds.size <= 2);
  }
});
