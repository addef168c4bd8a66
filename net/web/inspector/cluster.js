// This node's part in the cluster, the other's as far as this one knows it, and where every shard
// is.

import { element, facts, failure, mono, title } from "./dom.js";
import { count, short } from "./format.js";
import { onStatus } from "./status.js";

const ROLES = {
  alone: "A node on its own: it takes writes, and no other holds a copy.",
  leader: "It takes writes and decides what is committed.",
  follower: "It holds a copy; writes go to the leader.",
  claiming: "The leader is silent, and this node asks to lead.",
  "taking over": "It was given the lead, and makes its log whole first.",
  starting: "It reads its own log, and knows nothing of the cluster yet.",
  stopped: "It serves nothing: see the reason.",
};
const FIELDS = { in_sync: "in sync", distrust: "log" };

export function cluster({ main, signal }) {
  const problem = element("div");
  const places = element("div", { class: "places" });
  const shards = element("div", { class: "scroll", tabindex: "0", role: "region",
    "aria-label": "Shards" });
  const changes = element("div");
  main.append(title("Cluster"), problem, places,
    element("h3", { class: "section" }, "Shards"),
    element("p", { class: "soft" }, "Records, by number: durable on this node's disk, committed, "
      + "and how many only this node has."), shards,
    element("h3", { class: "section" }, "Changes since this page was opened"), changes);
  onStatus((known) => {
    problem.replaceChildren(...(known.problem === null ? [] : [failure(known.problem)]));
    main.classList.toggle("stale", known.problem !== null);
    if (known.status === null) return;
    places.replaceChildren(...cards(known.status));
    shards.replaceChildren(table(known));
    changes.replaceChildren(history(known));
  }, signal);
}

function cards(status) {
  const alone = status.role === "alone";
  return [thisNode(status), alone ? single() : peer(status), alone ? null : set(status)]
    .filter((card) => card !== null);
}

function card(name, role, ...rest) {
  return element("section", { class: "card place", "aria-label": name },
    element("p", { class: "eyebrow" }, name), ...role, ...rest);
}

const roleName = (role) => (
  element("p", { class: "role", "data-role": role }, element("span", { class: "dot" }), role)
);

function thisNode(status) {
  const distrust = status.distrust ?? null;
  return card(`This node · ${status.node_id}`, [roleName(status.role)],
    element("p", { class: "soft" }, ROLES[status.role] ?? ""),
    distrust === null ? null : element("p", { class: "notice bad" }, distrust),
    facts([
      ["Epoch", count(status.epoch)],
      ["Reason", status.reason],
      ["Newest epoch seen", status.seen > status.epoch ? count(status.seen) : null],
      ["Clients", status.member?.clients],
      ["Replication", status.member?.replication],
      ["Store", status.store === undefined ? null : mono(status.store)],
    ]));
}

function single() {
  return card("Other node", [element("p", { class: "role" }, "none")],
    element("p", { class: "soft" }, "What this node loses is lost. Two nodes and a bucket keep "
      + "everything twice; to see them lose a leader and nothing else:"),
    element("pre", { class: "command" }, "celeriant demo"));
}

// The gateway tells nothing of the other node but its place in the set.
function peer(status) {
  const other = (status.in_sync ?? []).find((one) => one !== status.store && one !== "bucket");
  if (other === undefined) {
    return card("Other node", [element("p", { class: "role" }, "not in sync")],
      element("p", { class: "soft" }, "It is not in the set: nothing waits for it. Its own page "
        + "says how it is."));
  }
  const role = { leader: "follower", follower: "leader" }[status.role];
  return card("Other node", [role === undefined ? null : roleName(role)],
    element("p", { class: "soft" }, role === undefined
      ? "What it is at present is not known here."
      : "This follows from this node's role and the set; the node itself was not asked."),
    facts([["Store", mono(other)]]));
}

function set(status) {
  const places = status.in_sync ?? [];
  const named = (one) => {
    if (one === "bucket") return "the bucket";
    return `${one === status.store ? "this" : "the other"} node (${short(one, 8)})`;
  };
  const whole = places.includes("bucket") ? "one node and the bucket" : "both nodes";
  const outside = places.length > 0 && !places.includes(status.store);
  return card("In-sync set",
    [element("p", { class: "role" }, places.length === 0 ? "not known yet" : whole)],
    places.length === 0 ? null : element("p", { class: "soft" },
      "A write is committed when it is durable on all of these:"),
    element("ul", { class: "set" }, ...places.map((one) => element("li", {}, named(one)))),
    outside ? element("p", { class: "notice" }, "This node is not in it, and catches up.") : null,
    facts([["Version of the set", status.ver === undefined ? null : count(status.ver)]]));
}

function table({ status, before }) {
  const head = ["Shard", "Durable", "Committed", "Lag", "Commits/s"];
  const rows = status.shards.map((shard) => {
    const cells = [shard.durable, shard.commit, shard.lag].map((number) => count(number));
    return element("tr", { class: shard.lag > 0 ? "lagging" : null },
      element("th", { scope: "row" }, String(shard.shard)),
      ...[...cells, rate(shard, status, before)].map((text) => element("td", {}, text)));
  });
  return element("table", {},
    element("thead", {}, element("tr", {}, ...head.map((name) => (
      element("th", { scope: "col" }, name))))),
    element("tbody", {}, ...rows));
}

// From two answers; a node that went back in between did not commit backwards.
function rate(shard, status, before) {
  const earlier = before?.shards.find((one) => one.shard === shard.shard);
  if (earlier === undefined || status.at <= before.at) return "–";
  const records = Math.max(0, shard.commit - earlier.commit);
  return count(Math.round(records / ((status.at - before.at) / 1000)));
}

function history({ changes, status }) {
  if (changes.length === 0) {
    const reason = status.reason === undefined ? "" : ` The last before that: ${status.reason}.`;
    return element("p", { class: "soft" }, `None.${reason}`);
  }
  return element("ol", { class: "changes" }, ...changes.map(({ time, reason, fields }) => {
    const told = fields.filter(([name]) => name !== "reason").map(([name, before, after]) => (
      element("span", { class: "change" }, `${FIELDS[name] ?? name}: ${words(before)} → `,
        element("b", {}, words(after)))));
    return element("li", {}, element("time", { datetime: time.toISOString() },
      time.toLocaleTimeString("en-GB")),
    element("div", {}, reason === null ? "" : element("p", {}, reason), ...told));
  }));
}

function words(value) {
  if (value === null || value === undefined || value.length === 0) return "none";
  return Array.isArray(value) ? value.map((one) => short(one, 8)).join(" + ") : String(value);
}
