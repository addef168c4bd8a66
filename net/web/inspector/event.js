// One event, as it stands in a timeline or a feed. Made from its raw bytes: what is shown is what
// the hash covers.

import { element, button, facts, link, mono, place } from "./dom.js";
import { ago, asText, clock, count, fromBase64, hexDump, pretty, short, size } from "./format.js";

const SHOWN_CHARS = 4_000;
const SHOWN_BYTES = 512;

// `withKey`: in a feed, where events belong to many aggregates.
export function eventCard(event, { withKey = false, marked = false } = {}) {
  const names = event.key.split("/");
  const target = place(names, { at: event.version });
  const number = link(target, String(event.version), {
    class: withKey ? null : "version", "aria-label": `Version ${event.version}`,
  });
  const head = element("div", { class: "event-head" },
    element("h3", {}, event.type, " ",
      element("small", { title: "Schema version" }, `v${event.schema}`)),
    element("span", { class: "mark" }), moment(event.server_time));
  const whose = withKey
    ? element("p", { class: "whose" }, link(place(names), event.key), " · version ", number) : null;
  const card = element("article", { class: "card" }, head, whose, payload(event), meta(event.meta),
    details(event));
  return element("li", {
    class: marked ? "event marked" : "event", "data-version": event.version,
  }, withKey ? null : number, card);
}

// What a feed tells besides events: an aggregate was deleted or trimmed.
export function noticeCard(notice) {
  const { key, version, first_available: first } = notice;
  const isDeleted = notice.notice === "deleted";
  const anew = notice.recreate ? "it may be begun anew." : "it takes no events ever again.";
  const what = isDeleted
    ? `Its events up to version ${count(version)} never show again; ${anew}`
    : `Its events before version ${count(first)} are gone.`;
  const head = element("div", { class: "event-head" },
    element("h3", {}, isDeleted ? "Deleted" : "Trimmed"), moment(notice.server_time));
  return element("li", { class: "event taken", "data-notice": notice.notice },
    element("article", { class: "card" }, head,
      element("p", { class: "whose" }, link(place(key.split("/")), key)), element("p", {}, what)));
}

// JSON with line breaks and colours, all of it; false: it is none.
export function showJson(box, text) {
  if (pretty(text) === null) return false;
  return code(box, text, true);
}

// Says on a card what checking came to.
export function markCard(card, good) {
  const mark = card.querySelector(".mark");
  mark.className = good ? "mark good" : "mark bad";
  mark.textContent = good ? "✓ verified" : "✗ does not match";
  card.classList.toggle("whole", good);
  card.classList.toggle("broken", !good);
}

export function unmarkCard(card) {
  card.querySelector(".mark").textContent = "";
  card.classList.remove("broken", "whole");
}

function moment(time) {
  if (time === null) return element("span", { class: "soft" }, "no possible time");
  return element("time", { datetime: time, title: clock(time) }, ago(time));
}

function payload(event) {
  const bytes = fromBase64(event.data_base64);
  if (bytes.length === 0) return element("p", { class: "soft" }, "Empty payload");
  const text = event.content_type === "json" ? asText(bytes) : null;
  const json = text === null ? null : pretty(text);
  const box = element("pre", { class: "payload", tabindex: "0", "aria-label": "Payload" });
  const said = event.content_type === "bytes" ? "" : `${event.content_type}, `;
  const note = json === null ? `${said}${size(bytes.length)}` : null;
  const fill = (all) => (json === null ? dump(box, bytes, all) : code(box, text, all));
  const whole = fill(false);
  const more = whole ? null : button(`Show all of it (${size(bytes.length)})`, (click) => {
    fill(true);
    click.currentTarget.remove();
    box.focus();
  }, { class: "quiet" });
  const why = event.content_type === "json" && json === null
    ? element("p", { class: "soft" }, "Said to be JSON, but is not: encrypted, perhaps.") : null;
  return element("div", { class: "body" },
    note === null ? null : element("p", { class: "soft" }, note), why, box, more);
}

// Returns whether that is all of it.
function code(box, text, all) {
  const lines = document.createDocumentFragment();
  let shown = 0;
  let whole = true;
  for (const [kind, piece] of pretty(text)) {
    if (!all && shown + piece.length > SHOWN_CHARS) {
      // Also a single long text is cut: it could be megabytes.
      lines.append(piece.slice(0, SHOWN_CHARS - shown), "…");
      whole = false;
      break;
    }
    shown += piece.length;
    lines.append(kind === "space" ? piece : element("span", { class: `t-${kind}` }, piece));
  }
  box.replaceChildren(lines);
  return whole;
}

function dump(box, bytes, all) {
  const most = all ? bytes.length : SHOWN_BYTES;
  box.classList.add("dump");
  box.textContent = hexDump(bytes, most);
  return bytes.length <= most;
}

function meta(pairs) {
  if (pairs.length === 0) return null;
  const shown = pairs.map(([name, value]) => (
    element("div", {}, element("dt", {}, name), element("dd", {}, value))));
  return element("dl", { class: "chips", "aria-label": "Metadata" }, ...shown);
}

function details(event) {
  const summary = element("summary", {}, "hash ", mono(short(event.hash)), "…");
  return element("details", {}, summary, facts([
    ["Hash", mono(event.hash)],
    ["Stamp", String(event.stamp)],
    ["Server time", clock(event.server_time)],
    ["Client time", clock(event.time)],
    ["Client", event.client_id],
    ["Sequence", event.sequence === null ? null : String(event.sequence)],
    ["Event id", event.event_id],
    ["Content type", event.content_type],
  ]));
}
