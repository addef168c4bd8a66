// What payloads must conform to: an org's schemas, and what it demands of types without one.

import { button, element, empty, facts, failure, field, link, title } from "./dom.js";
import { showJson } from "./event.js";
import { plural, quoted } from "./format.js";
import { address, ask, segments } from "./gateway.js";

const ORGS_MAX = 100;

export const schemasPlace = (org) => `#schemas?${new URLSearchParams({ org })}`;

export async function schemas({ main, query, signal }) {
  const org = query.get("org") ?? "";
  const input = element("input", {
    value: org, required: true, autocomplete: "off", spellcheck: "false", placeholder: "acme",
  });
  const form = element("form", { class: "bar" }, field("Org", input),
    element("button", { class: "primary" }, "Show"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    location.hash = schemasPlace(input.value.trim());
  });
  main.append(title(org === "" ? "Schemas" : `Schemas of ${org}`), form);
  if (org === "") await choice(main, signal);
  else await ofOrg(main, org, signal);
}

// Which org it may be: those that have aggregates. One with schemas alone is typed in.
async function choice(main, signal) {
  const { orgs, next } = await ask(address("/v1/orgs", { limit: ORGS_MAX }), signal);
  if (orgs.length === 0) {
    main.append(empty("Nothing is stored here yet. Register a first schema:", example("acme")));
    return;
  }
  const more = next === null ? "" : ", and more: type its name";
  main.append(element("p", { class: "soft" }, `${plural(orgs.length, "org")}${more}`),
    element("ul", { class: "names" }, ...orgs.map((org) => (
      element("li", {}, link(schemasPlace(org), org))))));
}

async function ofOrg(main, org, signal) {
  const all = await ask(`/v1/schemas/${segments([org])}`, signal);
  const section = (text) => element("h3", { class: "section" }, text);
  main.append(section("What is demanded"), policies(all.policies), section("Schemas"));
  if (all.schemas.length === 0) {
    main.append(empty(`${org} has no schemas. Register one:`, example(org)));
    return;
  }
  main.append(element("p", { class: "soft", role: "status" }, plural(all.schemas.length, "schema")),
    ...all.schemas.map((schema) => card(schema, signal)));
}

const example = (org) => `celeriant schema register ${quoted(`${org}/account`)}`
  + " --type Deposited@1.0 --kind json-schema --file deposited.json";

function policies(all) {
  const words = ({ closed, allow_encrypted: encrypted }) => (
    `${closed ? "Events without a schema are refused" : "Events without a schema are accepted"}; `
    + `encrypted payloads of types with one are ${encrypted ? "accepted, unchecked" : "refused"}.`);
  if (all.length === 0) return element("p", { class: "soft" }, words({}));
  return facts(all.map((policy) => [policy.type ?? "Every type", words(policy)]));
}

// The text is fetched when somebody wants to see it.
function card(schema, signal) {
  const { format, message, forced, unusable } = schema;
  const at = schema.schema.lastIndexOf("@");
  const version = schema.schema.slice(at + 1);
  const [org, type, ...rest] = schema.schema.slice(0, at).split("/");
  const event = rest.join("/");
  const said = [format, message === "" ? null : `message ${message}`,
    forced ? "registered by force" : null].filter((part) => part !== null);
  const body = element("div");
  const shown = element("details", {}, element("summary", {}, "Text"), body);
  const fetchText = async () => {
    body.replaceChildren();
    try {
      const { text } = await ask(
        `/v1/schemas/${segments([org, type, event, version])}`, signal);
      body.append(textOf(format, text));
    } catch (error) {
      if (error.name === "AbortError") return;
      body.append(failure(error), button("Try again", fetchText));
    }
  };
  shown.addEventListener("toggle", () => {
    if (shown.open && body.childElementCount === 0) fetchText();
  });
  return element("section", { class: "card schema", "aria-label": schema.schema },
    element("div", { class: "event-head" },
      element("h4", {}, event, " ", element("small", {}, `v${version}`)),
      element("span", { class: "soft" }, said.join(", "))),
    element("p", { class: "whose" }, type === "*" ? `Every type of ${org}` : `${org}/${type}`),
    unusable === null ? null : element("p", { class: "notice bad" },
      `This node cannot use it: ${unusable}`),
    shown);
}

function textOf(format, text) {
  const box = element("pre", { class: "payload", tabindex: "0", "aria-label": "Schema" });
  const isJson = format === "json" || format === "avro";
  if (!isJson || !showJson(box, text)) box.textContent = text;
  return box;
}
