// The inspector: what the gateway answers, made visible. This file says which view an address is;
// the other modules are beside it in the repository, and below /inspector/ at the gateway.

import { browse } from "/inspector/browse.js";
import { cluster } from "/inspector/cluster.js";
import { element, empty, failure, title } from "/inspector/dom.js";
import { count } from "/inspector/format.js";
import { schemas } from "/inspector/schemas.js";
import { onStatus } from "/inspector/status.js";
import { tail } from "/inspector/tail.js";
import { timeline } from "/inspector/timeline.js";

const main = document.getElementById("main");
const pill = document.getElementById("node");
let shown = null;

// An address is `#tail?…`, `#schemas?…`, `#cluster`, or `#/org/type/id?…`.
function view(hash) {
  const [path, query] = hash.split("?");
  const parameters = new URLSearchParams(query);
  if (path === "#tail") return { open: tail, tab: "tail", named: "Live tail", query: parameters };
  if (path === "#schemas") {
    return { open: schemas, tab: "schemas", named: "Schemas", query: parameters };
  }
  if (path === "#cluster") return { open: cluster, tab: "cluster", named: "Cluster", query: null };
  if (path !== "" && !path.startsWith("#/")) return { open: unknown, tab: null, named: "Nothing" };
  const names = path.slice(2).split("/").filter(Boolean).map(decodeURIComponent);
  const open = [browse, browse, browse, timeline][names.length] ?? unknown;
  return { open, tab: "browse", named: names.join("/") || "Browse", names, query: parameters };
}

function unknown({ main: place }) {
  place.append(title("Nothing is here"), empty("This address is none of this page's."));
}

async function route(isFirst) {
  shown?.abort();
  const mine = new AbortController();
  shown = mine;
  const place = element("div", { class: "view" });
  main.replaceChildren(place);
  try {
    const { open, tab, named, ...rest } = view(location.hash);
    document.title = `${named} · Celeriant`;
    for (const link of document.querySelectorAll("#views a")) {
      if (link.dataset.tab === tab) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    scrollTo(0, 0);
    const opened = open({ main: place, signal: mine.signal, ...rest });
    // Not when the page is opened: then reading begins at its top.
    if (!isFirst) place.querySelector("h2")?.focus({ preventScroll: true });
    await opened;
  } catch (error) {
    if (mine.signal.aborted) return;
    place.append(failure(error));
  }
}

function glance({ status, problem }) {
  const text = problem === null
    ? `${status.node_id} · ${status.role} · epoch ${count(status.epoch)}` : "no answer";
  pill.dataset.role = problem === null ? status.role : "stopped";
  if (pill.textContent !== text) pill.textContent = text;
}

// Not an address of the page: the skip link only moves the focus.
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", () => route(false));
onStatus(glance);
route(true);
