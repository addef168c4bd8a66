// What the store holds never becomes a part of the page; and everything works without a mouse.

import assert from "node:assert/strict";
import { test } from "node:test";

import { append } from "./node.js";
import { HOSTILE, begin, deposit, stage, visit } from "./stage.js";

const EVIL = ["evil", "<img src=x onerror=pwned=1>", "<b>x<b>"];
const place = (names) => `#/${names.map(encodeURIComponent).join("/")}`;

begin();

// Nothing of what is in `main` was made by a payload, and nothing ran.
async function isHarmless(page) {
  const made = await page.locator("main :is(script, img, iframe, object, i, u)").count();
  assert.equal(made, 0);
  assert.equal(await page.evaluate(() => globalThis.pwned), undefined);
}

test("payloads, metadata, types and names that are markup are shown as text", async () => {
  const { page, visit: go } = await visit("#/");
  for (const depth of [1, 2]) {
    await page.getByRole("link", { name: EVIL[depth - 1], exact: true }).click();
    await page.getByRole("link", { name: EVIL[depth], exact: true }).waitFor();
    await isHarmless(page);
  }
  await page.getByRole("link", { name: EVIL[2], exact: true }).click();
  await page.locator(".event").nth(1).waitFor();
  const text = await page.locator('[data-version="1"]').innerText();
  for (const shown of [JSON.stringify(HOSTILE), "<i>T<i>", "<u>k", HOSTILE]) {
    assert.ok(text.includes(shown), `${shown} in ${text}`);
  }
  assert.match(await page.locator('[data-version="2"] pre').textContent(), /<script>globalT/);
  await isHarmless(page);
  await page.getByRole("button", { name: "Verify chain" }).click();
  await page.locator(".verify.good").waitFor();
  await go("#tail?selector=evil&from=start");
  await page.getByText("2 events", { exact: true }).waitFor();
  assert.ok((await page.locator(".feed").innerText()).includes(HOSTILE));
  await isHarmless(page);
});

test("an answer that is markup is shown as text, too", async () => {
  const tab = await visit(null);
  tab.expect(/status of 418/);
  await tab.page.route((url) => url.pathname.endsWith("/head"), (route) => route.fulfill({
    status: 418, contentType: "application/problem+json",
    body: JSON.stringify({ error: HOSTILE, message: HOSTILE, retry: "never" }),
  }));
  await tab.page.goto(`${stage.origin}/${place(EVIL)}`);
  const told = await tab.page.getByRole("alert").innerText();
  assert.ok(told.includes(HOSTILE), told);
  await isHarmless(tab.page);
});

test("the policy is in force: nothing can be made of a text but text", async () => {
  const tab = await visit("#/");
  tab.expect(/^policy: (?:script-src|style-src|require-trusted-types|img-src|connect-src)/);
  tab.expect(/^console: .*(?:Content Security Policy|TrustedHTML|trusted)/is);
  tab.expect(/^elsewhere: /);
  const refused = await tab.page.evaluate(async () => {
    const names = [];
    const tried = async (name, act) => {
      try {
        await act();
      } catch {
        names.push(name);
      }
    };
    await tried("html", () => { document.body.innerHTML = "<b>x</b>"; });
    await tried("script", () => {
      const script = document.createElement("script");
      script.textContent = "globalThis.pwned = 1";
      document.body.append(script);
    });
    await tried("elsewhere", () => fetch("http://127.0.0.1:9/"));
    return names;
  });
  assert.deepEqual(refused, ["html", "script", "elsewhere"]);
  assert.equal(await tab.page.evaluate(() => globalThis.pwned), undefined);
  // What was refused was also seen: this is how violations of the page itself would be.
  await tab.page.waitForFunction(() => true);
  assert.ok(tab.seen(/^policy: require-trusted-types/) && tab.seen(/^policy: connect-src/));
});

// Tab after Tab, until the focus is where it should be. Whatever has it on the way shows it.
async function tabTo(page, name) {
  for (let steps = 0; steps < 60; steps += 1) {
    await page.keyboard.press("Tab");
    const focus = await page.evaluate(() => {
      const one = document.activeElement;
      const style = getComputedStyle(one);
      const label = one.labels?.[0]?.textContent ?? one.getAttribute("aria-label");
      return {
        name: (label ?? one.textContent).trim(),
        visible: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
        box: one.getBoundingClientRect().toJSON(),
        high: innerHeight,
      };
    });
    assert.ok(focus.visible, `the focus is not to be seen on ${focus.name}`);
    assert.ok(focus.box.width > 0 && focus.box.bottom > 0 && focus.box.top < focus.high,
      `${focus.name} has the focus out of sight`);
    if (focus.name === name) return;
  }
  assert.fail(`no way to ${name} with Tab`);
}

test("everything is done with the keyboard alone", async () => {
  const { page } = await visit("#/");
  await page.getByRole("link", { name: "acme", exact: true }).waitFor();
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to content");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "main");
  for (const name of ["acme", "account", "alice"]) {
    await page.getByRole("link", { name, exact: true }).waitFor();
    await tabTo(page, name);
    await page.keyboard.press("Enter");
    await page.locator("h2", { hasText: name }).waitFor();
    // A view that is opened takes the focus, so that it is read from its beginning.
    assert.equal(await page.evaluate(() => document.activeElement.tagName), "H2");
  }
  await page.locator(".event").first().waitFor();
  await tabTo(page, "Verify chain");
  await page.keyboard.press("Enter");
  await page.locator(".verify.good").waitFor();
  await tabTo(page, "Oldest first");
  await page.keyboard.press("Enter");
  await page.locator('.event:first-child[data-version="1"]').waitFor();
  await tabTo(page, "Version 1");
  await tabTo(page, "Payload");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await page.locator('[data-version="1"] details[open]').waitFor();
});

test("a feed is followed and paused with the keyboard alone", async () => {
  const { page } = await visit("#tail");
  await page.getByText("Say what to follow").waitFor();
  await tabTo(page, "Selector");
  await page.keyboard.type("keys");
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: "Pause" }).waitFor();
  await append(stage.node, "keys/a/b", [deposit(7)]);
  await page.locator(".event").waitFor();
  await tabTo(page, "Pause");
  await page.keyboard.press("Enter");
  await page.getByText("Paused").waitFor();
});

test("every view has its landmarks, one heading, and names for its fields", async () => {
  const { page, visit: go } = await visit("#/");
  const views = ["#/", "#/acme/account", "#/acme/account/alice", "#tail", "#schemas", "#cluster"];
  for (const hash of views) {
    await go(hash);
    await page.locator("main h2").waitFor();
    const found = await page.evaluate(() => {
      const all = (what) => [...document.querySelectorAll(what)];
      return {
        once: ["header", "main", "h1", "h2"].map((name) => all(name).length),
        unnamed: all("input").filter((one) => one.labels.length === 0).length,
        live: all("[aria-live], [role=status]").length,
      };
    });
    assert.deepEqual(found.once, [1, 1, 1, 1]);
    assert.equal(found.unnamed, 0);
    assert.ok(found.live <= 1, `${found.live} live regions at ${hash}`);
  }
});
