/** The calls against the real server. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, before, test } from "node:test";
import { CeleriantError, Client, told, type Event, type FollowMessage } from "../../src/index.js";
import { Node } from "../support/node.js";

const CLIENT_ID = "00000000-0000-4000-8000-000000000007";
let node: Node;

before(async () => {
  node = await Node.start("http://127.0.0.1:1");
});

after(() => node.stop());

async function all(events: AsyncIterable<Event>): Promise<unknown[]> {
  const data: unknown[] = [];
  for await (const event of events) data.push(event.data);
  return data;
}

test("the committed openapi.json is what the server says", async () => {
  const file = new URL("../../../openapi.json", import.meta.url);
  const committed: unknown = JSON.parse(await readFile(file, "utf8"));
  const response = await fetch(`${node.url}/openapi.json`);
  assert.deepEqual(committed, await response.json());
});

test("append, write, read, head and list", async () => {
  const { client } = node;
  const key = "acme/account/Ünï cödé?#";
  const event = (amount: number) => ({ type: "Paid", data: { amount } });
  const once = { clientId: CLIENT_ID, sequence: 1 };
  const receipt = await client.append(key, [event(1), event(2)], { expect: "none", ...once });
  assert.deepEqual(receipt.writes.map((one) => [one.key, one.last_version]), [[key, 2]]);
  const again = await client.append(key, [event(1), event(2)], { expect: "none", ...once });
  assert.deepEqual(again, { ...receipt, already_applied: true });
  const other = { key: "acme/account/b", events: [event(4)] };
  const parts = [{ key, expect: 2, events: [event(3)] }, other];
  assert.equal((await client.write(parts)).writes.length, 2);
  const data = [1, 2, 3].map((amount) => ({ amount }));
  assert.deepEqual(await all(client.events(key, { limit: 1 })), data);
  assert.deepEqual(await all(client.events(key, { backwards: true })), data.toReversed());
  assert.deepEqual(await all(client.events(key, { clientId: CLIENT_ID })), data.slice(0, 2));
  const head = await client.head(key, { clientId: CLIENT_ID });
  assert.deepEqual([head.version, head.last_sequence], [3, 1]);
  assert.deepEqual((await client.orgs()).names, ["acme"]);
  assert.deepEqual((await client.types("acme")).names, ["account"]);
  const page = await client.aggregates("acme", "account", { limit: 1 });
  const rest = await client.aggregates("acme", "account", { after: page.next ?? "" });
  assert.deepEqual([...page.names, ...rest.names].sort(), ["b", "Ünï cödé?#"].sort());
  const feed = await client.feed("acme", { after: receipt.stamp });
  assert.deepEqual(feed.events.map((one) => one.data), [{ amount: 3 }, { amount: 4 }]);
});

test("a refusal comes with its fields", async () => {
  const key = "acme/account/refused";
  const failed = node.client.append(key, [{ type: "T", data: 1 }], { expect: 5 });
  const error = await failed.catch((thrown: unknown) => thrown);
  assert.ok(error instanceof CeleriantError);
  assert.deepEqual([error.error, error.retry, error.definite], ["Conflict", "after_reading", true]);
  assert.deepEqual(error.problem["conflicts"],
    [{ key, expected: 5, actual: 0, already_applied: null }]);
  await assert.rejects(node.client.read(key), { error: "NotFound" });
});

/** What was told besides events and connections, in order. */
const changes = (messages: readonly FollowMessage[]): unknown[] => messages.flatMap((one) => {
  if (one.kind === "event") return [one.event.version as unknown];
  return one.kind === "notice" ? [one.notice.notice] : [];
});

test("what is deleted and trimmed is gone, and feeds tell of it in order", async () => {
  const { client } = node;
  const key = "taken/account/one";
  for (const data of [1, 2, 3]) await client.append(key, [{ type: "T", data }]);
  const refused = await client.trim(key, 2, { expect: 7 }).catch((thrown: unknown) => thrown);
  assert.ok(refused instanceof CeleriantError && refused.status === 409);
  await client.trim(key, 3, { expect: 3 });
  assert.deepEqual(await all(client.events(key)), [3]);
  await assert.rejects(client.read(key, { from: 2 }), { error: "Trimmed" });
  const failed = await client.deleteAggregate(key, { expect: 2 }).catch((thrown: unknown) => thrown);
  assert.ok(failed instanceof CeleriantError && failed.status === 412);
  const named = { expect: 3, idempotencyKey: "away with it" };
  const deleted = await client.deleteAggregate(key, named);
  assert.equal((await client.deleteAggregate(key, named)).stamp, deleted.stamp);
  await assert.rejects(client.read(key), { error: "Deleted" });
  assert.equal((await client.head(key)).deleted, true);
  await client.append(key, [{ type: "T", data: 4 }], { expect: "none" });
  const page = told(await client.feed("taken"));
  assert.deepEqual(changes(page), ["trimmed", "deleted", 4]);
  const followed: FollowMessage[] = [];
  for await (const message of client.follow("taken", { from: "start" })) {
    if (message.kind === "checkpoint" && message.caughtUp) break;
    followed.push(message);
  }
  assert.deepEqual(changes(followed), changes(page));
  const bare = await client.feed("taken", { headersOnly: true });
  assert.deepEqual(bare.events.map((one) => [one.version, one.data, one.data_base64]),
    [[4, undefined, ""]]);
  await client.write([{ key, expect: 4, delete: { recreate: false } }]);
  const late = client.append(key, [{ type: "T", data: 5 }]);
  await assert.rejects(late, { error: "Deleted", retry: "never" });
  const writes = [{ key, sequence: 1, events: [{ type: "T", data: 6 }] }];
  const [result] = await client.sync(CLIENT_ID, writes);
  assert.ok(result?.status === "invalid" && result.problem.error === "Deleted");
});

