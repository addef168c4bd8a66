/** The tables by themselves. */
import "fake-indexeddb/auto";
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Event } from "../../src/index.js";
import { TABLES, openDatabase, result, transact } from "../../src/replica/database.js";
import { Store } from "../../src/replica/store.js";
import { freshName } from "../support/device.js";

const KEY = "a/b/c";

async function told(count: number): Promise<Store> {
  const store = new Store(await openDatabase(freshName()));
  const events = Array.from({ length: count }, (_, n) => (
    { key: KEY, version: n + 1, stamp: n + 1, client_id: null } as Event
  ));
  const to = { since: 0, cursor: count, caughtUp: true };
  await store.advance(KEY, { kind: "told", clientId: "me", events, ...to });
  return store;
}

const snapshot = (version: number) => ({ key: KEY, label: "1", version, state: version });

test("a snapshot that is outdated is not kept", async () => {
  const store = await told(5);
  await store.keepSnapshot(snapshot(4), 0);
  await store.keepSnapshot(snapshot(3), 0);
  assert.equal((await store.read(KEY, 0)).snapshot?.version, 4, "there is a newer one");
  await store.forget(KEY, false);
  await store.keepSnapshot(snapshot(5), 0);
  assert.equal((await store.read(KEY, 0)).snapshot, undefined, "it was forgotten meanwhile");
});

test("a snapshot of what was deleted meanwhile is not kept", async () => {
  const store = await told(5);
  await store.keepSnapshot(snapshot(3), 0);
  await store.advance(KEY, { kind: "deleted", version: 5, since: 5, cursor: 9 });
  await store.keepSnapshot(snapshot(5), 0);
  const { snapshot: kept, events, record } = await store.read(KEY, 0);
  assert.deepEqual([kept, events, record.version], [undefined, [], 5]);
});

test("what is behind a snapshot is read, and nothing before", async () => {
  const store = await told(5);
  await store.keepSnapshot(snapshot(3), 0);
  const versions = async (above: number) => {
    const local = await store.read(KEY, above);
    return [local.snapshot?.version, ...local.events.map((event) => event.version)];
  };
  assert.deepEqual(await versions(0), [3, 4, 5]);
  assert.deepEqual(await versions(4), [undefined, 5]);
});

test("a transaction that fails leaves nothing behind", async () => {
  const database = await openDatabase(freshName());
  const failed = transact(database, [TABLES.aggregates], "readwrite", async (table) => {
    await result(table(TABLES.aggregates).put({ key: KEY }));
    throw new Error("half way");
  });
  await assert.rejects(failed, /half way/);
  const count = await transact(database, [TABLES.aggregates], "readonly", (table) =>
    result(table(TABLES.aggregates).count()));
  assert.equal(count, 0);
});

test("a device stays who it is", async () => {
  const name = freshName();
  const ids = [];
  for (let n = 0; n < 2; n += 1) {
    const store = new Store(await openDatabase(name));
    ids.push((await store.device()).clientId);
    store.close();
  }
  assert.equal(ids[0], ids[1]);
});
