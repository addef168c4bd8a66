// What was deleted or trimmed, and what payloads must conform to: see stage.js.

import assert from "node:assert/strict";
import { test } from "node:test";

import { append, send } from "./node.js";
import { begin, deposit, stage, visit } from "./stage.js";

begin({ fresh: true });

const at = (key) => `/v1/aggregates/${key}`;
const trim = (key, keepFrom) => (
  send(stage.node, "POST", `${at(key)}/trim`, { keep_from: keepFrom }));
const remove = (key, query = "") => send(stage.node, "DELETE", at(key) + query);
const five = (key) => append(stage.node, key, [1, 2, 3, 4, 5].map(deposit));

test("a timeline says where it starts, from either end, and what is checked", async () => {
  await five("taken/account/trimmed");
  await trim("taken/account/trimmed", 3);
  const { page, visit: go } = await visit("#/taken/account/trimmed");
  const start = page.getByText("It starts at version 3: what was before was trimmed or deleted.");
  await start.waitFor();
  assert.equal(await page.locator(".event").count(), 3);
  const below = (await start.boundingBox()).y;
  assert.ok(below > (await page.locator('[data-version="3"]').boundingBox()).y, "at the old end");
  await page.getByRole("button", { name: "Verify chain" }).click();
  await page.locator(".verify.good").waitFor();
  const said = await page.locator(".verify").textContent();
  assert.match(said, /✓ 2 events verified, versions 4 to 5\./);
  assert.match(said, /before version 3 was trimmed or deleted: it is not checked/);
  assert.equal(await page.locator('[data-version="3"] .mark').textContent(), "");
  await go("#/taken/account/trimmed?order=oldest");
  await page.locator('.event:first-child[data-version="3"]').waitFor();
  const above = (await start.boundingBox()).y;
  assert.ok(above < (await page.locator('[data-version="3"]').boundingBox()).y, "at the old end");
});

test("what has one event left, or none, has nothing to verify, and says so", async () => {
  await five("taken/account/one");
  await trim("taken/account/one", 5);
  const { page, visit: go } = await visit("#/taken/account/one");
  await page.getByRole("button", { name: "Verify chain" }).click();
  await page.getByText("Nothing can be verified: version 5 is the only event").waitFor();
  assert.equal(await page.locator(".verify:is(.good, .bad)").count(), 0);
  await trim("taken/account/one", 9);
  await go("#/taken/account/one?order=oldest");
  await page.getByText("No events are left here: they were trimmed. The next one has version 6.")
    .waitFor();
  assert.equal(await page.getByRole("button", { name: "Verify chain" }).count(), 0);
});

test("a deleted aggregate says so, and begun anew where it starts", async () => {
  await five("taken/account/deleted");
  await remove("taken/account/deleted");
  const { page, visit: go } = await visit("#/taken/account/deleted");
  await page.getByText("This aggregate was deleted at version 5").waitFor();
  assert.equal(await page.getByRole("button", { name: "Verify chain" }).count(), 0);
  assert.equal(await page.locator(".event").count(), 0);
  await append(stage.node, "taken/account/deleted", [deposit(6), deposit(7)]);
  await go("#/taken/account/deleted?order=oldest");
  await page.getByText("It starts at version 6").waitFor();
  await page.getByRole("button", { name: "Verify chain" }).click();
  await page.getByText("✓ 1 event verified").waitFor();
});

test("a feed shows deletions and trims in their places", async () => {
  const { page } = await visit("#tail?selector=told&types=Deposited");
  await page.getByRole("button", { name: "Pause" }).waitFor();
  await five("told/account/a");
  await trim("told/account/a", 2);
  await remove("told/account/a");
  await append(stage.node, "told/account/a", [deposit(6)]);
  await remove("told/account/a", "?never_recreate=1");
  await page.getByText("6 events, 3 notices", { exact: true }).waitFor();
  const cards = await page.locator(".event h3").allTextContents();
  assert.deepEqual(cards.slice(0, 4), ["Deleted", "Deposited v1.2", "Deleted", "Trimmed"]);
  const notices = await page.locator(".taken").allInnerTexts();
  assert.match(notices[0], /up to version 6 never show again; it takes no events ever again/);
  assert.match(notices[1], /up to version 5 never show again; it may be begun anew/);
  assert.match(notices[2], /before version 2 are gone/);
  await page.getByRole("button", { name: "Clear" }).click();
  await page.locator(".event").first().waitFor({ state: "detached" });
});

test("an org's schemas and demands are shown, each text when it is asked for", async () => {
  const text = JSON.stringify({ type: "object", required: ["<b>amount"] });
  const place = "/v1/schemas/strict/account/Deposited/1.0";
  await send(stage.node, "PUT", place, { format: "json", text });
  const proto = 'syntax = "proto3"; message M { int32 a = 1; }';
  const other = { format: "protobuf", text: proto, message: "M" };
  await send(stage.node, "PUT", "/v1/schemas/strict/*/Moved/2.1", other);
  await send(stage.node, "PUT", "/v1/policies/strict/account", { closed: true });
  await append(stage.node, "free/account/a", [deposit(1)]);
  const { page, visit: go } = await visit("#schemas");
  await page.getByRole("link", { name: "free", exact: true }).click();
  await page.getByText("free has no schemas").waitFor();
  await page.getByText("Events without a schema are accepted").waitFor();
  await page.getByLabel("Org").fill("strict");
  await page.keyboard.press("Enter");
  await page.getByText("2 schemas", { exact: true }).waitFor();
  await page.getByText("Events without a schema are refused").waitFor();
  const names = await page.locator("h4").allTextContents();
  assert.deepEqual(names.sort(), ["Deposited v1.0", "Moved v2.1"]);
  const deposited = page.getByRole("region", { name: "strict/account/Deposited@1.0" });
  assert.equal(await deposited.locator("pre").count(), 0);
  await deposited.locator("summary").focus();
  await page.keyboard.press("Enter");
  await deposited.locator("pre").waitFor();
  assert.match(await deposited.locator("pre").innerText(), /"required": \[\n {4}"<b>amount"/);
  const moved = page.getByRole("region", { name: "strict/*/Moved@2.1" });
  await moved.getByText("protobuf, message M").waitFor();
  await moved.locator("summary").click();
  await moved.getByText(proto).waitFor();
  await go("#/strict");
  await page.locator(".bar").getByRole("link", { name: "Schemas" }).click();
  await page.getByText("2 schemas", { exact: true }).waitFor();
  assert.equal(await page.title(), "Schemas · Celeriant");
});

test("what keeps a schema's text away is said, and it can be asked for again", async () => {
  const tab = await visit(null);
  tab.expect(/status of 503/);
  let refusals = 0;
  await tab.page.route((url) => url.pathname.endsWith("/Deposited/1.0"), async (route) => {
    refusals += 1;
    if (refusals > 1) return route.continue();
    const body = { error: "NoLeader", message: "nobody leads", retry: "same" };
    return route.fulfill({ status: 503, json: body });
  });
  await tab.page.goto(`${stage.origin}/#schemas?org=strict`);
  const card = tab.page.getByRole("region", { name: "strict/account/Deposited@1.0" });
  await card.locator("summary").click();
  await card.getByRole("alert").getByText("NoLeader").waitFor();
  await card.getByRole("button", { name: "Try again" }).click();
  await card.locator("pre").waitFor();
  assert.equal(await card.getByRole("alert").count(), 0);
});
