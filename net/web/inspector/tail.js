// A feed as it happens. Bounded: the newest are shown, the others only counted. A pause closes the
// stream; going on takes it up behind the last stamp.

import { button, element, empty, failure, field, title } from "./dom.js";
import { eventCard, noticeCard } from "./event.js";
import { count, plural } from "./format.js";
import { address, parse, problem as problemOf } from "./gateway.js";

const SHOWN_MAX = 200;
const AGAIN_MS = 2_000;

export function tail({ main, query, signal }) {
  const view = {
    signal,
    selector: query.get("selector") ?? "",
    from: query.get("from") ?? "now",
    types: query.get("types") ?? "",
    list: element("ol", { class: "events feed", "aria-label": "Events, newest first" }),
    state: element("p", { class: "state", role: "status" }),
    tally: element("p", { class: "soft" }),
    notes: element("div"),
    pending: [], drawing: false, source: null, last: null, seen: 0, notices: 0, paused: false,
  };
  view.pause = button("Pause", () => toggle(view), { hidden: true });
  view.clear = button("Clear", () => clear(view), { hidden: true, class: "quiet" });
  main.append(title("Live tail"), form(view, query),
    element("div", { class: "tail-bar" }, view.state, view.tally, view.pause, view.clear),
    view.notes, view.list);
  signal.addEventListener("abort", () => view.source?.close());
  if (view.selector === "") say(view, "idle", "Not started.");
  else connect(view);
  if (view.selector === "") view.notes.append(hint());
}

function hint() {
  return empty("Say what to follow: an aggregate (org/type/id), a type (org/type), an org, or * "
    + "for everything. Then append something, and see it arrive:",
  `celeriant append acme/account/alice --type Opened --data '{"owner":"Alice"}'`);
}

function form(view, query) {
  const free = { autocomplete: "off", spellcheck: "false", autocapitalize: "off" };
  const selector = element("input", {
    value: view.selector, required: true, placeholder: "org/type/id, org/type, org or *", ...free,
  });
  const from = element("input", {
    value: query.get("from") ?? "", placeholder: "now, start, stamp or time", ...free,
  });
  const types = element("input", { value: view.types, placeholder: "all", ...free });
  const made = element("form", { class: "bar tail-form" }, field("Selector", selector),
    field("From", from), field("Types, with commas", types),
    element("button", { class: "primary" }, "Follow"));
  made.addEventListener("submit", (event) => {
    event.preventDefault();
    const there = address("#tail", {
      selector: selector.value.trim(), from: from.value.trim(), types: types.value.trim(),
    });
    // The same again is asked for again.
    if (location.hash === there) dispatchEvent(new HashChangeEvent("hashchange"));
    else location.hash = there;
  });
  return made;
}

function say(view, kind, text) {
  // Said once, not with every event: it is read aloud.
  if (view.state.textContent === text) return;
  view.state.dataset.state = kind;
  view.state.textContent = text;
}

function connect(view) {
  const { selector, types, last } = view;
  const where = address("/v1/watch", { selector, types, raw: 1, from: last ?? view.from });
  if (view.last === null) say(view, "waiting", "Connecting …");
  const source = new EventSource(where);
  view.source = source;
  source.addEventListener("open", () => {
    say(view, "live", "Live");
    view.notes.replaceChildren();
  });
  for (const name of ["append", "deleted", "trimmed"]) {
    source.addEventListener(name, (message) => {
      reached(view, message);
      arrive(view, parse(message.data));
    });
  }
  source.addEventListener("checkpoint", (message) => reached(view, message));
  source.addEventListener("problem", (message) => {
    view.notes.replaceChildren(failure(problemOf(parse(message.data))));
  });
  source.addEventListener("error", () => {
    if (source.readyState !== EventSource.CLOSED) {
      say(view, "waiting", "Not connected; trying again …");
      return;
    }
    refused(view, where);
  });
}

// Only what is somewhere can be paused, or it would go on at another now.
function reached(view, { lastEventId }) {
  view.last = lastEventId;
  view.pause.hidden = false;
}

// An event source does not tell why it was refused: the same is asked once more, for the answer.
async function refused(view, where) {
  const stop = new AbortController();
  const signal = AbortSignal.any([view.signal, stop.signal]);
  let problem = null;
  try {
    const answer = await fetch(where, { signal });
    if (!answer.ok) problem = problemOf(parse(await answer.text()), answer.status);
  } catch (error) {
    if (error.name === "AbortError") return;
    problem = error;
  }
  // What was not refused this time goes on for ever.
  stop.abort();
  if (problem !== null) view.notes.replaceChildren(failure(problem));
  if (problem?.retry === "never") {
    say(view, "idle", "Refused.");
    view.pause.hidden = true;
  } else {
    again(view);
  }
}

// Nodes change roles: who is refused now is served a moment later, here or there.
function again(view) {
  say(view, "waiting", "Not connected; trying again …");
  setTimeout(() => {
    if (!view.signal.aborted && !view.paused) connect(view);
  }, AGAIN_MS);
}

function toggle(view) {
  view.paused = !view.paused;
  view.pause.textContent = view.paused ? "Resume" : "Pause";
  if (view.paused) {
    view.source.close();
    say(view, "paused", "Paused. Resume goes on behind the last event; nothing is left out.");
  } else {
    connect(view);
  }
}

function clear(view) {
  view.list.replaceChildren();
  Object.assign(view, { seen: 0, notices: 0, pending: [] });
  tell(view);
}

// An event, or a notice.
function arrive(view, told) {
  if (told.notice === undefined) view.seen += 1;
  else view.notices += 1;
  view.pending.push(told);
  if (view.pending.length > SHOWN_MAX) view.pending.shift();
  if (view.drawing) return;
  view.drawing = true;
  // A browser draws at its own pace, and not at all while nobody looks.
  requestAnimationFrame(() => draw(view));
}

function draw(view) {
  view.drawing = false;
  const card = (told) => (
    told.notice === undefined ? eventCard(told, { withKey: true }) : noticeCard(told));
  const cards = view.pending.map(card).reverse();
  view.pending = [];
  // Whoever reads further down stays where they are.
  view.list.prepend(...cards);
  while (view.list.childElementCount > SHOWN_MAX) view.list.lastElementChild.remove();
  view.notes.replaceChildren();
  tell(view);
}

function tell(view) {
  const { seen, notices, list } = view;
  view.clear.hidden = seen + notices === 0;
  const shown = list.childElementCount;
  const kinds = [[seen, "event"], [notices, "notice"]].filter(([number]) => number > 0);
  const kept = seen + notices > shown ? [`the newest ${count(shown)} shown`] : [];
  view.tally.textContent = [...kinds.map((kind) => plural(...kind)), ...kept].join(", ");
}
