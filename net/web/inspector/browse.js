// Orgs, an org's types, a type's aggregates: names that start with something, page by page.

import { button, crumbs, element, empty, failure, field, link, place, tailPlace, title }
  from "./dom.js";
import { address, ask, segments } from "./gateway.js";
import { plural, quoted } from "./format.js";
import { schemasPlace } from "./schemas.js";

const PAGE = 100;
// Typing goes on while names are fetched.
const TYPING_MS = 120;
const LEVELS = [
  { what: "orgs", one: "org", of: () => "/v1/orgs" },
  { what: "types", one: "type", of: (names) => `/v1/orgs/${segments(names)}/types` },
  {
    what: "aggregates",
    one: "aggregate",
    of: ([org, type]) => `/v1/orgs/${segments([org])}/types/${segments([type])}/aggregates`,
  },
];

export async function browse({ main, names, query, signal }) {
  const level = LEVELS[names.length];
  const input = element("input", {
    type: "search", value: query.get("prefix") ?? "", autocomplete: "off", spellcheck: "false",
    placeholder: names.length === 2 ? "How its id begins" : "How its name begins",
  });
  const list = element("div");
  const form = element("form", { class: "bar", role: "search" },
    field(label(level, names), input), names.length === 0 ? null : tailLink(names),
    names.length === 1 ? link(schemasPlace(names[0]), "Schemas", { class: "action" }) : null);
  const heading = title(names.at(-1) ?? "Orgs");
  if (names.length > 0) main.append(crumbs(names));
  main.append(heading, form, list);
  const show = () => showNames(level, names, input.value, list, signal);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    open(names, input.value, list);
  });
  onTyping(input, signal, () => {
    // Deep links say what is looked for; Back leaves the view, not letter by letter.
    history.replaceState(null, "", place(names, { prefix: input.value }));
    return show();
  });
  await show();
}

function label(level, names) {
  return names.length > 0
    ? `Find ${level.what}` : "Find orgs, or open a key: org/type/id and Enter";
}

const tailLink = (names) => link(tailPlace(names.join("/")), "Live tail", { class: "action" });

function onTyping(input, signal, act) {
  let timer = null;
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => signal.aborted || act(), TYPING_MS);
  });
}

// Enter: a path goes there, a name or the only one that is left is opened.
function open(names, text, list) {
  const parts = text.split("/").filter(Boolean);
  if (text.includes("/") && parts.length > 0) {
    const whole = parts.length === 3 || names.length === 0 ? parts : [...names, ...parts];
    location.hash = place(whole.slice(0, 3));
    return;
  }
  const links = [...list.querySelectorAll("a")];
  const chosen = links.find((one) => one.textContent === text) ?? links[0];
  if (chosen !== undefined && text !== "") location.hash = chosen.getAttribute("href");
}

const turns = new WeakMap();

async function showNames(level, names, prefix, where, signal) {
  // Answers may come in another order than they were asked for.
  const turn = (turns.get(where) ?? 0) + 1;
  turns.set(where, turn);
  const list = element("ul", { class: "names" });
  const told = element("p", { class: "soft", role: "status" });
  let after = null;
  const load = async () => {
    const page = await ask(address(level.of(names), { limit: PAGE, prefix, after }), signal);
    if (turns.get(where) !== turn) return;
    list.append(...page[level.what].map((name) => (
      element("li", {}, link(place([...names, name]), name)))));
    after = page.next;
    const upto = after === null ? "" : ", and more";
    told.textContent = `${plural(list.childElementCount, level.one)}${upto}`;
    more.hidden = after === null;
  };
  const more = button("Show more", async () => {
    more.disabled = true;
    const seen = list.childElementCount;
    await load().catch((error) => told.replaceWith(failure(error)));
    more.disabled = false;
    list.children[seen]?.querySelector("a").focus();
  });
  try {
    await load();
  } catch (error) {
    if (error.name === "AbortError" || turns.get(where) !== turn) return;
    where.replaceChildren(failure(error));
    return;
  }
  if (turns.get(where) !== turn) return;
  if (list.childElementCount === 0) where.replaceChildren(nothing(level, names, prefix));
  else where.replaceChildren(told, list, more);
}

function nothing(level, names, prefix) {
  if (prefix !== "") return empty(`No ${level.what} start with “${prefix}”.`);
  const [org = "acme", type = "account"] = names;
  const key = quoted(`${org}/${type}/alice`);
  const command = `celeriant append ${key} --type Opened --data '{"owner":"Alice"}'`;
  const what = names.length === 0 ? "Nothing is stored here yet." : `There are no ${level.what}.`;
  return empty(`${what} Append a first event:`, command);
}
