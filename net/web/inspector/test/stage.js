// What every end-to-end test stands on: a browser, a node, the page, and that nothing goes wrong on
// it. Registers itself with the runner; `begin` once in every file.
//
//   CELERIANT_BIN             the program
//   CELERIANT_INSPECTOR_DIR   a working copy of the page, served by serve.js; else the page is the
//                             one that the program has in it
//   CHROMIUM_BIN              the browser, /usr/bin/chromium if nothing is said

import assert from "node:assert/strict";
import { after, afterEach, before } from "node:test";

import { launch, open } from "./browser.js";
import { append, dev, post } from "./node.js";
import { serve } from "./serve.js";

const DIR = process.env.CELERIANT_INSPECTOR_DIR;
export const HOSTILE = "<script>globalThis.pwned = 1</script>"
  + '<img src=x onerror="globalThis.pwned = 1">';
export const LONG = 900;
export const MANY = 230;

// Set before the first test, by `begin`.
export const stage = { browser: null, node: null, origin: null };
const servers = [];
let opened = [];

// `fresh`: the node holds nothing yet.
export const begin = ({ fresh = false } = {}) => before(async () => {
  [stage.browser, stage.node] = await Promise.all([launch(), dev()]);
  stage.origin = await originOf(stage.node);
  if (!fresh) await fill(stage.node);
});

after(async () => {
  await stage.browser?.close();
  await stage.node?.end();
  for (const server of servers) server.closeAllConnections();
  for (const server of servers) server.close();
});

afterEach(async () => {
  const wrong = opened.flatMap((tab) => tab.wrong());
  await Promise.all(opened.map((tab) => tab.close()));
  opened = [];
  assert.deepEqual(wrong, []);
});

// Where the page of a node is.
export async function originOf(one) {
  if (DIR === undefined) return one.url;
  const served = await serve(one.url, { dir: DIR });
  servers.push(served.server);
  return served.origin;
}

// A tab at a place of the page; null: nowhere yet.
export async function visit(hash, options = {}) {
  const tab = await open(stage.browser, options.origin ?? stage.origin, options);
  opened.push(tab);
  if (hash !== null) await tab.visit(hash);
  return tab;
}

export const deposit = (amount) => ({ type: "Deposited", schema: "1.2", data: { amount } });

// What the tests read: short and long, of every kind, and hostile.
export async function fill(node) {
  const opening = {
    type: "Opened", data: { owner: "Zoë", limit: 2500 },
    event_id: "0190b8a0-aaaa-7bbb-8ccc-9dddeeeeffff", meta: { 10: "ten", user: "clerk-4" },
  };
  await append(node, "acme/account/alice", [opening]);
  for (let at = 1; at <= 40; at += 1) await append(node, "acme/account/alice", [deposit(at)]);
  // Three batches, which are read as two pages.
  const batch = Array.from({ length: LONG / 3 }, (_, at) => deposit(at));
  for (let at = 0; at < 3; at += 1) await append(node, "acme/account/long", batch);
  await append(node, "acme/raw/bytes", [
    { type: "Raw", data_base64: "AAEC/w==" }, { type: "Empty", data_base64: "" },
    { type: "Large", data: "x".repeat(50_000) },
    { type: "NotJson", content_type: "json", data_base64: "AAAA" },
  ]);
  await append(node, "evil/<img src=x onerror=pwned=1>/<b>x<b>", [
    { type: "<i>T<i>", data: { html: HOSTILE }, meta: { "<u>k": HOSTILE } },
    { type: "Bytes", data_base64: Buffer.from(HOSTILE).toString("base64") },
  ]);
  const writes = Array.from({ length: MANY }, (_, at) => ({
    key: `many/thing/t-${String(at).padStart(4, "0")}`, events: [{ type: "Made", data: at }],
  }));
  await post(node, "/v1/write", { writes });
}
