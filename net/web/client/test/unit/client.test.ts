import assert from "node:assert/strict";
import { test } from "node:test";
import { CeleriantError, Client, told, type Feed } from "../../src/index.js";

interface Seen {
  url: string;
  init: RequestInit;
}

/** A client of a store that gives these answers, and what it was asked. */
function clientOf(...answers: Response[]): { client: Client; seen: Seen[] } {
  const seen: Seen[] = [];
  const fake: typeof fetch = async (input, init = {}) => {
    seen.push({ url: String(input), init });
    const answer = answers.shift();
    if (answer === undefined) throw new TypeError("fetch failed");
    return answer;
  };
  let token = 0;
  const headers = () => ({ authorization: `Bearer ${++token}` });
  return { client: new Client({ url: "http://db:1/", headers, fetch: fake }), seen };
}

function problem(status: number, fields: object, headers = {}): Response {
  const type = { "content-type": "application/problem+json" };
  return new Response(JSON.stringify(fields), { status, headers: { ...type, ...headers } });
}

const CONFLICT = {
  error: "Conflict", code: 2003, retry: "after_reading", definite: true, message: "no",
  title: "Conflict", status: 409, conflicts: [{ key: "a/b/c", expected: 4, actual: 5 }],
};

test("names are percent-encoded, and what would be another address is refused", async () => {
  const { client, seen } = clientOf(Response.json({}), Response.json({ types: ["t"], next: null }));
  await client.head("acme/li st/ü?#%");
  assert.equal(seen[0]?.url, "http://db:1/v1/aggregates/acme/li%20st/%C3%BC%3F%23%25/head");
  assert.deepEqual(await client.types("a&b"), { names: ["t"], next: null });
  assert.equal(seen[1]?.url, "http://db:1/v1/orgs/a%26b/types");
  for (const key of ["a/b", "a/b/c/d", "a/../c", "a//c", "./b/c"]) {
    assert.throws(() => client.head(key), RangeError, key);
  }
  assert.equal(seen.length, 2);
});

test("an append says what must hold and whose it is, with headers of the moment", async () => {
  const { client, seen } = clientOf(Response.json({}), Response.json({}));
  const options = { expect: 4, clientId: "u", sequence: 7 };
  await client.append("a/b/c", [{ type: "T", data: 1 }], options);
  await client.append("a/b/c", [{ type: "T", data: 1 }], { idempotencyKey: "once" });
  const headers = seen.map(({ init }) => Object.fromEntries(new Headers(init.headers)));
  const type = "application/json";
  assert.deepEqual(headers, [
    {
      authorization: "Bearer 1", "content-type": type, "celeriant-client-id": "u",
      "celeriant-sequence": "7",
    },
    { authorization: "Bearer 2", "content-type": type, "idempotency-key": "once" },
  ]);
  assert.equal(seen[0]?.init.body, '{"events":[{"type":"T","data":1}],"expect":4}');
  assert.equal(seen[1]?.init.body, '{"events":[{"type":"T","data":1}]}');
});

test("events are read page after page, forwards and backwards", async () => {
  const page = (version: number, next: number | null) =>
    Response.json({ stamp: 9, next, events: [{ version }] });
  const { client, seen } = clientOf(page(1, 2), page(2, null), page(2, 1), page(1, null));
  const versions: number[] = [];
  for await (const event of client.events("a/b/c", { any: true })) versions.push(event.version);
  for await (const event of client.events("a/b/c", { backwards: true, types: ["A", "B"] })) {
    versions.push(event.version);
  }
  assert.deepEqual(versions, [1, 2, 2, 1]);
  assert.deepEqual(seen.map(({ url }) => new URL(url).search), [
    "?any=1", "?any=1&from=2&min_stamp=9",
    "?backwards=1&types=A%2CB", "?backwards=1&types=A%2CB&to=1",
  ]);
});

test("a refusal is one error with all its fields", async () => {
  const { client } = clientOf(problem(409, CONFLICT, { "retry-after": "2" }));
  const error = await client.append("a/b/c", []).catch((thrown: unknown) => thrown);
  assert.ok(error instanceof CeleriantError);
  const { retry, code, status, definite, retryAfterMs } = error;
  assert.deepEqual([error.error, retry, code, status, definite, retryAfterMs],
    ["Conflict", "after_reading", 2003, 409, true, 2000]);
  assert.deepEqual(error.problem["conflicts"], CONFLICT.conflicts);
});

