// The routes of the service, from /openapi.json as it is. Knows how such a description is written, and asks for nothing else.

import { byId, element } from "/page/elements.js";
import { get } from "/page/service.js";

const METHODS = ["get", "post", "put", "delete"];

async function show() {
  const described = await get("/openapi.json");
  const { paths, info } = described;
  const waysOf = ([path, ways]) => METHODS.filter((method) => ways[method]).map((method) => [path, method, ways[method]]);
  const routes = Object.entries(paths).flatMap(waysOf);
  const about = element("p", {}, ...words(info.description ?? `${info.title} ${info.version}`));
  const open = element("p", {}, ...words('What is refused has a status of 400 and more, and says why: `{"error": {"message": …, "type": …, "code": …}}`.'));
  const link = ([path, method], k) => element("li", {}, element("a", { href: `#route-${k}` }, nameOf(path, method)));
  const list = element("nav", { "aria-label": "Routes" }, element("ul", { className: "routes" }, ...routes.map(link)));
  byId("routes").replaceChildren(about, open, list, ...routes.map((route, k) => routePart(described, route, k)));
}

const nameOf = (path, method) => element("code", {}, `${method.toUpperCase()} ${path}`);

function routePart(described, [path, method, route], k) {
  const given = (route.parameters ?? []).map(({ name, in: where, required, schema, description }) =>
    [name, kind(described, schema), `${where}${required ? ", required" : ""}`, description ?? ""]);
  const body = Object.entries(route.requestBody?.content ?? {});
  const good = Object.entries(route.responses ?? {}).filter(([status]) => status.startsWith("2"));
  const answers = good.map(([status, { content }]) => [status, ...Object.keys(content ?? {})].join(", "));
  const title = element("h2", { id: `route-${k}`, tabIndex: -1 }, nameOf(path, method));
  const about = element("p", {}, ...words(route.description ?? route.summary ?? ""));
  const node = element("article", { className: "route", "aria-labelledby": title.id }, title, about);
  if (given.length) node.append(element("h3", {}, "Parameters"), table("Parameters", ["Name", "Type", "Where", "Meaning"], given));
  for (const [type, { schema }] of body) node.append(...bodyPart(described, `Body, ${type}`, schema));
  if (answers.length) node.append(element("p", { className: "small" }, `Answers with ${answers.join(" or ")}.`));
  return node;
}

function bodyPart(described, title, schema) {
  const whole = resolved(described, schema);
  const { about, meanings } = toldApart(whole.description ?? "");
  const fields = Object.entries(whole.properties ?? {});
  const rows = fields.map(([name, one]) => {
    const needed = whole.required?.includes(name) ? "required" : defaultOf(one);
    return [name, kind(described, one), needed, one.description ?? meanings.get(name) ?? ""];
  });
  const inner = fields.flatMap(([name, one]) => referred(one).map((other) => [`${title}, ${name}`, other]));
  return [
    element("h3", {}, title),
    ...(about ? [element("p", {}, ...words(about))] : []),
    ...(rows.length ? [table(title, ["Field", "Type", "Needed", "Meaning"], rows)] : []),
    ...inner.flatMap(([name, other]) => bodyPart(described, name, other)),
  ];
}

/** A description, and what its list of attributes says of each (a name on a line, its meaning indented below it). */
function toldApart(description) {
  const [about, listed = ""] = description.split(/\n+Attributes\n-+\n/);
  const found = listed.matchAll(/^(\w+)[^\n]*\n((?: +[^\n]*\n?)+)/gm);
  return { about, meanings: new Map([...found].map(([, name, meaning]) => [name, meaning.replace(/\s+/g, " ").trim()])) };
}

const referred = (schema) => [schema, ...(schema.anyOf ?? [])].filter((one) => one.$ref);

/** Text, with what stands between backticks as code. */
const words = (text) => text.split(/`+/).map((part, k) => (k % 2 ? element("code", {}, part) : part));

const resolved = (described, schema) => (schema?.$ref ? schema.$ref.slice(2).split("/").reduce((at, key) => at[key], described) : schema ?? {});
const defaultOf = (schema) => (schema.default === undefined ? "" : `default ${JSON.stringify(schema.default)}`);

/** The type of a value in a few words. */
function kind(described, schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  const any = schema.anyOf ?? schema.oneOf;
  if (any) return any.map((one) => kind(described, one)).filter((one) => one !== "null").join(" or ");
  if (schema.type === "array") return `list of ${kind(described, schema.items) || "anything"}`;
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" or ");
  return schema.type ?? "anything";
}

/** A table that scrolls by itself where the screen is narrow, by keys too. */
function table(label, head, rows) {
  const used = head.map((_, k) => rows.some((row) => row[k])); // a column that says nothing stays away
  const cell = (tag) => (text) => element(tag, tag === "th" ? { scope: "col" } : {}, ...words(text));
  const row = (tag, texts) => element("tr", {}, ...texts.filter((_, k) => used[k]).map(cell(tag)));
  const whole = element("table", {}, element("thead", {}, row("th", head)), element("tbody", {}, ...rows.map((texts) => row("td", texts))));
  return element("div", { className: "scrolls", role: "group", "aria-label": label, tabIndex: 0 }, whole);
}

show().catch((error) => byId("routes").replaceChildren(element("p", { role: "alert" }, error.message)));
