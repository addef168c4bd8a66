// Checks an aggregate's chain in this browser: reads all of its events as raw bytes, computes every
// hash, and compares the last with what the head says. What a timeline shows is checked, too.

import { Chain, eventHash } from "./chain.js";
import { button, element, failure, link, mono, place } from "./dom.js";
import { markCard, unmarkCard } from "./event.js";
import { asText, count, fromBase64, plural, pretty, short } from "./format.js";
import { aggregateAddress, ask } from "./gateway.js";

const PAGE = 500;

// A button, a panel for what it says, and `shown`, which is told every card of the timeline.
export function verifier({ names, signal }) {
  const panel = element("section", { class: "verify", "aria-label": "Verification", hidden: true });
  const cards = new Map();
  const start = button("Verify chain", () => (running === null ? run() : running.abort()),
    { class: "primary" });
  let running = null;
  const run = async () => {
    running = new AbortController();
    const progress = element("progress", { "aria-label": "Events checked", value: "0" });
    const said = element("div", { role: "status" }, "Checking every event …");
    start.textContent = "Stop";
    panel.hidden = false;
    panel.className = "verify";
    panel.replaceChildren(said, progress);
    for (const { card } of cards.values()) unmarkCard(card);
    const stop = AbortSignal.any([signal, running.signal]);
    try {
      const result = await verify({ names, signal: stop, progress, cards });
      if (result.problem !== null || checkedOf(result) > 0) {
        panel.classList.add(result.problem === null ? "good" : "bad");
      }
      said.replaceChildren(...(result.problem === null ? good(result) : bad(names, result)));
    } catch (error) {
      said.replaceChildren(error.name === "AbortError" ? "Stopped." : failure(error));
    }
    progress.remove();
    start.textContent = "Verify again";
    running = null;
  };
  const shown = (card, event) => {
    cards.set(event.version, { card, event });
    return card;
  };
  return { button: start, panel, shown };
}

async function verify({ names, signal, progress, cards }) {
  const key = names.join("/");
  const head = await ask(aggregateAddress(names, "head"), signal);
  const result = { head, first: head.first_available, chain: new Chain(key), problem: null };
  const upto = head.version;
  progress.max = upto;
  let from = result.first;
  while (from !== null && result.problem === null) {
    const query = { raw: 1, from, to: upto, limit: PAGE };
    const page = await ask(aggregateAddress(names, "events", query), signal);
    for (const event of page.events) {
      // A batch is never split, so a page may go beyond where it was to end.
      if (event.version > upto) break;
      result.problem = step(result, event, cards);
      if (result.problem !== null) break;
    }
    progress.value = result.chain.version;
    from = page.next;
  }
  const { chain } = result;
  if (result.problem === null && chain.version !== upto) {
    result.problem = { kind: "end", version: chain.version + 1 };
  } else if (result.problem === null && chain.hash !== head.hash) {
    result.problem = { kind: "head", version: upto, stated: head.hash, computed: chain.hash };
  }
  return result;
}

// One event further. Returns what does not match, or null.
function step(result, event, cards) {
  const { chain, first } = result;
  if (first > 1 && chain.version === 0) {
    // What was before is gone, and the hash of it is not told: the first that is left has to be
    // taken for granted.
    result.chain = new Chain(chain.key, event.version, event.hash);
    return event.version === first ? null : { kind: "gap", version: first, found: event.version };
  }
  const before = chain.hash;
  const shown = cards.get(event.version);
  const problem = chain.check(event) ?? compare(shown?.event, before, event.hash);
  if (shown !== undefined) markCard(shown.card, problem === null);
  return problem;
}

// What stands in the timeline came with another answer than what was checked.
function compare(shown, before, hash) {
  if (shown === undefined || eventHash(before, shown) === hash) return null;
  return { kind: "shown", version: shown.version };
}

// How many events were: the first that is left of a cut history has nothing to be checked against.
const checkedOf = ({ first, chain }) => chain.version - (first > 1 ? first : 0);

function good(result) {
  const { first, chain } = result;
  const trimmed = first > 1;
  const checked = checkedOf(result);
  if (checked === 0) {
    return [element("p", {}, `Nothing can be verified: version ${count(first)} is the only event `
      + "that is left. What was before was trimmed or deleted, and with it what this event's hash "
      + "would be checked against.")];
  }
  const start = trimmed
    ? `What was before version ${count(first)} was trimmed or deleted: it is not checked, and that `
      + "version's own hash is taken for granted; "
    : "The chain begins with the hash of the key; ";
  const range = `versions ${count(trimmed ? first + 1 : 1)} to ${count(chain.version)}`;
  return [
    element("p", {},
      element("strong", {}, `✓ ${plural(checked, "event")} verified`), `, ${range}.`),
    element("p", { class: "soft" }, `${start}every hash was computed in this browser (BLAKE3) from `
      + "the event's raw bytes and the hash before it, and is the one that the node states. The "
      + "last, ", mono(short(chain.hash)), "…, is the head's."),
    element("p", { class: "soft" }, "A node that rewrote all of the history could state such "
      + "hashes, too. To be sure, compare the chain hash with a receipt."),
  ];
}

function bad(names, { first, chain, problem }) {
  const { version } = problem;
  const last = chain.version;
  const before = last >= first
    ? `${plural(last - first + 1, "event")} before it verified (versions ${count(first)} to `
      + `${count(last)}); nothing behind it was checked. `
    : "It is the first; nothing behind it was checked. ";
  const reasons = [...why(problem)];
  return [
    element("p", {}, element("strong", {}, `✗ ${headline(problem)}`)),
    ...reasons.map((reason) => element("p", {}, reason)),
    hashes(problem),
    element("p", { class: "soft" }, problem.kind === "head" ? "" : before),
    element("p", {},
      link(place(names, { at: version }), `Show version ${count(version)}`)),
  ];
}

function headline({ kind, version }) {
  if (kind === "missing") return `Version ${count(version)} cannot be checked`;
  if (kind === "gap" || kind === "end") return `Version ${count(version)} is missing`;
  return `Version ${count(version)} does not match`;
}

function* why({ kind, found, reason, event }) {
  if (kind === "gap") yield `Version ${count(found)} came in its place.`;
  if (kind === "end") yield "The answers end before the version that the head states.";
  if (kind === "key") yield `The event that came belongs to ${found}.`;
  if (kind === "missing" || kind === "malformed") yield `${reason}.`;
  if (kind === "head") yield "The chain holds, but ends with another hash than the head states.";
  if (kind === "shown") yield "What is shown here is not what the same node answered a moment ago.";
  if (kind !== "hash") return;
  yield "The event, its place or a hash is not what it was when it was appended.";
  if (mayBeEncrypted(event)) {
    yield "Unless its payload is encrypted: an encrypted event's hash also covers its key id and "
      + "nonce, which the gateway does not tell, so that it cannot be checked here.";
  }
}

function mayBeEncrypted({ content_type: type, data_base64: data }) {
  const text = asText(fromBase64(data));
  return type !== "json" || text === null || pretty(text) === null;
}

function hashes({ stated, computed }) {
  if (stated === undefined) return "";
  return element("dl", { class: "facts compare" },
    element("div", {}, element("dt", {}, "Stated"), element("dd", {}, mono(stated))),
    element("div", {}, element("dt", {}, "Computed"), element("dd", {}, mono(computed))));
}
