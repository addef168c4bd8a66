// The rules for the page's files that a machine can check; the server's own test has the one about
// HTML as well, but is built first.

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";

const HERE = new URL("..", import.meta.url);
const SERVER = new URL("../../../src/http/inspector.rs", import.meta.url);
const LINES_MAX = 400;
const FUNCTION_LINES_MAX = 60;
const COLUMNS_MAX = 100;
const SINKS = /innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|createContextual/;
const ELSEWHERE = /https?:\/\/|\/\/cdn|@import|url\(/;

const read = (folder, ending) => readdirSync(folder)
  .filter((name) => ending.test(name) && !name.startsWith("package"))
  .map((name) => [name, readFileSync(new URL(name, folder), "utf8")]);
const page = read(HERE, /\.(?:js|css|html)$/);
const tests = read(new URL(".", import.meta.url), /\.js$/);

test("files are short, and lines are narrow", () => {
  for (const [name, text] of [...page, ...tests]) {
    const lines = text.split("\n");
    assert.ok(lines.length <= LINES_MAX, `${name} has ${lines.length} lines`);
    lines.forEach((line, at) => {
      assert.ok(line.length <= COLUMNS_MAX, `${name}:${at + 1} has ${line.length} columns`);
    });
  }
});

test("functions are short", () => {
  for (const [name, text] of [...page, ...tests]) {
    let begin = null;
    text.split("\n").forEach((line, at) => {
      if (/^(?:export )?(?:async )?function|^(?:export )?const \w+ = .*=>/.test(line)) begin = at;
      if (!/^[})]/.test(line) || begin === null) return;
      assert.ok(at - begin < FUNCTION_LINES_MAX, `${name}:${begin + 1} is ${at - begin + 1} lines`);
      begin = null;
    });
  }
});

test("every file says what it is for", () => {
  const scripts = [...page, ...tests].filter(([name]) => name.endsWith(".js"));
  for (const [name, text] of scripts) assert.match(text, /^\/\/ [A-Z]/, name);
});

test("nothing comes from elsewhere, and nothing is made HTML", () => {
  for (const [name, text] of page) {
    assert.doesNotMatch(text, SINKS, name);
    assert.doesNotMatch(text, ELSEWHERE, name);
    assert.doesNotMatch(text, /\sstyle=|\son[a-z]+="/, name);
  }
});

test("the server has every module that there is, and no other", () => {
  const source = readFileSync(SERVER, "utf8");
  const served = [...source.matchAll(/\("\/inspector\/(\w+\.js)", include_str!\("([^"]+)"\)\)/g)];
  for (const [, name, path] of served) assert.equal(path, `../../web/inspector/${name}`);
  const modules = page.map(([name]) => name)
    .filter((name) => name.endsWith(".js") && name !== "inspector.js");
  assert.deepEqual(served.map(([, name]) => name).sort(), modules.sort());
});
