// Looking closer at one answer: methods, a picture left out, another order, a cut, files. Knows the service and the viewer.

import { ask, picturesOf, withPictures } from "/page/asking.js";
import { button, element, enable, fill, lead, select } from "/page/elements.js";
import { Failure, events, get, send } from "/page/service.js";
import { tray } from "/page/tray.js";
import { mount, mountCompare } from "/page/viewer.js";

const WHOLE = "whole";
const LONG = 160; // characters of two answers that are hard to compare by reading
const style = fetch("/page/viewer.css").then((response) => response.text());
let known = null; // the methods, asked for once

/** Draw an answer that is kept; `name` is the method to show first. Returns `{ payload, view }`. */
export async function look(host, id, { name, onChange } = {}) {
  const payload = await get(`/v1/answers/${id}/view`);
  const view = await mount(host, payload, { css: await style, request: (wanted) => reading(id, wanted), onChange });
  if (name) await view.set({ name });
  return { payload, view };
}

async function reading(id, { layer, head, sinks }) {
  const query = new URLSearchParams({ sinks });
  if (layer !== null) query.set("layer", layer);
  if (head !== null) query.set("head", head);
  try {
    return { reading: await get(`/v1/answers/${id}/reading?${query}`) };
  } catch (error) {
    return { error: error.message };
  }
}

/**
 * What can be done with an answer. `turn` is `{ id, messages, text, payload }`; `show(method)` draws it again;
 * `say(words)` is told aloud, `fail(error)` tells what went wrong. `pinned(token)` follows the word that is pinned.
 */
export function toolsPart(turn, { show, say, fail }) {
  const results = element("div", { className: "results" });
  const count = turn.payload.images.length;
  const again = (what) => compareWith(turn, results, what, { say, fail });
  const method = methodTool(turn, { show, say, fail });
  const cards = [method.node];
  if (count) cards.push(withoutTool(count, again));
  if (count > 1) cards.push(orderTool(turn, say, again));
  cards.push(cutTool(count, again), keepTool(turn, say, fail));
  const grid = element("div", { className: "tools" }, ...cards);
  const node = element("section", { className: "closer" }, element("h4", {}, "Look closer"), grid, results);
  return { node, pinned: method.pinned };
}

function card(title, words, ...children) {
  return element("section", { className: "tool" }, element("h5", {}, title), element("p", { className: "small" }, words), ...children);
}

const row = (...children) => element("p", { className: "row" }, ...children);

// ---- a method ----

function methodTool(turn, { show, say, fail }) {
  const about = element("p", { className: "small about-method" });
  const method = select("Method", [], () => describe());
  const word = select("For", [[WHOLE, "the whole answer"], ...turn.payload.tokens.map((text, k) => [k, `word ${k + 1}: ${text.trim() || "␣"}`])]);
  const bar = element("progress", { "aria-label": "How much is computed" });
  const done = element("span", { className: "small" });
  const running = row(bar, done);
  running.hidden = true;
  const compute = button("Compute", () => run());
  const cancel = button("Cancel", () => stopper?.abort(), { hidden: true });
  let stopper = null;

  const describe = () => {
    const one = known?.find(({ name }) => name === method.select.value);
    about.textContent = one ? `${one.measures} Cost: ${one.cost}; a forward is one run of the model.` : "";
  };
  const offer = async () => {
    known ??= (await get("/v1/methods")).data;
    fill(method.select, known.filter(({ name }) => name !== "attention").map(({ name }) => [name, name]));
    method.select.value = "leave_one_out";
    describe();
  };
  const run = async () => {
    const name = method.select.value;
    stopper = new AbortController();
    busy(true);
    bar.removeAttribute("value");
    done.textContent = "";
    say(`Computing ${name}.`);
    try {
      await computed(turn.id, name, word.select.value, stopper.signal, tell);
      await show(name);
      say(`${name} is computed, and drawn in the viewer.`);
    } catch (error) {
      error.name === "AbortError" ? say(`${name} was cancelled.`) : fail(error);
    }
    busy(false);
  };
  const tell = (progress) => {
    Object.assign(bar, { max: progress.total, value: progress.done });
    done.textContent = `${progress.done} of ${progress.total} ${progress.unit}`;
  };
  const busy = (on) => {
    enable(compute, !on);
    running.hidden = cancel.hidden = !on;
    if (!on && document.activeElement === document.body) compute.focus(); // it was on Cancel
  };
  offer().catch(fail);
  const words = "Attention shows where the model looked. A method computes what mattered, and draws it above.";
  const node = card("Why these words?", words, method.node, word.node, about, row(compute, cancel), running);
  return { node, pinned: (token) => { word.select.value = token ?? WHOLE; } };
}

async function computed(id, method, token, signal, tell) {
  const body = { method, ...(token === WHOLE ? {} : { token: Number(token) }) };
  let whole = false;
  for await (const told of events(`/v1/answers/${id}/experiments/attribute`, { method: "POST", body, signal })) {
    if (told.progress) tell(told.progress);
    whole ||= "parcel" in told; // the answer keeps it: the viewer is told it from there
  }
  if (!whole) throw new Failure("The connection broke off before all was computed; compute it again.");
}

// ---- the same question, asked another way ----

