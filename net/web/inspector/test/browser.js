// Pages of a real browser that watch themselves: whatever goes wrong on one fails its test.

import { chromium } from "playwright-core";

const FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
  + " --disable-background-networking --disable-component-update --disable-sync";

export const launch = () => chromium.launch({
  executablePath: process.env.CHROMIUM_BIN ?? "/usr/bin/chromium", args: FLAGS.split(" "),
});

// A page in a context of its own. `problems` gathers errors in the console, exceptions, violations
// of the policy, and requests to elsewhere; what matches one of `expected` is meant to be there.
export async function open(browser, origin, { width = 1280, height = 800, scheme = "light" } = {}) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: scheme });
  const page = await context.newPage();
  page.setDefaultTimeout(15_000);
  const problems = [];
  const expected = [];
  await page.exposeFunction("violated", (what) => problems.push(`policy: ${what}`));
  await page.addInitScript(() => {
    addEventListener("securitypolicyviolation", (event) => {
      globalThis.violated(`${event.violatedDirective} ${event.blockedURI}`);
    });
  });
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) problems.push(`console: ${message.text()}`);
  });
  page.on("pageerror", (error) => problems.push(`exception: ${error.stack}`));
  page.on("request", (request) => {
    const elsewhere = !request.url().startsWith(`${origin}/`) && !request.url().startsWith("data:");
    if (elsewhere) problems.push(`elsewhere: ${request.url()}`);
  });
  return {
    page,
    expect: (pattern) => expected.push(pattern),
    wrong: () => problems.filter((one) => !expected.some((pattern) => pattern.test(one))),
    seen: (pattern) => problems.some((one) => pattern.test(one)),
    // Goes to a place of the page without loading it again, unless it is the first.
    visit: async (hash) => {
      if (page.url() === "about:blank") await page.goto(`${origin}/${hash}`);
      else await page.evaluate((to) => { location.hash = to; }, hash);
    },
    close: () => context.close(),
  };
}
