/** A node of the real server, and a real browser. */
import { execFile, spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { chromium, type Browser } from "playwright-core";
import { Client } from "../../src/index.js";

const BINARY = process.env["CELERIANT_BIN"] ?? "../../../target/debug/celeriant";
const CHROMIUM = process.env["CHROMIUM_BIN"] ?? "/usr/bin/chromium";
const READY_MS = 30_000;

/** Starts a browser without a window. */
export function launch(): Promise<Browser> {
  const args = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
  ];
  return chromium.launch({ executablePath: CHROMIUM, args });
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

/** A node on its own, with its data in a folder of its own. */
export class Node {
  readonly client: Client;
  private process: ChildProcess | undefined;

  private constructor(
    private readonly directory: string,
    private readonly listen: string,
    private readonly http: string,
    private readonly origin: string,
  ) {
    this.client = new Client({ url: this.url });
  }

  static async start(origin: string): Promise<Node> {
    const directory = await mkdtemp(join(tmpdir(), "celeriant-web-"));
    const address = async (): Promise<string> => `127.0.0.1:${await freePort()}`;
    const node = new Node(directory, await address(), await address(), origin);
    await node.start();
    return node;
  }

  get url(): string {
    return `http://${this.http}`;
  }

  /** Starts, or starts again on the same data; resolves when it serves. */
  async start(): Promise<void> {
    const args = [
      "server", "--node-id", "a", "--data-dir", join(this.directory, "data"),
      "--listen", this.listen, "--http", this.http, "--http-cors", this.origin,
      "--tls-client-auth", "none",
    ];
    this.process = spawn(BINARY, args, { stdio: ["ignore", "ignore", "inherit"] });
    const end = Date.now() + READY_MS;
    while (!(await this.isReady())) {
      if (Date.now() > end || this.process.exitCode !== null) throw new Error("does not serve");
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  /** Registers a JSON Schema for an event type. */
  async registerSchema(aggregates: string, type: string, schema: object): Promise<void> {
    const file = join(this.directory, "schema.json");
    await writeFile(file, JSON.stringify(schema));
    const args = ["--url", `celeriant://${this.listen}`, "schema", "register", aggregates];
    const what = ["--type", type, "--kind", "json-schema", "--file", file];
    await promisify(execFile)(BINARY, [...args, ...what]);
  }

  /** kill -9. */
  async kill(): Promise<void> {
    const { process } = this;
    if (process === undefined || process.exitCode !== null) return;
    process.kill("SIGKILL");
    await once(process, "exit");
  }

  async stop(): Promise<void> {
    await this.kill();
    await rm(this.directory, { recursive: true, force: true });
  }

  private async isReady(): Promise<boolean> {
    return fetch(`${this.url}/health/ready`).then((response) => response.ok, () => false);
  }
}
