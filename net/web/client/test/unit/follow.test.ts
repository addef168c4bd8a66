import assert from "node:assert/strict";
import { test } from "node:test";
import { Client, type FollowMessage } from "../../src/index.js";
import { json, problemOf } from "../support/stub-store.js";

type Script = string | Response;

const EVENT = 'id: 7\nevent: append\ndata: {"version":1}\n\n';
const CHECKPOINT = 'id: 9\nevent: checkpoint\ndata: {"checkpoint":9,"caught_up":true}\n\n';

/** What is followed of a store that gives these streams, one for each connection; `…` at the end of
 * one keeps it open. */
function following(scripts: Script[], options = {}, token?: () => string) {
  const asked: string[] = [];
  const abort = new AbortController();
  const fake: typeof fetch = async (input, init = {}) => {
    const last = new Headers(init.headers).get("last-event-id");
    asked.push(`${new URL(String(input)).search} ${last}`);
    const script = scripts.shift() ?? "…";
    if (script instanceof Response) return script;
    const body = new ReadableStream<Uint8Array>({
      start: (controller) => {
        controller.enqueue(new TextEncoder().encode(script.replace("…", "")));
        if (!script.endsWith("…")) controller.close();
        init.signal?.addEventListener("abort", () => controller.error(init.signal?.reason));
      },
    });
    return new Response(body);
  };
  const shown = token === undefined ? {} : { token };
  const client = new Client({ url: "http://db", fetch: fake, ...shown });
  const backoff = { minMs: 1, maxMs: 2 };
  const { signal } = abort;
  const messages = client.follow("a/b/c", { from: "start", signal, backoff, ...options });
  const next = async (): Promise<FollowMessage> => (await messages.next()).value;
  return { next, asked, abort };
}

test("a feed goes on behind the last stamp when it is cut off", async () => {
  const { next, asked } = following([`${EVENT}id: 8\nevent: app`, `${CHECKPOINT}…`]);
  assert.deepEqual(await next(), { kind: "connected" });
  assert.deepEqual(await next(), { kind: "event", stamp: 7, event: { version: 1 } });
  assert.equal((await next()).kind, "disconnected");
  assert.deepEqual(await next(), { kind: "connected" });
  assert.deepEqual(await next(), { kind: "checkpoint", stamp: 9, caughtUp: true });
  assert.deepEqual(asked, ["?selector=a%2Fb%2Fc&from=start null",
    "?selector=a%2Fb%2Fc&from=start 7"]);
});

test("what was deleted and trimmed is told in its place, and gone on behind", async () => {
  const trimmed = { notice: "trimmed", key: "a/b/c", first_available: 2, stamp: 8 };
  const deleted = { notice: "deleted", key: "a/b/c", version: 3, recreate: true, stamp: 9 };
  const lines = [trimmed, deleted].map(
    (one) => `id: ${one.stamp}\nevent: ${one.notice}\ndata: ${JSON.stringify(one)}\n\n`,
  );
  const { next, asked } = following([`${EVENT}${lines.join("")}`]);
  await next();
  assert.equal((await next()).kind, "event");
  assert.deepEqual(await next(), { kind: "notice", stamp: 8, notice: trimmed });
  assert.deepEqual(await next(), { kind: "notice", stamp: 9, notice: deleted });
  assert.equal((await next()).kind, "disconnected");
  await next();
  assert.deepEqual(asked.at(-1), "?selector=a%2Fb%2Fc&from=start 9");
});

test("a connection that is silent for too long is given up", async () => {
  const { next, asked } = following([`${EVENT}…`], { heartbeatTimeoutMs: 20 });
  await next();
  await next();
  const message = await next();
  assert.ok(message.kind === "disconnected" && /silent/.test(message.error.message));
  assert.deepEqual(await next(), { kind: "connected" });
  assert.equal(asked.length, 2);
});

test("heartbeats keep a connection, whatever they say", async () => {
  let beats = 0;
  const body = new ReadableStream<Uint8Array>({
    pull: async (controller) => {
      await new Promise((resolve) => setTimeout(resolve, 15));
      beats += 1;
      const text = beats < 5 ? ": nothing new\n\n" : CHECKPOINT;
      controller.enqueue(new TextEncoder().encode(text));
    },
  });
  const { next, asked } = following([new Response(body)], { heartbeatTimeoutMs: 60 });
  await next();
  assert.equal((await next()).kind, "checkpoint");
  assert.equal(asked.length, 1);
});

test("what the store says to be final ends it, anything else does not", async () => {
  const unavailable = json(503, problemOf("NoLeader", "same"));
  const told = `event: problem\ndata: ${JSON.stringify(problemOf("Internal", "same"))}\n\n`;
  const denied = json(403, problemOf("PermissionDenied", "never"));
  const { next } = following([unavailable, told, denied]);
  const first = await next();
  assert.ok(first.kind === "disconnected" && first.error.error === "NoLeader");
  await next();
  const second = await next();
  assert.ok(second.kind === "disconnected" && second.error.error === "Internal");
  await assert.rejects(next(), { error: "PermissionDenied" });
});

test("a feed waits as long as the store asks before it comes back", async () => {
  const { next } = following(["retry: 300\n\n"]);
  await next();
  const message = await next();
  assert.ok(message.kind === "disconnected" && message.retryInMs === 300);
});

test("a follower that leaves is gone", async () => {
  const { next, abort } = following([`${EVENT}…`]);
  await next();
  await next();
  const waiting = next();
  abort.abort(new Error("left"));
  await assert.rejects(waiting, /left/);
});

test("a token that is over while a feed is followed is exchanged, one that never was is not", async () => {
  const over = { error: "Unauthenticated", retry: "never", message: "the token is over" };
  const ends = `${EVENT}event: problem\ndata: ${JSON.stringify(over)}\n\n`;
  let tokens = 0;
  const refused = json(401, problemOf("Unauthenticated", "never"));
  const renewing = following([ends, CHECKPOINT, refused], {}, () => `t${++tokens}`);
  assert.deepEqual(await renewing.next(), { kind: "connected" });
  assert.equal((await renewing.next()).kind, "event");
  assert.equal((await renewing.next()).kind, "disconnected");
  assert.deepEqual(await renewing.next(), { kind: "connected" });
  assert.equal(tokens, 2);
  assert.match(renewing.asked[1] ?? "", / 7$/);
  assert.equal((await renewing.next()).kind, "checkpoint");
  assert.equal((await renewing.next()).kind, "disconnected");
  await assert.rejects(renewing.next(), { error: "Unauthenticated" });
  const plain = following([ends]);
  await plain.next();
  await plain.next();
  await assert.rejects(plain.next(), { error: "Unauthenticated" });
});
