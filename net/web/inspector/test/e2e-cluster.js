// Roles, sets and positions, from one node and from two of which one is killed.

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { test } from "node:test";

import { append, dev, pair } from "./node.js";
import { begin, deposit, originOf, stage, visit } from "./stage.js";

begin({ fresh: true });

const OUT = new URL("out/", import.meta.url).pathname;
const PATIENCE = { timeout: 60_000 };
const role = (page, card) => (
  page.getByRole("region", { name: new RegExp(`^${card}`) }).locator(".role"));

test("a node on its own says so, and its positions move while one looks", async () => {
  const { page } = await visit("#cluster");
  await role(page, "This node").getByText("alone").waitFor();
  await page.locator("#node").getByText("dev · alone · epoch 1").waitFor();
  const total = () => page.locator("tbody td:nth-child(3)").evaluateAll((cells) => (
    cells.reduce((sum, cell) => sum + Number(cell.textContent), 0)));
  const before = await total();
  await append(stage.node, "acme/account/alice", [deposit(1)]);
  await page.waitForFunction((least) => {
    const cells = [...document.querySelectorAll("tbody td:nth-child(3)")];
    return cells.reduce((sum, cell) => sum + Number(cell.textContent), 0) > least;
  }, before);
});

test("a node that is gone is said to be, and what it was stays to be seen", async () => {
  const node = await dev();
  try {
    const tab = await visit("#cluster", { origin: await originOf(node) });
    await role(tab.page, "This node").getByText("alone").waitFor();
    tab.expect(/Failed to load resource/);
    await node.stop();
    await tab.page.locator("#node").getByText("no answer").waitFor();
    await tab.page.getByRole("alert").waitFor();
    await role(tab.page, "This node").getByText("alone").waitFor();
    await tab.visit("#/");
    await tab.page.getByRole("alert").first().waitFor();
  } finally {
    await node.end();
  }
});

test("a feed goes on when its node comes back, without a gap or a repetition", async () => {
  const node = await dev();
  try {
    const tab = await visit("#tail?selector=acme", { origin: await originOf(node) });
    tab.expect(/Failed to load resource|ERR_/);
    await tab.page.getByText("Live", { exact: true }).waitFor();
    await tab.page.getByRole("button", { name: "Pause" }).waitFor();
    await append(node, "acme/account/alice", [{ type: "Before", data: 1 }]);
    await tab.page.getByText("1 event", { exact: true }).waitFor();
    await node.stop();
    await tab.page.getByText("Not connected; trying again").waitFor();
    await node.restart();
    await append(node, "acme/account/alice", [{ type: "After", data: 2 }]);
    await tab.page.getByText("2 events", { exact: true }).waitFor();
    assert.deepEqual(await tab.page.locator("h3").allTextContents(), ["After v1.0", "Before v1.0"]);
    await tab.page.getByText("Live", { exact: true }).waitFor();
  } finally {
    await node.end();
  }
});

test("two nodes say who leads and what is in sync; a leader that is lost is replaced", async () => {
  const { nodes, end } = await pair();
  try {
    const [a, b] = await Promise.all(nodes.map(async (node) => (
      visit("#cluster", { origin: await originOf(node) }))));
    const whole = ({ page }) => role(page, "In-sync set").getByText("both nodes").waitFor(PATIENCE);
    await Promise.all([a, b].map(whole));
    const roleOf = async ({ page }) => (await role(page, "This node").innerText()).trim();
    const roles = await Promise.all([a, b].map(roleOf));
    assert.deepEqual([...roles].sort(), ["follower", "leader"]);
    const leads = roles.indexOf("leader");
    const [leader, follower] = leads === 0 ? [a, b] : [b, a];
    await role(leader.page, "Other node").getByText("follower").waitFor();
    await role(follower.page, "Other node").getByText("leader").waitFor();
    const { stamp } = await append(nodes[leads], "acme/account/alice", [deposit(1), deposit(2)]);
    await has(nodes[1 - leads], "acme/account/alice", stamp);
    await reads(follower);
    leader.expect(/Failed to load resource/);
    await nodes[leads].stop();
    await role(follower.page, "This node").getByText("leader").waitFor(PATIENCE);
    await follower.page.locator(".set").getByText("the bucket").waitFor(PATIENCE);
    const changes = await follower.page.locator(".changes").innerText();
    assert.match(changes, /role: .* → leader/);
    await role(follower.page, "Other node").getByText("not in sync").waitFor();
    await picture(follower.page);
  } finally {
    await end();
  }
});

// A follower may be behind: it is waited for.
async function has(node, key, stamp) {
  const url = `${node.url}/v1/aggregates/${key}/head?any=1&min_stamp=${stamp}`;
  assert.equal((await fetch(url)).status, 200);
}

async function picture(page) {
  mkdirSync(OUT, { recursive: true });
  await page.screenshot({ path: `${OUT}pair-1280-light.png`, fullPage: true });
}

// A follower shows, verifies and follows what it has, and says that it only follows.
async function reads(tab) {
  await tab.visit("#/acme/account/alice");
  await tab.page.locator(".event").first().waitFor();
  await tab.page.getByText("This node does not lead").waitFor();
  await tab.page.getByRole("button", { name: "Verify chain" }).click();
  await tab.page.getByText("2 events verified").waitFor();
  await tab.visit("#tail?selector=acme&from=start");
  await tab.page.getByText("2 events", { exact: true }).waitFor();
  await tab.visit("#cluster");
  await role(tab.page, "In-sync set").getByText("both nodes").waitFor();
}
