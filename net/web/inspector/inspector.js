// The inspector: what the gateway answers, made visible. Whatever comes from the store is put in as
// text, never as HTML.
"use strict";

const main = document.getElementById("main");
const PAGE = 50;
const TAIL = 200;
let live = null;
let turn = 0;

function element(name, properties, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties ?? {})) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

// A place in the page, from names.
const at = (...names) => "#/" + names.map(encodeURIComponent).join("/");
const path = (...names) => names.map(encodeURIComponent).join("/");

async function get(url) {
  const answer = await fetch(url);
  const body = await answer.json();
  if (!answer.ok) throw new Error(`${body.error}: ${body.message}`);
  return body;
}

function failed(error) {
  return element("p", { class: "bad", role: "alert" }, String(error.message ?? error));
}

// A list that goes on with a button. `page(after)` brings {items, next}.
async function paged(list, render, page) {
  const more = element("button", { type: "button" }, "More");
  let next = null;
  const load = async () => {
    more.disabled = true;
    try {
      const brought = await page(next);
      list.append(...brought.items.map(render));
      next = brought.next;
      more.hidden = next === null;
    } catch (error) {
      more.hidden = true;
      list.after(failed(error));
    }
    more.disabled = false;
  };
  more.addEventListener("click", load);
  list.after(more);
  await load();
  if (!list.firstChild) list.after(element("p", {}, "Nothing here."));
}

function crumbs(names) {
  const parts = names.map((name, depth) => element("a", { href: at(...names.slice(0, depth + 1)) }, name));
  const joined = parts.flatMap((part) => [" / ", part]);
  return element("h2", {}, element("a", { href: "#/" }, "All orgs"), ...joined);
}

async function browse(names) {
  const [url, what] = [
    ["/v1/orgs", "orgs"],
    [`/v1/orgs/${path(names[0] ?? "")}/types`, "types"],
    [`/v1/orgs/${path(names[0] ?? "")}/types/${path(names[1] ?? "")}/aggregates`, "aggregates"],
  ][names.length];
  const input = element("input", { type: "search", placeholder: "starts with …", "aria-label": "Names that start with" });
  const place = element("div");
  const show = async () => {
    const mine = ++turn;
    const list = element("ul", { class: "names" });
    const holder = element("div", {}, list);
    const prefix = encodeURIComponent(input.value);
    await paged(
      list,
      (name) => element("li", {}, element("a", { href: at(...names, name) }, name)),
      async (after) => {
        const behind = after === null ? "" : `&after=${encodeURIComponent(after)}`;
        const page = await get(`${url}?limit=200&prefix=${prefix}${behind}`);
        return { items: page[what], next: page.next };
      },
    );
    if (mine === turn) place.replaceChildren(holder);
  };
  input.addEventListener("input", show);
  const form = element("form", { role: "search", onsubmit: (event) => event.preventDefault() }, input);
  main.replaceChildren(crumbs(names), form, place);
  await show();
}

function payload(event) {
  if ("data" in event) return JSON.stringify(event.data, null, 2);
  return `${event.data_base64.length === 0 ? "(empty)" : event.data_base64} (${event.content_type}, base64)`;
}

function shown(event, key) {
  const line = element("div", { class: "line" }, element("span", {}, String(event.version)), element("span", { class: "kind" }, event.type));
  if (key) line.append(element("a", { href: at(...event.key.split("/")) }, event.key));
  line.append(element("time", {}, event.server_time ?? ""));
  const fields = ["stamp", "schema", "client_id", "sequence", "event_id", "time", "hash"];
  const rest = fields.filter((name) => event[name] !== null).map((name) => `${name}: ${event[name]}`);
  const meta = Object.entries(event.meta).map(([name, value]) => `meta ${name}: ${value}`);
  const details = element("details", {}, element("summary", {}, "More of it"), element("pre", {}, [...rest, ...meta].join("\n")));
  return element("li", {}, line, element("pre", {}, payload(event)), details);
}

async function timeline(names) {
  const url = `/v1/aggregates/${path(names[0])}/${path(names[1])}/${path(names[2])}`;
  const about = element("p", {});
  const list = element("ol", { class: "events" });
  main.replaceChildren(crumbs(names), about, list);
  try {
    const head = await get(`${url}/head`);
    const state = head.deleted ? ", deleted" : "";
    about.textContent = `Version ${head.version}${state}, changed ${head.updated}, chain hash ${head.hash}`;
  } catch (error) {
    return main.append(failed(error));
  }
  await paged(list, (event) => shown(event, false), async (to) => {
    const before = to === null ? "" : `&to=${to}`;
    const page = await get(`${url}/events?backwards=1&limit=${PAGE}${before}`);
    return { items: page.events, next: page.next };
  });
}

function watch() {
  const input = element("input", { value: "*", "aria-label": "Selector: org/type/id, org/type, org or *" });
  const state = element("p", { role: "status" }, "org/type/id, org/type, org, or *");
  const list = element("ol", { class: "events" });
  const start = (event) => {
    event.preventDefault();
    live?.close();
    list.replaceChildren();
    live = new EventSource(`/v1/watch?from=now&selector=${encodeURIComponent(input.value)}`);
    state.textContent = "Connecting …";
    live.onopen = () => { state.textContent = "Live."; };
    live.onerror = () => { state.textContent = "Not connected; trying again …"; };
    live.addEventListener("append", (message) => {
      list.prepend(shown(JSON.parse(message.data), true));
      while (list.childElementCount > TAIL) list.lastChild.remove();
    });
  };
  const form = element("form", { onsubmit: start }, input, element("button", {}, "Watch"));
  main.replaceChildren(element("h2", {}, "Watch"), form, state, list);
}

async function node() {
  const status = await get("/v1/cluster");
  const heading = ["shard", "durable", "commit", "lag"];
  const row = (cells, kind) => element("tr", {}, ...cells.map((cell) => element(kind, {}, String(cell))));
  const shards = status.shards.map((shard) => row(heading.map((name) => shard[name]), "td"));
  const table = element("table", {}, row(heading, "th"), ...shards);
  const { shards: _, ...rest } = status;
  main.replaceChildren(element("h2", {}, `Node ${status.node_id}`), table, element("pre", {}, JSON.stringify(rest, null, 2)));
}

async function glance() {
  const place = document.getElementById("node");
  try {
    const status = await get("/v1/cluster");
    place.textContent = `${status.node_id}: ${status.role}, epoch ${status.epoch}`;
    place.className = "";
  } catch (error) {
    place.textContent = `The node does not answer (${error.message})`;
    place.className = "bad";
  }
}

async function route() {
  live?.close();
  live = null;
  try {
    if (location.hash === "#watch") return watch();
    if (location.hash === "#node") return await node();
    const names = location.hash.slice(2).split("/").filter(Boolean).map(decodeURIComponent);
    await (names.length < 3 ? browse(names) : timeline(names));
  } catch (error) {
    main.replaceChildren(failed(error));
  }
}

addEventListener("hashchange", route);
setInterval(glance, 5000);
glance();
route();
