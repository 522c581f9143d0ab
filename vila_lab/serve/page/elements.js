// Elements: what the page is built of. Knows nothing of pictures, questions and the service.
//
// What a user or a model wrote becomes text, never markup.

/** A new element; `role`, `aria-…` and `data-…` become attributes, everything else properties. */
export function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (/^(role$|aria-|data-)/.test(name)) node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children);
  return node;
}

export function button(text, onClick, properties = {}) {
  const node = element("button", { type: "button", ...properties }, text);
  node.addEventListener("click", () => { if (node.getAttribute("aria-disabled") !== "true") onClick(node); });
  return node;
}

/** Switch a button off without taking the focus off it, as `disabled` would. */
export const enable = (node, on) => node.setAttribute("aria-disabled", String(!on));

/** A select under its label; `options` are pairs of a value and its words. */
export function select(label, options, onPick = () => {}) {
  const node = element("select");
  fill(node, options);
  node.addEventListener("change", () => onPick(node.value));
  return { node: element("label", { className: "field" }, label, node), select: node };
}

export const fill = (node, options) => node.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));

/** Take the reader to a heading, or whatever else takes no focus by itself. */
export function lead(node) {
  node.tabIndex = -1;
  node.focus({ preventScroll: true });
  node.scrollIntoView({ block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

export const byId = (id) => document.getElementById(id);

/** A sentence as it stands on the page, from one as the server says it. */
export function sentence(text) {
  const said = text.trim();
  return said && said[0].toUpperCase() + said.slice(1) + (/[.!?。！？…]$/.test(said) ? "" : ".");
}
