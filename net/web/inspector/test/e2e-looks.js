// Every view on a laptop and on a phone, light and dark: pictures in out/, for people to look at.
// That nothing is wider than the screen, and that texts stand out enough, is checked.

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { test } from "node:test";

import { begin, visit } from "./stage.js";

const OUT = new URL("out/", import.meta.url).pathname;
const LONG_NAME = "0190b8a0-aaaa-7bbb-8ccc-9dddeeeeffff".repeat(3);
const VIEWS = {
  orgs: ["#/", ".names"],
  aggregates: ["#/acme/account", ".names"],
  timeline: ["#/acme/account/alice?at=17&order=oldest", ".event"],
  payloads: ["#/acme/raw/bytes", ".event"],
  broken: ["#/acme/account/long?order=oldest&at=16", ".event"],
  hostile: ["#/evil/%3Cimg%20src%3Dx%20onerror%3Dpwned%3D1%3E/%3Cb%3Ex%3Cb%3E", ".event"],
  absent: [`#/acme/account/${LONG_NAME}`, ".empty"],
  tail: ["#tail?selector=acme/account&from=start", ".event"],
  idle: ["#tail", ".empty"],
  refused: ["#tail?selector=a/b/c/d", ".notice"],
  schemas: ["#schemas", ".names"],
  schema: ["#schemas?org=acme", ".schema"],
  cluster: ["#cluster", "table"],
};

mkdirSync(OUT, { recursive: true });
begin();

// Texts whose contrast with what is behind them is below 4.5 (WCAG AA).
function faint() {
  const numbers = (color) => color.match(/[\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = numbers(color).map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (one) => {
    for (let at = one; at !== null; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if ((numbers(color)[3] ?? 1) === 1) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const texts = [...document.querySelectorAll("body *")].filter((one) => (
    one.checkVisibility() && !one.matches(":disabled, noscript *")
    && [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim() !== "")));
  return texts.flatMap((one) => {
    const [a, b] = [light(getComputedStyle(one).color), light(behind(one))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    return contrast < 4.5 ? [`${one.textContent.slice(0, 30)}: ${contrast.toFixed(2)}`] : [];
  });
}

// Version 17 is not what it was.
async function spoil(route) {
  const response = await route.fetch();
  const page = await response.json();
  for (const event of page.events) if (event.version === 17) event.data_base64 = "e30=";
  await route.fulfill({ response, json: page });
}

for (const [width, height] of [[1280, 800], [390, 844]]) {
  for (const scheme of ["light", "dark"]) {
    test(`${width} wide, ${scheme}`, async () => {
      const tab = await visit("#/", { width, height, scheme });
      tab.expect(/status of 40[04]/);
      const { page } = tab;
      await page.route((url) => url.pathname.endsWith("/long/events"), spoil);
      for (const [name, [hash, there]] of Object.entries(VIEWS)) {
        await tab.visit(hash);
        await page.locator(there).first().waitFor();
        if (["timeline", "payloads", "broken"].includes(name)) {
          await page.getByRole("button", { name: "Verify chain" }).click();
          await page.locator(name === "broken" ? ".verify.bad" : ".verify.good").waitFor();
          await page.locator("summary").first().click();
        }
        await page.evaluate(() => scrollTo(0, 0));
        await page.screenshot({ path: `${OUT}${name}-${width}-${scheme}.png` });
        const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        assert.ok(wide <= 0, `${name} is ${wide} px too wide`);
        assert.deepEqual(await page.evaluate(faint), [], name);
      }
    });
  }
}
