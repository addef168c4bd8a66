/** The example in a real browser against the real server. */
import assert from "node:assert/strict";
import type { Server } from "node:http";
import { after, afterEach, before, beforeEach, test } from "node:test";
import type { Browser, BrowserContext } from "playwright-core";
import { CeleriantError } from "../../src/error.js";
import { ListPage } from "../support/list-page.js";
import { Node, launch } from "../support/node.js";
import { serveExample } from "../support/static-server.js";
import { until, untilEqual } from "../support/until.js";

let browser: Browser;
let node: Node;
let server: Server;
let origin: string;
let key: string;
let contexts: BrowserContext[];
let lists = 0;

before(async () => {
  ({ server, url: origin } = await serveExample());
  [browser, node] = await Promise.all([launch(), Node.start(origin)]);
});

after(async () => {
  await browser.close();
  await node.stop();
  server.closeAllConnections();
  server.close();
});

beforeEach(() => {
  lists += 1;
  key = `demo/list/number-${lists}`;
  contexts = [];
});

afterEach(async () => {
  for (const context of contexts) await context.close();
});

/** A browser of its own: nothing is shared with others. */
async function device(): Promise<BrowserContext> {
  const context = await browser.newContext();
  contexts.push(context);
  return context;
}

function open(context: BrowserContext): Promise<ListPage> {
  return ListPage.open(context, `${origin}/?server=${node.url}&list=${key}`);
}

const NOT_FOUND = 2001;

/** Texts that were added, in the store's order; none before the list is there. */
async function stored(): Promise<string[]> {
  const texts: string[] = [];
  try {
    for await (const event of node.client.events(key)) {
      if (event.type === "ItemAdded") texts.push((event.data as { text: string }).text);
    }
  } catch (error) {
    if (!(error instanceof CeleriantError && error.code === NOT_FOUND)) throw error;
  }
  return texts;
}

test("offline: write, reload the page, come back, and everything is there once", async () => {
  const context = await device();
  const list = await open(context);
  await list.add("before");
  await list.upToDate();
  await context.setOffline(true);
  await list.add("milk", "<b>eggs</b>");
  await list.reload();
  await list.shows(["before", "milk", "<b>eggs</b>"]);
  assert.match((await list.status()) ?? "", /2 changes waiting/);
  await list.add("bread");
  await context.setOffline(false);
  await list.upToDate();
  assert.deepEqual(await stored(), ["before", "milk", "<b>eggs</b>", "bread"]);
  await list.shows(await stored());
});

test("two browsers that wrote offline show the same list", async () => {
  const [here, there] = [await device(), await device()];
  const [one, two] = [await open(here), await open(there)];
  await one.add("shared");
  await two.shows(["shared"]);
  await here.setOffline(true);
  await there.setOffline(true);
  await one.add("one a", "one b");
  await two.add("two a", "two b");
  await here.setOffline(false);
  await there.setOffline(false);
  await until("five at the store", async () => (await stored()).length === 5);
  await one.shows(await stored());
  await two.shows(await stored());
});

test("a server that is killed while a device sends loses nothing and doubles nothing", async () => {
  const context = await device();
  const list = await open(context);
  const texts = Array.from({ length: 40 }, (_, n) => `item ${n}`);
  await context.setOffline(true);
  await list.add(...texts);
  const request = list.page.waitForRequest((one) => one.url().endsWith("/v1/sync"));
  await context.setOffline(false);
  // Once with a request under way, and once when some have landed.
  await request;
  await node.kill();
  await node.start();
  await until("some landed", async () => (await node.client.feed(key)).events.length > 0);
  await node.kill();
  await list.add("while it was down");
  await node.start();
  await list.upToDate();
  const all = [...texts, "while it was down"];
  assert.deepEqual(await stored(), all);
  await list.shows(all);
});

test("of two tabs one sends, and the other takes over", async () => {
  const context = await device();
  const one = await open(context);
  const two = await open(context);
  assert.deepEqual([await one.leads(), await two.leads()], [true, false]);
  await Promise.all([one.add("from one"), two.add("from two")]);
  await until("both at the store", async () => (await stored()).length === 2);
  await one.shows(await stored());
  await two.shows(await stored());
  const talking = (list: ListPage) => list.asked.some((path) => path.startsWith("/v1/"));
  assert.deepEqual([talking(one), talking(two)], [true, false]);
  await one.page.close();
  await until("the other leads", () => two.leads());
  await two.add("after");
  await two.upToDate();
  assert.equal((await stored()).at(-1), "after");
});

test("a name that was changed by two is decided by the app", async () => {
  const [here, there] = [await device(), await device()];
  const [one, two] = [await open(here), await open(there)];
  await one.add("milk");
  await two.shows(["milk"]);
  await here.setOffline(true);
  await one.rename("Mine");
  await one.add("eggs");
  await two.rename("Theirs");
  await two.upToDate();
  await here.setOffline(false);
  await untilEqual("Theirs", () => one.title());
  assert.match((await one.notice()) ?? "", /“Mine” was not\s+taken/);
  await one.upToDate();
  await two.shows(["milk", "eggs"]);
  const types: string[] = [];
  for await (const event of node.client.events(key)) types.push(event.type);
  assert.deepEqual(types, ["ItemAdded", "ListRenamed", "ItemAdded"]);
});

test("what a schema refuses is told to the person, and the rest arrives", async () => {
  const text = { type: "string", maxLength: 10 };
  await node.registerSchema("strict/list", "ItemAdded@1.0", { properties: { text } });
  key = "strict/list/one";
  const context = await device();
  const list = await open(context);
  await context.setOffline(true);
  await list.add("short", "much too long for this", "fine");
  await context.setOffline(false);
  await list.upToDate();
  assert.match((await list.notice()) ?? "", /“much too long for this” was refused: .*text/);
  await list.shows(["short", "fine"]);
  assert.deepEqual(await stored(), ["short", "fine"]);
});
