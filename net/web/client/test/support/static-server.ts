/** Serves the example and the built client. By itself: `node static-server.js PORT`. */
import { readFile } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";

const PACKAGE = fileURLToPath(new URL("../../../", import.meta.url));
const TYPES: Record<string, string> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
};

/** The file of an address; nothing outside of the two folders. */
function fileOf(path: string): string {
  const clean = normalize(path);
  if (clean.startsWith("/client/")) return join(PACKAGE, "dist", clean.slice("/client".length));
  return join(PACKAGE, "examples/shared-list", clean === "/" ? "index.html" : clean);
}

/** Starts it; port 0 picks a free one. */
export async function serveExample(port = 0): Promise<{ server: Server; url: string }> {
  const server = createServer((request, response) => {
    const file = fileOf(new URL(request.url ?? "/", "http://page").pathname);
    readFile(file).then(
      (bytes) => {
        const type = TYPES[extname(file)] ?? "application/octet-stream";
        response.writeHead(200, { "content-type": type, "cache-control": "no-cache" }).end(bytes);
      },
      () => response.writeHead(404).end(),
    );
  });
  await new Promise<void>((resolve) => server.listen(port, "127.0.0.1", resolve));
  return { server, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { url } = await serveExample(Number(process.argv[2] ?? 0));
  console.log(`${url}/?server=http://127.0.0.1:7442 — the store must allow this origin:`);
  console.log(`celeriant server --http-cors ${url} …`);
}
