// Reading, verifying and following, in a real browser against a real node: see stage.js. Nothing
// sleeps: everything waits for what it expects.

import assert from "node:assert/strict";
import { test } from "node:test";

import { append } from "./node.js";
import { LONG, MANY, begin, deposit, fill, stage, visit } from "./stage.js";

begin({ fresh: true });

test("an empty store says what to do next", async () => {
  const { page } = await visit("#/");
  await page.getByText("Nothing is stored here yet").waitFor();
  assert.match(await page.locator(".command").textContent(), /^celeriant append acme\/account\//);
  await fill(stage.node);
});

test("people browse from orgs to an event, and back", async () => {
  const { page } = await visit("#/");
  await page.getByRole("link", { name: "acme", exact: true }).click();
  await page.getByRole("link", { name: "account", exact: true }).click();
  await page.getByRole("link", { name: "alice", exact: true }).click();
  await page.locator(".event").first().waitFor();
  assert.equal(await page.locator(".event").first().getAttribute("data-version"), "41");
  assert.equal(await page.title(), "acme/account/alice · Celeriant");
  await page.goBack();
  await page.getByRole("link", { name: "long", exact: true }).waitFor();
  await page.goBack();
  await page.getByRole("link", { name: "raw", exact: true }).waitFor();
  await page.goForward();
  await page.goForward();
  await page.locator(".event").first().waitFor();
});

test("names are found by prefix, and come page by page", async () => {
  const { page } = await visit("#/many/thing");
  await page.getByText("100 aggregates, and more").waitFor();
  for (const told of ["200 aggregates, and more", `${MANY} aggregates`]) {
    await page.getByRole("button", { name: "Show more" }).click();
    await page.getByText(told, { exact: true }).waitFor();
  }
  assert.equal(await page.getByRole("button", { name: "Show more" }).isVisible(), false);
  const names = await page.locator(".names a").allTextContents();
  assert.deepEqual(names, [...new Set(names)].sort());
  await page.getByRole("searchbox").fill("t-022");
  await page.getByText("10 aggregates", { exact: true }).waitFor();
  assert.match(page.url(), /prefix=t-022$/);
  await page.reload();
  await page.getByText("10 aggregates", { exact: true }).waitFor();
  await page.getByRole("searchbox").fill("nope");
  await page.getByText("No aggregates start with “nope”").waitFor();
  await page.getByRole("link", { name: "All orgs" }).click();
  await page.getByRole("searchbox").fill("acme/account/alice");
  await page.keyboard.press("Enter");
  await page.locator(".event").first().waitFor();
});

const versions = (page) => page.locator(".event").evaluateAll((all) => (
  all.map((one) => Number(one.dataset.version))));
const countdown = (from, length) => Array.from({ length }, (_, at) => from - at);

test("a timeline is read from either end, from any version, and by type", async () => {
  const { page, visit: go } = await visit("#/acme/account/alice");
  await page.locator(".event").first().waitFor();
  assert.deepEqual(await versions(page), countdown(41, 25));
  await page.getByRole("button", { name: "Show older events" }).click();
  await page.locator('[data-version="1"]').waitFor();
  assert.deepEqual(await versions(page), countdown(41, 41));
  assert.equal(await page.getByRole("button", { name: "Show older" }).isVisible(), false);
  await page.getByRole("link", { name: "Oldest first" }).click();
  await page.locator('.event:first-child[data-version="1"]').waitFor();
  const first = page.locator('[data-version="1"]');
  assert.match(await first.locator("pre").textContent(), /^\{\n {2}"owner": "Zoë",\n/);
  await first.locator("summary").click();
  const head = await fetch(`${stage.node.url}/v1/aggregates/acme/account/alice/events?limit=1`);
  const { events: [event] } = await head.json();
  await first.getByText(event.hash).waitFor();
  await first.getByText(event.event_id).waitFor();
  assert.deepEqual(await first.locator(".chips dt").allTextContents(), ["10", "user"]);
  await go("#/acme/account/alice?at=17");
  await page.locator('.marked[data-version="17"]').waitFor();
  await page.getByRole("link", { name: "Newer events" }).waitFor();
  await go("#/acme/account/alice?types=Opened");
  await page.locator('.event:only-child[data-version="1"]').waitFor();
});

test("payloads of every kind are shown, and large ones in part", async () => {
  const { page } = await visit("#/acme/raw/bytes?order=oldest");
  await page.getByText("000000  00 01 02 ff").waitFor();
  await page.getByText("Empty payload").waitFor();
  await page.getByText("Said to be JSON, but is not").waitFor();
  const large = page.locator('[data-version="3"] pre');
  assert.equal((await large.textContent()).length, 4_001);
  await page.getByRole("button", { name: "Show all of it" }).click();
  assert.equal((await large.textContent()).length, 50_002);
});

test("a whole chain verifies, and what is shown with it", async () => {
  const { page } = await visit("#/acme/account/long");
  await page.getByRole("button", { name: "Verify chain" }).click();
  await page.locator(".verify.good").waitFor();
  const said = await page.locator(".verify").textContent();
  assert.match(said, new RegExp(`✓ ${LONG} events verified, versions 1 to ${LONG}\\.`));
  const marks = await page.locator(".event .mark").allTextContents();
  assert.ok(marks.length >= 25);
  assert.ok(marks.every((mark) => mark === "✓ verified"), marks.join());
});

test("bytes, empty payloads, ids and metadata verify", async () => {
  for (const key of ["acme/raw/bytes", "acme/account/alice"]) {
    const { page } = await visit(`#/${key}`);
    await page.getByRole("button", { name: "Verify chain" }).click();
    await page.locator(".verify.good").waitFor();
  }
});

// Lets `change` spoil what the node answers, from the `since`th answer on.
async function tamper(page, what, change, since = 1) {
  let answers = 0;
  await page.route((url) => url.pathname.endsWith(what), async (route) => {
    const response = await route.fetch();
    const body = await response.json();
    answers += 1;
    if (answers >= since) change(body);
    await route.fulfill({ response, json: body });
  });
}

const at = (body, version) => body.events.find((event) => event.version === version);
const LIES = [
  ["a payload that was changed", "/events", "Version 17 does not match", 16, (body) => {
    const event = at(body, 17);
    if (event) event.data_base64 = Buffer.from('{"amount":1000000}').toString("base64");
  }],
  ["a stamp that was changed", "/events", "Version 3 does not match", 2, (body) => {
    const event = at(body, 3);
    if (event) event.stamp += 1;
  }],
  ["an event that is left out", "/events", "Version 5 is missing", 4, (body) => {
    body.events = body.events.filter((event) => event.version !== 5);
  }],
  ["events that are left out at the end", "/events", "Version 40 is missing", 39, (body) => {
    body.events = body.events.filter((event) => event.version < 40);
  }],
  ["another hash of the head", "/head", "Version 41 does not match", null, (body) => {
    body.hash = "0".repeat(64);
  }],
];

for (const [what, where, headline, verified, change] of LIES) {
  test(`${what} is found and named`, async () => {
    const { page } = await visit(null);
    await tamper(page, where, change);
    await page.goto(`${stage.origin}/#/acme/account/alice?at=20`);
    await page.getByRole("button", { name: "Verify chain" }).click();
    await page.locator(".verify.bad").waitFor();
    const said = await page.locator(".verify").textContent();
    assert.ok(said.includes(`✗ ${headline}`), said);
    if (verified !== null) assert.ok(said.includes(`(versions 1 to ${verified})`), said);
    assert.equal(await page.locator(".verify.good").count(), 0);
    if (what.startsWith("a payload")) {
      assert.match(await page.locator(".event.broken").getAttribute("data-version"), /^17$/);
    }
  });
}

test("what a trim left verifies, and it is said where it begins", async () => {
  const { page } = await visit(null);
  await tamper(page, "/head", (body) => { body.first_available = 11; });
  await tamper(page, "/events", (body) => {
    body.events = body.events.filter((event) => event.version >= 11);
  });
  await page.goto(`${stage.origin}/#/acme/account/alice`);
  await page.getByRole("button", { name: "Verify chain" }).click();
  await page.locator(".verify.good").waitFor();
  const said = await page.locator(".verify").textContent();
  assert.match(said, /✓ 30 events verified, versions 12 to 41\./);
  assert.match(said, /before version 11 was trimmed/);
});

test("a timeline that shows something else than what verifies is found", async () => {
  const { page } = await visit(null);
  let first = true;
  await tamper(page, "/events", (body) => {
    if (first) at(body, 30).type = "Withdrawn";
    first = false;
  });
  await page.goto(`${stage.origin}/#/acme/account/alice`);
  await page.getByRole("button", { name: "Verify chain" }).click();
  await page.locator('.broken[data-version="30"]').waitFor();
  assert.match(await page.locator(".verify.bad").textContent(), /Version 30 does not match/);
});

test("a feed shows what is appended, pauses without a loss, and stays bounded", async () => {
  const { page } = await visit("#tail?selector=feed/thing");
  await page.getByText("Live", { exact: true }).waitFor();
  await page.getByRole("button", { name: "Pause" }).waitFor();
  await append(stage.node, "feed/thing/a", [{ type: "One", data: { n: 1 } }]);
  await append(stage.node, "feed/other/a", [{ type: "Elsewhere", data: 1 }]);
  await page.getByRole("heading", { name: "One" }).waitFor();
  await page.getByRole("button", { name: "Pause" }).click();
  await append(stage.node, "feed/thing/a", [{ type: "Two", data: 2 }]);
  await append(stage.node, "feed/thing/b", [{ type: "Three", data: 3 }]);
  await page.getByText("Paused").waitFor();
  assert.deepEqual(await page.locator("h3").allTextContents(), ["One v1.0"]);
  await page.getByRole("button", { name: "Resume" }).click();
  await page.getByText("3 events", { exact: true }).waitFor();
  assert.deepEqual(await page.locator("h3").allTextContents(),
    ["Three v1.0", "Two v1.0", "One v1.0"]);
  await append(stage.node, "feed/thing/a", Array.from({ length: 250 }, (_, n) => deposit(n)));
  await page.getByText(/^253 events, the newest 200 shown/).waitFor();
  assert.equal(await page.locator(".event").count(), 200);
  await page.getByRole("button", { name: "Clear" }).click();
  await page.locator(".event").first().waitFor({ state: "detached" });
});

test("a feed begins where it is told, and only has the types that are asked for", async () => {
  const { page } = await visit("#tail");
  await page.getByLabel("Selector").fill("acme");
  await page.getByLabel("From").fill("start");
  await page.getByLabel("Types").fill("Opened,Raw");
  await page.keyboard.press("Enter");
  await page.getByText("2 events", { exact: true }).waitFor();
  assert.match(page.url(), /#tail\?selector=acme&from=start&types=Opened%2CRaw$/);
});

test("a feed that is refused for a while is followed again by itself", async () => {
  const tab = await visit(null);
  tab.expect(/status of 503/);
  let refusals = 0;
  await tab.page.route((url) => url.pathname === "/v1/watch", async (route) => {
    refusals += 1;
    // The stream, the question why, and the stream once more.
    if (refusals > 3) return route.continue();
    const body = { error: "NoLeader", message: "nobody leads", retry: "same" };
    return route.fulfill({ status: 503, json: body });
  });
  await tab.page.goto(`${stage.origin}/#tail?selector=acme`);
  await tab.page.getByRole("alert").getByText("NoLeader").waitFor();
  await tab.page.getByText("Live", { exact: true }).waitFor();
  assert.equal(await tab.page.getByRole("alert").count(), 0);
});

test("what is refused is said with its name", async () => {
  const tab = await visit("#tail?selector=a/b/c/d");
  tab.expect(/status of 400/);
  await tab.page.getByText("InvalidArgument").waitFor();
  await tab.visit("#/acme/account/nobody");
  tab.expect(/status of 404/);
  await tab.page.getByText("There is no such aggregate").waitFor();
  await tab.visit("#/a%ff");
  await tab.page.getByRole("alert").getByText("URIError").waitFor();
  await tab.visit("#nowhere");
  await tab.page.getByText("Nothing is here").waitFor();
});
