// Nodes as real processes, with data directories of their own that are gone afterwards. The program
// is CELERIANT_BIN.

import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

const PROGRAM = process.env.CELERIANT_BIN ?? "celeriant";
const BUCKET = "celeriant";
const CREDENTIALS = {
  AWS_ACCESS_KEY_ID: "celeriant", AWS_SECRET_ACCESS_KEY: "try-it-out", AWS_REGION: "us-east-1",
};

// A port that nobody has at the moment.
async function freePort() {
  const server = createServer();
  await new Promise((done) => { server.listen(0, "127.0.0.1", done); });
  const { port } = server.address();
  await new Promise((done) => { server.close(done); });
  return port;
}

// Nothing of ours that happens to be around may configure a node.
function environment() {
  const ours = Object.entries(process.env).filter(([name]) => !name.startsWith("CELERIANT_"));
  return { ...Object.fromEntries(ours), ...CREDENTIALS };
}

// Starts the program; done when it says that it is ready, or over.
async function start(args) {
  const child = spawn(PROGRAM, args, { env: environment(), stdio: ["ignore", "pipe", "pipe"] });
  let log = "";
  child.stderr.on("data", (piece) => { log = (log + piece).slice(-4000); });
  const over = new Promise((done) => { child.once("close", done); });
  child.once("error", (error) => { log += error.message; });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const first = await Promise.race([lines.next(), over]);
  if (first?.value === undefined) throw new Error(`${PROGRAM} ${args.join(" ")}: ${log}`);
  child.stdout.resume();
  const stop = (signal = "SIGKILL") => {
    child.kill(signal);
    return over;
  };
  return { ready: first.value, stop };
}

function directory() {
  const path = mkdtempSync(join(tmpdir(), "celeriant-inspector-"));
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
}

// A node on its own. `url` is of its gateway; it can be stopped, and started with what it has.
export async function dev() {
  const dir = directory();
  const [listen, http] = [await freePort(), await freePort()];
  const args = [
    "dev", "--format", "json", "--data-dir", join(dir.path, "data"),
    "--listen", `127.0.0.1:${listen}`, "--http", `127.0.0.1:${http}`,
  ];
  let process = await start(args);
  const stop = () => process.stop();
  const restart = async () => { process = await start(args); };
  const end = async () => {
    await stop();
    dir.remove();
  };
  return { url: `http://127.0.0.1:${http}`, stop, restart, end };
}

function make(args) {
  const made = spawnSync(PROGRAM, args, { env: environment(), encoding: "utf8" });
  if (made.status !== 0) throw new Error(`${args.join(" ")}: ${made.stderr}`);
}

// Two nodes and their bucket, on loopback.
export async function pair() {
  const dir = directory();
  const file = (name) => join(dir.path, name);
  const port = await freePort();
  const bucket = await start([
    "bucket", "--format", "json", "--dir", file("bucket"), "--name", BUCKET,
    "--listen", `127.0.0.1:${port}`,
  ]);
  make(["cert", "ca", "--out", file("certs")]);
  const nodes = [];
  for (const name of ["a", "b"]) {
    make(["cert", "node", name, "--data-dir", file(name), "--shards", "4", "--allow-buffered",
      "--out", file("certs")]);
    nodes.push(await member(name, file, port));
  }
  const end = async () => {
    for (const node of nodes) await node.stop();
    await bucket.stop();
    dir.remove();
  };
  return { nodes, end };
}

async function member(name, file, bucket) {
  const [listen, replication, http] = [await freePort(), await freePort(), await freePort()];
  const keys = {
    node_id: name, data_dir: file(name), listen: `127.0.0.1:${listen}`,
    replication: `127.0.0.1:${replication}`, http: `127.0.0.1:${http}`,
    bucket: `s3://${BUCKET}/test`, bucket_endpoint: `http://127.0.0.1:${bucket}`,
    tls_ca: file("certs/ca.crt"), tls_cert: file(`certs/${name}.crt`),
    tls_key: file(`certs/${name}.key`), threads: "1", memory: "256MiB",
  };
  const lines = Object.entries(keys).map(([key, value]) => `${key} = ${JSON.stringify(value)}`);
  // Browsers come without a certificate.
  writeFileSync(file(`${name}.toml`), `${lines.join("\n")}\ninsecure_plaintext = true\n`);
  const { stop } = await start(["server", "--format", "json", "--allow-buffered",
    "--config", file(`${name}.toml`)]);
  return { name, url: `http://127.0.0.1:${http}`, stop };
}

// Appends events to an aggregate, as one batch; the receipt.
export async function append(node, key, events) {
  const [org, type, id] = key.split("/").map(encodeURIComponent);
  return post(node, `/v1/aggregates/${org}/${type}/${id}/events`, { events });
}

export const post = (node, path, body) => send(node, "POST", path, body);

// What does not succeed is an error.
export async function send(node, method, path, body) {
  const answer = await fetch(node.url + path, {
    method, headers: { "content-type": "application/json" }, body: JSON.stringify(body),
  });
  const text = await answer.text();
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${text}`);
  return JSON.parse(text);
}
