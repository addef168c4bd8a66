// A list that several people share, with or without a network.
//   ?server=http://127.0.0.1:7442   where the store is
//   &list=demo/list/groceries       which list
import { Client, Replica } from "/client/index.js";

const parameters = new URLSearchParams(location.search);
const server = parameters.get("server") ?? "http://127.0.0.1:7442";
const key = parameters.get("list") ?? "demo/list/groceries";
const byId = (id) => document.getElementById(id);

/** What the list is after an event. Events of others may be anything: what is not understood
 * changes nothing. Texts are only ever shown as text. */
function apply(list, { type, data, version }) {
  const { id, text, done } = data ?? {};
  const waiting = version === null;
  const changed = (change) =>
    list.items.map((item) => (item.id === id ? { ...item, ...change, waiting } : item));
  switch (type) {
    case "ListRenamed": return { ...list, title: String(text) };
    case "ItemAdded": {
      const item = { id: String(id), text: String(text), done: false, waiting };
      return { ...list, items: [...list.items, item] };
    }
    case "ItemTicked": return { ...list, items: changed({ done: done === true }) };
    case "ItemRemoved": return { ...list, items: list.items.filter((item) => item.id !== id) };
    default: return list;
  }
}

/** Adding and ticking need no condition: the last one wins. A name is changed only if nobody else
 * changed it meanwhile. */
function onConflict(entry) {
  const other = entry.conflict.missed.findLast((event) => event.type === "ListRenamed");
  if (other === undefined) return { resend: {} };
  say(`The list was renamed “${other.data.text}” meanwhile, so “${entry.event.data.text}” was not
    taken.`);
  return { drop: true };
}

const replica = await Replica.open({
  client: new Client({ url: server }),
  name: `shared-list ${server}`,
  onConflict,
});
const list = await replica.open(
  key,
  { initial: { title: "Shared list", items: [] }, apply },
  { snapshot: { label: "1", every: 200 } },
);

const write = (type, data, options) => list.write({ type, data }, options);

function say(text) {
  byId("notice-text").textContent = text;
  byId("notice").hidden = false;
}

function render() {
  const { title, items } = list.state;
  byId("title").textContent = title;
  document.title = title;
  renderItems(items);
  byId("empty").hidden = items.length > 0;
  byId("empty").textContent = list.loaded ? "Nothing on it yet." : "Not fetched yet.";
}

/** Rows stay the same elements, so that nobody loses the focus when something arrives. */
function renderItems(items) {
  const rows = new Map([...byId("items").children].map((row) => [row.dataset.id, row]));
  const next = items.map((item) => update(rows.get(item.id) ?? newRow(item), item));
  const kept = new Set(next);
  for (const row of rows.values()) if (!kept.has(row)) row.remove();
  next.forEach((row, index) => {
    const there = byId("items").children[index];
    if (there !== row) byId("items").insertBefore(row, there ?? null);
  });
}

function newRow({ id, text }) {
  const row = document.createElement("li");
  row.dataset.id = id;
  const label = document.createElement("label");
  const box = Object.assign(document.createElement("input"), { type: "checkbox" });
  box.addEventListener("change", () => write("ItemTicked", { id, done: box.checked }));
  const words = Object.assign(document.createElement("span"), { className: "text" });
  words.textContent = text;
  label.append(box, words);
  const mark = Object.assign(document.createElement("span"), { className: "waiting" });
  mark.textContent = "not sent yet";
  const remove = Object.assign(document.createElement("button"), { type: "button" });
  remove.textContent = "×";
  remove.setAttribute("aria-label", `Remove ${text}`);
  remove.addEventListener("click", () => {
    byId("text").focus();
    write("ItemRemoved", { id });
  });
  row.append(label, mark, remove);
  return row;
}

function update(row, { done, waiting }) {
  row.classList.toggle("done", done);
  row.querySelector("input").checked = done;
  row.querySelector(".waiting").hidden = !waiting;
  return row;
}

function renderStatus() {
  const { connected, unsent, problem, leading } = replica.status;
  const changes = `${unsent} ${unsent === 1 ? "change" : "changes"} waiting`;
  const isOffline = problem?.error === "Unreachable";
  const why = isOffline ? "Offline" : (problem?.message ?? "Connecting");
  const place = connected ? "Up to date" : why;
  const text = unsent === 0 ? place : `${connected ? "Sending" : why} · ${changes}`;
  // Said only when it is something new: a screen reader reads it out.
  if (byId("status").textContent !== text) byId("status").textContent = text;
  byId("status").dataset.state = connected && unsent === 0 ? "done" : "waiting";
  document.body.dataset.leading = leading;
}

async function tellRefused() {
  if (replica.status.refused === 0) return;
  for (const letter of await replica.letters()) {
    say(`“${letter.event.data.text ?? letter.event.type}” was refused: ${letter.problem.message}`);
    await replica.dismiss(letter);
  }
}

byId("add").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = byId("text").value.trim();
  if (text === "") return;
  byId("text").value = "";
  write("ItemAdded", { id: crypto.randomUUID(), text });
});

function showTitleForm(shown) {
  byId("title-form").hidden = !shown;
  document.querySelector("header").hidden = shown;
  byId("title-input").value = list.state.title;
  byId(shown ? "title-input" : "rename").focus();
  byId("title-input").select();
}

byId("rename").addEventListener("click", () => showTitleForm(true));
byId("title-cancel").addEventListener("click", () => showTitleForm(false));
byId("title-form").addEventListener("submit", (event) => {
  event.preventDefault();
  write("ListRenamed", { text: byId("title-input").value.trim() }, { expect: "seen" });
  showTitleForm(false);
});
byId("notice-close").addEventListener("click", () => {
  byId("notice").hidden = true;
  byId("text").focus();
});

/** From now on the page itself is there without a network, too. */
async function keepPage() {
  await navigator.serviceWorker.register("sw.js");
  await navigator.serviceWorker.ready;
  const loaded = performance.getEntriesByType("resource").map((entry) => entry.name);
  const own = loaded.filter((name) => new URL(name).origin === location.origin);
  const cache = await caches.open("shared-list");
  await cache.addAll([location.pathname, ...own]);
  document.body.dataset.kept = "true";
}

list.subscribe(render);
replica.subscribe(renderStatus);
replica.subscribe(tellRefused);
render();
renderStatus();
await keepPage();
