// Takes over what a running server says about itself: node scripts/fetch-openapi.js URL
import { writeFile } from "node:fs/promises";

const url = process.argv[2] ?? "http://127.0.0.1:7442";
const response = await fetch(`${url}/openapi.json`);
if (!response.ok) throw new Error(`${url} answers ${response.status}`);
const text = JSON.stringify(await response.json(), null, 2);
await writeFile(new URL("../openapi.json", import.meta.url), `${text}\n`);