function withoutTool(count, again) {
  const buttons = [...Array(count).keys()].map((k) => button(`Without picture ${k + 1}`, () => again(withoutPicture(k + 1))));
  const words = "Asks again while nothing can read one of them (it is knocked out). Its place stays, so the others keep their numbers.";
  return card("Which pictures does it need?", words, row(...buttons));
}

const withoutPicture = (k) => ({
  title: `Without picture ${k}`,
  words: `The same question, while nothing that stands behind picture ${k} can read it.`,
  edits: [{ edit: "knockout", edge: `image_${k} -> *` }],
});

function orderTool(turn, say, again) {
  const urls = picturesOf(turn.messages);
  const list = element("ol", { className: "tray small-tray", "aria-label": "Pictures in another order" });
  const order = tray(list, { say, removable: false, onChange: () => changed() });
  const go = button("Ask in this order", () => again(inOrder(turn, order.pictures().map(({ k }) => k))));
  const changed = () => enable(go, order.pictures().some(({ k }, at) => k !== at));
  order.put(urls.map((url, k) => ({ k, url, name: `picture ${k + 1} as asked` })));
  const swap = button(urls.length === 2 ? "Swap them" : "Reverse them", () => again(inOrder(turn, [...urls.keys()].reverse())));
  return card("Does the order matter?", "Asks again with the pictures in another order. The numbers follow the new order.", list, row(go, swap));
}

const inOrder = (turn, order) => ({
  title: `Order ${order.map((k) => k + 1).join(", ")}`,
  words: `The same question and the same pictures; they stand in the order ${order.map((k) => k + 1).join(", ")} now.`,
  messages: withPictures(turn.messages, order.map((k) => picturesOf(turn.messages)[k])),
});

function cutTool(count, again) {
  const pictures = [...Array(count).keys()].map((k) => [`image_${k + 1}`, `picture ${k + 1}`]);
  const all = count > 1 ? [["images", "all pictures"]] : [];
  const question = ["question", "the question’s words"];
  const sources = [...pictures, ...all, question, ["prompt", "all words before the answer"]];
  const readers = [["answer", "the answer"], ["prompt", "the words before the answer"], question, ["*", "everything after it"]];
  const from = select("From", sources);
  const to = select("to", readers);
  const chosen = ({ select: list }) => list.selectedOptions[0].textContent;
  const go = button("Cut and ask again", () => again({
    title: `Cut: ${chosen(from)} → ${chosen(to)}`,
    words: `The same question, while ${chosen(to)} cannot read ${chosen(from)} directly, in any layer.`,
    edits: [{ edit: "knockout", edge: `${from.select.value} -> ${to.select.value}` }],
  }));
  const words = "What the model reads flows along connections. Cut one, and see whether the answer still comes out.";
  return card("Cut a connection", words, row(from.node, to.node), row(go));
}

/** Ask again, and draw both answers side by side. */
async function compareWith(turn, results, { title, words, edits = [], messages = turn.messages }, { say, fail }) {
  const heading = element("h5", {}, title);
  const said = element("p", { className: "said", dir: "auto", "aria-busy": "true" }, "…");
  const host = element("div", { className: "vila-compare" });
  const stopper = new AbortController();
  const halt = button("Stop", () => stopper.abort());
  const close = button("Close", () => { box.remove(); stopper.abort(); });
  const head = element("div", { className: "row" }, heading, element("span", { className: "gap" }), halt, close);
  const box = element("section", { className: "result" }, head, element("p", { className: "small" }, words), said, host);
  results.prepend(box);
  lead(heading);
  try {
    const other = await ask(messages, { edits, signal: stopper.signal, onText: (text) => { said.textContent = text; } });
    const body = { answers: { "as asked": turn.id, [title]: other.id } };
    const compared = await (await send("/v1/compare", { method: "POST", body, signal: stopper.signal })).json();
    await mountCompare(host, compared, { css: await style });
    said.textContent = verdict(turn.text, other.text);
    said.removeAttribute("aria-busy");
    halt.remove();
    say(`${title}. ${said.textContent}`);
  } catch (error) {
    box.remove();
    if (error.name !== "AbortError") fail(error);
  }
}

/** What came of it, in words; of long answers the differences are underlined below. */
function verdict(before, after) {
  if (before === after) return `The answer stays the same: “${after}”`;
  if (before.length + after.length > LONG) return "The answer changes; the words that differ are underlined.";
  return `The answer changes: “${before}” becomes “${after}”`;
}

// ---- files ----

function keepTool(turn, say, fail) {
  const save = (path, name) => async () => {
    try {
      download(await (await send(path, { accept: "*/*" })).blob(), name);
      say(`${name} was saved.`);
    } catch (error) {
      fail(error);
    }
  };
  const name = `answer-${turn.number}`;
  const words = "A .vila file opens in Python (vila_lab.open) with all its numbers; a web page opens in any browser, also offline.";
  return card("Keep it", words, row(
    button("Save as .vila", save(`/v1/answers/${turn.id}`, `${name}.vila`)),
    button("Save as a web page", save(`/v1/answers/${turn.id}/page`, `${name}.html`))));
}

function download(blob, name) {
  const url = URL.createObjectURL(blob);
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
