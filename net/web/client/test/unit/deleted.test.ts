/** What the store deleted, and what becomes of it on a device. */
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import type { OpenOptions } from "../../src/index.js";
import { TABLES, openDatabase, result, transact } from "../../src/replica/database.js";
import { Browser, TEXTS } from "../support/device.js";
import { StubStore } from "../support/stub-store.js";
import { until, untilEqual } from "../support/until.js";

const KEY = "acme/list/groceries";
const EVERY_TWO: OpenOptions = { snapshot: { label: "1", every: 2 } };
const added = (text: string) => ({ type: "Added", data: { text } });

let store: StubStore;
let device: Browser;

beforeEach(() => {
  store = new StubStore();
  device = new Browser(store);
  for (const text of ["one", "two"]) store.append(KEY, "Added", { text });
});

afterEach(() => device.close());

/** What the device keeps of events and of states made of them. */
async function kept(): Promise<number> {
  const database = await openDatabase(device.name);
  const tables = [TABLES.events, TABLES.snapshots];
  const counts = await transact(database, tables, "readonly", async (of) => {
    const [events, snapshots] = tables.map((name) => result(of(name).count()));
    return (await events as number) + (await snapshots as number);
  });
  database.close();
  return counts;
}

test("what was deleted is let go of, in every tab, and goes on behind it", async () => {
  const replicas = [await device.tab(), await device.tab()];
  const lists = await Promise.all(replicas.map((replica) => replica.open(KEY, TEXTS)));
  for (const list of lists) await untilEqual(["one", "two"], () => list.state);
  store.delete(KEY);
  for (const list of lists) {
    await until("deleted", () => list.deleted);
    assert.deepEqual([list.state, list.version], [[], 2]);
  }
  assert.equal(await kept(), 0);
  store.append(KEY, "Added", { text: "three" });
  for (const list of lists) {
    await untilEqual(["three"], () => list.state);
    assert.deepEqual([list.deleted, list.version], [false, 3]);
  }
});

test("a deletion is noticed later by a device that was away, its snapshot goes, too", async () => {
  const first = await device.tab();
  const list = await first.open(KEY, TEXTS, EVERY_TWO);
  await untilEqual(["one", "two"], () => list.state);
  await until("a snapshot", async () => (await kept()) === 1);
  first.close();
  store.delete(KEY);
  const second = await device.tab();
  const again = await second.open(KEY, TEXTS, EVERY_TWO);
  await until("deleted", () => again.deleted);
  assert.deepEqual(again.state, []);
  assert.equal(await kept(), 0);
  second.close();
  store.down = true;
  const third = await device.tab();
  const offline = await third.open(KEY, TEXTS, EVERY_TWO);
  assert.deepEqual([offline.state, offline.deleted, offline.version], [[], true, 2]);
});

test("what was not sent begins it anew, under the next sequence", async () => {
  const replica = await device.tab();
  const list = await replica.open(KEY, TEXTS);
  await list.write(added("mine"));
  await untilEqual(["one", "two", "mine"], () => list.state);
  store.delete(KEY);
  await until("deleted", () => list.deleted);
  await list.write(added("anew"), { expect: "seen" });
  await untilEqual(["anew"], () => list.state);
  assert.deepEqual(store.events(KEY).map((one) => [one.version, one.sequence]), [[4, 2]]);
  assert.equal(replica.status.conflicts, 0);
});

test("an event for what takes none ever again is refused for good, and can be seen", async () => {
  const replica = await device.tab();
  const list = await replica.open(KEY, TEXTS);
  await untilEqual(["one", "two"], () => list.state);
  store.down = true;
  for (const text of ["mine", "mine, too"]) await list.write(added(text));
  store.delete(KEY, false);
  store.down = false;
  await until("refused", () => replica.status.refused === 2);
  await untilEqual([], () => list.state);
  const letters = await replica.letters();
  assert.deepEqual(letters.map((letter) => letter.problem.error), ["Deleted", "Deleted"]);
  assert.equal(replica.status.unsent, 0);
});