test("a feed goes on over a server that is killed", async () => {
  const key = "acme/account/followed";
  const append = (data: number) => node.client.append(key, [{ type: "T", data }]);
  await append(1);
  const abort = new AbortController();
  const backoff = { minMs: 20, maxMs: 100 };
  const feed = node.client.follow(key, { from: "start", signal: abort.signal, backoff });
  const told: unknown[] = [];
  let wasCutOff = false;
  for await (const message of feed) {
    if (message.kind === "disconnected") wasCutOff = true;
    if (message.kind === "event") told.push(message.event.data);
    if (message.kind !== "checkpoint") continue;
    if (told.length === 3) break;
    if (told.length === 2) {
      await node.kill();
      await node.start();
    }
    await append(told.length + 1);
  }
  abort.abort();
  assert.deepEqual(told, [1, 2, 3]);
  assert.ok(wasCutOff);
});

test("a device's writes have a result each", async () => {
  const write = (key: string, sequence: number, expect: number | "any") =>
    ({ key, sequence, expect, events: [{ type: "T", data: sequence }] });
  const [a, b] = ["acme/list/a", "acme/list/b"];
  await node.client.append(a, [{ type: "T", data: "theirs" }]);
  const writes = [write(a, 1, "any"), write(a, 2, 1), write(a, 3, "any"), write(b, 1, "any")];
  const first = await node.client.sync(CLIENT_ID, writes);
  assert.deepEqual(first.map((one) => one.status), ["accepted", "conflict", "held", "accepted"]);
  const conflict = first[1];
  assert.ok(conflict?.status === "conflict");
  assert.deepEqual(conflict.missed.map((one) => one.data), [1]);
  assert.deepEqual((conflict.problem["conflicts"] as object[]).map((one) => ({ ...one })),
    [{ key: a, expected: 1, actual: 2, already_applied: null }]);
  const again = await node.client.sync(CLIENT_ID, [write(a, 1, "any"), write(a, 5, "any")]);
  assert.deepEqual(again.map((one) => one.status), ["already_applied", "invalid"]);
  assert.ok(again[1]?.status === "invalid" && again[1].problem.error === "SequenceGap");
});

test("what a schema refuses has the path of the field", async () => {
  const amount = { type: "number", minimum: 1 };
  await node.registerSchema("strict/account", "Paid@1.0", { properties: { amount } });
  const key = "strict/account/one";
  const events = [{ type: "Paid", data: { amount: 0 } }];
  const [result] = await node.client.sync(CLIENT_ID, [{ key, sequence: 1, events }]);
  assert.ok(result?.status === "invalid");
  const { error, path, event } = result.problem as Record<string, unknown>;
  assert.deepEqual([error, path, event], ["SchemaViolation", "/amount", 0]);
});

test("a page has a token in place of its backend's key, also in an EventSource's address", async () => {
  const made = await fetch(`${node.url}/v1/keys`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ name: "backend", grants: ["shop:*:all"] }),
  });
  const { key } = (await made.json()) as { key: string };
  const backend = new Client({
    url: node.url, headers: () => ({ authorization: `Bearer ${key}` }),
  });
  const asked = { selectors: ["shop/cart/1"], rights: ["read", "append", "watch"] as const };
  const lent = await backend.makeToken({ ...asked, clientId: CLIENT_ID });
  const page = new Client({ url: node.url, token: () => lent.token });
  const once = { clientId: CLIENT_ID, sequence: 1 };
  await page.append("shop/cart/1", [{ type: "Put", data: 1 }], once);
  assert.deepEqual(await all(page.events("shop/cart/1")), [1]);
  const denied = { error: "PermissionDenied" };
  await assert.rejects(page.append("shop/cart/2", [{ type: "Put", data: 1 }], once), denied);
  await assert.rejects(page.append("shop/cart/1", [{ type: "Put", data: 1 }]), denied);
  await assert.rejects(page.types("shop"), denied);
  await assert.rejects(page.makeToken(asked), { error: "Unauthenticated" });
  const stop = new AbortController();
  const address = await page.watchAddress("shop/cart/1", { from: "start" });
  const stream = await fetch(address, { signal: stop.signal });
  assert.equal(stream.status, 200);
  stop.abort();
  assert.equal((await fetch(await page.watchAddress("shop"))).status, 403);
});
