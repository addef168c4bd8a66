/** The example in a browser, as a test sees it. */
import type { BrowserContext, Page } from "playwright-core";
import { until, untilEqual } from "./until.js";

/** One tab that shows a list. */
export class ListPage {
  /** Requests of this tab to the store's own routes, by path. */
  readonly asked: string[] = [];

  private constructor(readonly page: Page) {
    page.on("request", (request) => this.asked.push(new URL(request.url()).pathname));
  }

  static async open(context: BrowserContext, address: string): Promise<ListPage> {
    const list = new ListPage(await context.newPage());
    await list.page.goto(address);
    await list.opened();
    return list;
  }

  /** Until the page is kept for times without a network. */
  async opened(): Promise<void> {
    await this.page.waitForFunction(() => document.body.dataset["kept"] === "true");
  }

  async reload(): Promise<void> {
    await this.page.reload();
    await this.page.waitForFunction(() => document.body.dataset["leading"] !== undefined);
  }

  async add(...texts: string[]): Promise<void> {
    for (const text of texts) {
      await this.page.fill("#text", text);
      await this.page.press("#text", "Enter");
      await this.page.waitForFunction(
        (wanted) => [...document.querySelectorAll("li .text")]
          .some((one) => one.textContent === wanted),
        text,
      );
    }
  }

  async rename(name: string): Promise<void> {
    await this.page.click("#rename");
    await this.page.fill("#title-input", name);
    await this.page.press("#title-input", "Enter");
    await untilEqual(name, () => this.title());
  }

  title(): Promise<string | null> {
    return this.page.textContent("#title");
  }

  notice(): Promise<string | null> {
    return this.page.textContent("#notice-text");
  }

  texts(): Promise<string[]> {
    return this.page.locator("li .text").allTextContents();
  }

  status(): Promise<string | null> {
    return this.page.textContent("#status");
  }

  async leads(): Promise<boolean> {
    return (await this.page.getAttribute("body", "data-leading")) === "true";
  }

  upToDate(): Promise<void> {
    return until("up to date", async () => (await this.status()) === "Up to date");
  }

  shows(texts: string[]): Promise<void> {
    return untilEqual(texts, () => this.texts());
  }
}
