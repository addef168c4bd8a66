/** How much a device keeps. */
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { Replica, type Fold, type OpenOptions } from "../../src/index.js";
import { TABLES, openDatabase, result, transact } from "../../src/replica/database.js";
import { Browser, TEXTS } from "../support/device.js";
import { StubStore } from "../support/stub-store.js";
import { until, untilEqual } from "../support/until.js";

const KEY = "acme/list/groceries";
const EVERY_TEN: OpenOptions = { snapshot: { label: "1", every: 10 } };

let store: StubStore;
let device: Browser;

beforeEach(() => {
  store = new StubStore();
  device = new Browser(store);
});

afterEach(() => device.close());

function append(count: number): void {
  for (let n = 0; n < count; n += 1) {
    store.append(KEY, "Added", { text: String(store.events(KEY).length) });
  }
}

const stored = () => store.texts(KEY);

/** Rows in a table of the device. */
async function rows(table: string): Promise<number> {
  const database = await openDatabase(device.name);
  const count = await transact(database, [table], "readonly", (of) => result(of(table).count()));
  database.close();
  return count;
}

test("a snapshot takes the place of events, and is enough to start from offline", async () => {
  const first = await device.tab();
  const list = await first.open(KEY, TEXTS, EVERY_TEN);
  for (let round = 0; round < 5; round += 1) {
    append(7);
    await untilEqual(stored(), () => list.state);
  }
  await until("few events", async () => (await rows(TABLES.events)) < 10);
  first.close();
  store.down = true;
  const second = await device.tab();
  assert.deepEqual((await second.open(KEY, TEXTS, EVERY_TEN)).state, stored());
});

test("a snapshot of other code is not used: everything is told from the start", async () => {
  const first = await device.tab();
  const list = await first.open(KEY, TEXTS, EVERY_TEN);
  append(12);
  await untilEqual(stored(), () => list.state);
  await until("a snapshot", async () => (await rows(TABLES.snapshots)) === 1);
  const second = await device.tab();
  const other = { snapshot: { label: "2", every: 10 } };
  const loud: Fold<string[]> = {
    initial: [],
    apply: (state, event) => [...state, `${(event.data as { text: string }).text}!`],
  };
  const again = await second.open(KEY, loud, other);
  const cried = () => stored().map((text) => `${text}!`);
  await untilEqual(cried(), () => again.state);
  append(1);
  await untilEqual(cried(), () => again.state);
  await untilEqual(stored(), () => list.state);
});

test("a tab that missed the events goes on from the other's snapshot", async () => {
  const [one, two] = [await device.tab(), await device.tab()];
  const lists = [
    await one.open(KEY, TEXTS, EVERY_TEN), await two.open(KEY, TEXTS, EVERY_TEN),
  ] as const;
  for (let round = 0; round < 10; round += 1) append(15);
  for (const list of lists) await untilEqual(stored(), () => list.state);
});

test("without snapshots every event is kept", async () => {
  const replica = await device.tab();
  const list = await replica.open(KEY, TEXTS);
  append(30);
  await untilEqual(stored(), () => list.state);
  assert.equal(await rows(TABLES.events), 30);
});

test("a device's data can be taken off it", async () => {
  store.down = true;
  const replica = await device.tab();
  await (await replica.open(KEY, TEXTS)).write({ type: "Added", data: { text: "mine" } });
  replica.close();
  await Replica.destroy(device.name);
  const fresh = await device.tab();
  assert.deepEqual((await fresh.open(KEY, TEXTS)).state, []);
  assert.notEqual(fresh.clientId, replica.clientId);
});
