// Serves a working copy of the page as the gateway would, and passes everything else on to a node:
// the page's files are compiled into the program, which takes minutes to build.
//
//   node serve.js PORT http://127.0.0.1:7442 [DIR]

import { readFile } from "node:fs/promises";
import { createServer, request } from "node:http";
import { fileURLToPath } from "node:url";

const HERE = new URL("..", import.meta.url);
const SOURCE = new URL("../../../src/http/inspector.rs", import.meta.url);
const KINDS = { html: "text/html", js: "text/javascript", css: "text/css" };

// The policy is read from the server's source: a page that works here works there.
async function policy() {
  const source = await readFile(SOURCE, "utf8");
  const text = /const POLICY: &str = "([^"]*)"/.exec(source)[1];
  return text.replace(/\\\n\s*/g, "");
}

// Which file an address is; null: none of the page's.
function fileOf(path) {
  if (path === "/") return "index.html";
  const top = /^\/(inspector\.(?:js|css))$/.exec(path);
  const name = top ?? /^\/inspector\/([a-z0-9]+\.js)$/.exec(path);
  return name?.[1] ?? null;
}

export async function serve(node, { port = 0, dir = fileURLToPath(HERE) } = {}) {
  const head = {
    "content-security-policy": await policy(),
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
  };
  const server = createServer(async (asked, answer) => {
    const name = fileOf(new URL(asked.url, node).pathname);
    if (name === null) return pass(node, asked, answer);
    try {
      const text = await readFile(`${dir}/${name}`);
      const kind = `${KINDS[name.split(".").pop()]}; charset=utf-8`;
      answer.writeHead(200, { ...head, "content-type": kind }).end(text);
    } catch {
      answer.writeHead(404).end();
    }
    return undefined;
  });
  await new Promise((done) => { server.listen(port, "127.0.0.1", done); });
  return { server, origin: `http://127.0.0.1:${server.address().port}` };
}

function pass(node, asked, answer) {
  const there = new URL(asked.url, node);
  const headers = { ...asked.headers, host: there.host };
  const passed = request(there, { method: asked.method, headers }, (came) => {
    answer.writeHead(came.statusCode, came.headers);
    came.pipe(answer);
    // A node that goes away takes its streams along.
    came.on("error", () => answer.destroy());
  });
  passed.on("error", () => (answer.headersSent ? answer.destroy() : answer.writeHead(502).end()));
  answer.on("close", () => passed.destroy());
  asked.pipe(passed);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [port, node, dir] = process.argv.slice(2);
  const { origin } = await serve(node, { port: Number(port), ...(dir && { dir }) });
  console.log(origin);
}
