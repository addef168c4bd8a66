// One aggregate: its state, its events from either end, and whether its chain of hashes holds.

import { button, crumbs, element, empty, facts, failure, field, link, mono, place, tailPlace,
  title } from "./dom.js";
import { eventCard } from "./event.js";
import { ago, clock, count, plural, quoted } from "./format.js";
import { aggregateAddress, ask } from "./gateway.js";
import { onStatus } from "./status.js";
import { verifier } from "./verify.js";

const PAGE = 25;

export async function timeline({ main, names, query, signal }) {
  main.append(crumbs(names), title(names[2]), behind(signal));
  let head;
  try {
    head = await ask(aggregateAddress(names, "head"), signal);
  } catch (error) {
    if (error.name !== "NotFound") throw error;
    main.append(absent(names));
    return;
  }
  const list = element("ol", { class: "events" });
  const view = {
    names, head, list, signal,
    backwards: query.get("order") !== "oldest",
    at: versionOf(query.get("at")),
    types: query.get("types") ?? "",
  };
  const check = verifier({ names, signal });
  const isEmpty = head.deleted || head.first_available > head.version;
  main.append(state(head, names, isEmpty ? null : check.button), check.panel);
  if (head.deleted) {
    main.append(element("p", { class: "notice" }, `This aggregate was deleted at version `
      + `${count(head.version)}: its events never show again. If it may be begun anew, it goes on `
      + `with version ${count(head.version + 1)}.`));
    return;
  }
  main.append(controls(view), list);
  await events(main, view, check);
}

function versionOf(text) {
  const number = Number(text);
  return Number.isSafeInteger(number) && number > 0 ? number : null;
}

function absent(names) {
  const key = quoted(names.join("/"));
  const command = `celeriant append ${key} --type Opened --data '{"owner":"Alice"}'`;
  return empty("There is no such aggregate. It begins with its first event:", command);
}

// A follower shows what it has.
function behind(signal) {
  const note = element("p", { class: "notice", hidden: true },
    "This node does not lead: it shows what it has of what is committed, and may be behind.");
  onStatus(({ status }) => {
    note.hidden = status === null || ["leader", "alone"].includes(status.role);
  }, signal);
  return note;
}

function state(head, names, verifyButton) {
  const start = head.first_available > 1 && !head.deleted
    ? `version ${count(head.first_available)}` : null;
  return element("div", { class: "summary card" },
    facts([
      ["Version", count(head.version)],
      ["Created", element("span", { title: clock(head.created) }, ago(head.created))],
      ["Changed", element("span", { title: clock(head.updated) }, ago(head.updated))],
      ["Starts at", start],
      ["Chain hash", mono(head.hash)],
    ], { class: "facts wide" }),
    element("div", { class: "actions" }, verifyButton,
      link(tailPlace(names.join("/")), "Live tail", { class: "action" })));
}

function controls(view) {
  const { names, at, types, backwards } = view;
  const order = (name, chosen, text) => link(
    place(names, { order: name, types }), text, chosen ? { "aria-current": "true" } : {});
  const version = element("input", {
    type: "number", min: String(view.head.first_available), max: String(view.head.version),
    inputmode: "numeric",
    value: at === null ? "" : String(at), placeholder: backwards ? "newest" : "oldest",
  });
  const kinds = element("input", {
    value: types, placeholder: "all", autocomplete: "off", spellcheck: "false",
  });
  const form = element("form", { class: "bar" },
    element("div", { class: "switch", role: "group", "aria-label": "Order" },
      order(null, backwards, "Newest first"), order("oldest", !backwards, "Oldest first")),
    field("From version", version), field("Types, with commas", kinds),
    element("button", {}, "Show"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    location.hash = place(names, {
      order: backwards ? null : "oldest", at: version.value, types: kinds.value.trim(),
    });
  });
  return form;
}

async function events(main, view, check) {
  const { list, names, types, backwards, signal, at } = view;
  let next = at;
  const load = async () => {
    const page = await ask(aggregateAddress(names, "events", {
      raw: 1, limit: PAGE, types, backwards: backwards ? 1 : null,
      [backwards ? "to" : "from"]: next,
    }), signal);
    list.append(...page.events.map((event) => (
      check.shown(eventCard(event, { marked: event.version === at }), event))));
    next = page.next;
    more.hidden = next === null;
    if (backwards && next === null) list.after(...beginning(view));
  };
  const more = button(`Show ${backwards ? "older" : "newer"} events`, async () => {
    more.disabled = true;
    const seen = list.childElementCount;
    await load().catch((error) => more.before(failure(error)));
    more.disabled = false;
    list.children[seen]?.querySelector("a").focus();
  });
  main.append(more);
  await load();
  if (!backwards) list.before(...beginning(view));
  list.before(...aboveThem(view));
  list.querySelector(".marked")?.scrollIntoView({ block: "center" });
  if (list.childElementCount === 0) main.append(none(view));
}

// What is missing before the first event is said where that stands.
function beginning({ head, types, backwards, at }) {
  const first = head.first_available;
  const isSeen = types === "" && first <= head.version
    && (at === null || (backwards ? at >= first : at <= first));
  if (first <= 1 || !isSeen) return [];
  return [element("p", { class: "notice start" },
    `It starts at version ${count(first)}: what was before was trimmed or deleted.`)];
}

// A timeline that starts in the middle says so.
function aboveThem({ at, names, head, backwards, types }) {
  const first = head.first_available;
  const hidden = at !== null && (backwards ? at < head.version : at > first);
  if (!hidden) return [];
  const nearer = backwards ? Math.min(head.version, at + PAGE) : Math.max(first, at - PAGE);
  const order = backwards ? null : "oldest";
  return [element("p", { class: "between" },
    link(place(names, { order, types, at: nearer }), `↑ ${backwards ? "Newer" : "Older"} events`),
    link(place(names, { order, types }), backwards ? "To the newest" : "To the oldest"))];
}

function none({ types, at, head }) {
  if (types !== "") return empty(`No events of the types “${types}” are here.`);
  if (at !== null && at > head.version) {
    return empty(`There is no version ${count(at)}: there are ${plural(head.version, "event")}.`);
  }
  return empty(`No events are left here: they were trimmed. The next one has version `
    + `${count(head.version + 1)}.`);
}