test("what is no answer of a store is told apart by whether it may pass", async () => {
  const page = new Response("<h1>Bad gateway", { status: 502 });
  const { client } = clientOf(page, new Response("", { status: 404 }));
  const failure = () => client.orgs().catch((error: CeleriantError) => error);
  const told = [await failure(), await failure(), await failure()] as CeleriantError[];
  assert.deepEqual(told.map((error) => [error.error, error.retry, error.status]), [
    ["UnexpectedAnswer", "same", 502], ["UnexpectedAnswer", "never", 404],
    ["Unreachable", "same", 0],
  ]);
});

test("a call ends by its time limit or its signal", async () => {
  const never: typeof fetch = () => new Promise(() => undefined);
  const client = new Client({ url: "http://db", fetch: never, timeoutMs: 5 });
  await assert.rejects(client.orgs(), { error: "DeadlineExceeded", retry: "same" });
  const reason = new Error("left");
  const abort = new AbortController();
  const obedient: typeof fetch = (_, init) => new Promise((_, reject) => {
    init?.signal?.addEventListener("abort", () => reject(init.signal?.reason));
  });
  const patient = new Client({ url: "http://db", fetch: obedient });
  const call = patient.orgs({ signal: abort.signal });
  abort.abort(reason);
  await assert.rejects(call, reason);
  await assert.rejects(patient.orgs({ signal: abort.signal }), reason, "from the start");
});

test("a deletion says everything in its head, a trim its condition in the body", async () => {
  const { client, seen } = clientOf(...Array.from({ length: 4 }, () => Response.json({})));
  const options = { expect: 4, clientId: "u", sequence: 7, neverRecreate: true };
  await client.deleteAggregate("a/b/ü", options);
  await client.deleteAggregate("a/b/c", { expect: "exists", forgetSequences: true });
  await client.deleteAggregate("a/b/c");
  await client.trim("a/b/c", 5, { expect: 9, idempotencyKey: "once" });
  const asked = seen.map(({ url, init }) => {
    const { authorization: _, ...headers } = Object.fromEntries(new Headers(init.headers));
    return [init.method, url.slice("http://db:1/v1/aggregates/".length), headers, init.body];
  });
  const named = { "celeriant-client-id": "u", "celeriant-sequence": "7" };
  assert.deepEqual(asked, [
    ["DELETE", "a/b/%C3%BC?never_recreate=1", { ...named, "if-match": '"4"' }, undefined],
    ["DELETE", "a/b/c?forget_sequences=1", { "if-match": "*" }, undefined],
    ["DELETE", "a/b/c", {}, undefined],
    ["POST", "a/b/c/trim", { "content-type": "application/json", "idempotency-key": "once" },
      '{"keep_from":5,"expect":9}'],
  ]);
});

test("a page of a feed is told in the order in which it happened", () => {
  const events = [{ stamp: 1 }, { stamp: 4 }];
  const notices = [{ stamp: 2, notice: "trimmed" }, { stamp: 7, notice: "deleted" }];
  const changes = told({ events, notices } as Feed);
  assert.deepEqual(changes.map((one) => [one.kind, one.stamp]),
    [["event", 1], ["notice", 2], ["event", 4], ["notice", 7]]);
});

test("a token is sent with every request, and is in the address of an EventSource only", async () => {
  const seen: Seen[] = [];
  const fake: typeof fetch = async (url, init = {}) => {
    seen.push({ url: String(url), init });
    return Response.json({});
  };
  let count = 0;
  const headers = () => ({ authorization: "Bearer other", "x-mine": "1" });
  const renewed = new Client({
    url: "http://db/", fetch: fake, headers, token: async () => `t.${++count}_-`,
  });
  await renewed.head("a/b/c");
  await renewed.head("a/b/c");
  const sent = seen.map(({ init }) => Object.fromEntries(new Headers(init.headers)));
  assert.deepEqual(sent, [
    { authorization: "Bearer t.1_-", "x-mine": "1" },
    { authorization: "Bearer t.2_-", "x-mine": "1" },
  ]);
  assert.ok(seen.every(({ url }) => !url.includes("t.")));
  const address = await renewed.watchAddress("a/b", { from: 7, types: ["T", "U"] });
  assert.equal(address, "http://db/v1/watch?selector=a%2Fb&from=7&types=T%2CU&token=t.3_-");
  const plain = new Client({ url: "http://db", fetch: fake, token: "same" });
  await plain.makeToken({ selectors: ["a/b"], rights: ["read"], clientId: "u", seconds: 60 });
  assert.equal(new Headers(seen[2]?.init.headers).get("authorization"), "Bearer same");
  assert.equal(
    seen[2]?.init.body, '{"selectors":["a/b"],"rights":["read"],"seconds":60,"client_id":"u"}',
  );
  const nobody = new Client({ url: "http://db", fetch: fake });
  assert.equal(await nobody.watchAddress("a"), "http://db/v1/watch?selector=a");
});
