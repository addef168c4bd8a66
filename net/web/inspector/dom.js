// Making elements. Texts go in as text nodes, so nothing from the store can become markup.

export function element(name, properties, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties ?? {})) {
    if (value === null || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

// The page's own addresses: `#/org/type/id?…`, `#tail?…`, `#schemas?…`, `#cluster`.
export function place(names, query = {}) {
  const set = Object.entries(query).filter(([, value]) => value !== null && value !== "");
  const tail = set.length === 0 ? "" : `?${new URLSearchParams(set)}`;
  return `#/${names.map(encodeURIComponent).join("/")}${tail}`;
}

export const tailPlace = (selector) => `#tail?${new URLSearchParams({ selector })}`;

export const link = (href, text, properties) => element("a", { href, ...properties }, text);

export const button = (text, onclick, properties) => (
  element("button", { type: "button", onclick, ...properties }, text)
);

// The heading of a view gets the focus when the view is opened, so that reading goes on there.
export const title = (...children) => element("h2", { tabindex: "-1" }, ...children);

export function failure(problem) {
  const name = problem.name ?? "Error";
  return element("div", { class: "notice bad", role: "alert" },
    element("strong", {}, name), ` ${problem.message} `,
    element("span", { class: "soft" }, problem.advice ?? ""));
}

// Nothing to see, and what to do about it.
export function empty(text, command = null) {
  return element("div", { class: "empty" }, element("p", {}, text),
    command === null ? null : element("pre", { class: "command" }, command));
}

// The way to what these names are; the last of them is the view's heading.
export function crumbs(names) {
  const steps = names.slice(0, -1).map((name, depth) => (
    element("li", {}, link(place(names.slice(0, depth + 1)), name))));
  return element("nav", { class: "crumbs", "aria-label": "Where this is" },
    element("ol", {}, element("li", {}, link("#/", "All orgs")), ...steps));
}

// Terms and what they are; what is null is left out.
export function facts(pairs, properties) {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined);
  return element("dl", { class: "facts", ...properties }, ...shown.map(([name, value]) => (
    element("div", {}, element("dt", {}, name), element("dd", {}, value)))));
}

export const mono = (text) => element("code", {}, text);

// A field with its label above it.
export function field(label, input) {
  return element("label", { class: "field" }, element("span", {}, label), input);
}
