// A turn of the conversation: a question, its answer as it grows, the viewer below it. Knows the service by asking.js alone.

import { ask, stop } from "/page/asking.js";
import { button, element } from "/page/elements.js";
import { look, toolsPart } from "/page/looking.js";

const HOW = "Point at a word, or tap it, to see where the model looked when it chose that word. Drag over a picture to see which words looked there.";

/**
 * Ask a question and show it in `place`. `turn` is `{ number, pictures, text, messages }`, and gets `id` and `reply`;
 * returns once the answer stands there, and raises what kept it from coming, its part taken away again.
 */
export async function playTurn(place, turn, { say, fail }) {
  const part = turnPart(turn);
  place.append(part.node);
  const stopper = new AbortController();
  part.halt.addEventListener("click", () => (turn.id ? stop(turn.id).catch(fail) : stopper.abort()));
  part.node.scrollIntoView({ block: "nearest" });
  try {
    const found = await ask(turn.messages, { signal: stopper.signal, onBegin: (id) => { turn.id = id; }, onText: part.grow });
    Object.assign(turn, { id: found.id, reply: found.text });
  } catch (error) {
    part.node.remove();
    throw error;
  }
  part.finish(turn.reply);
  say(`Answer: ${turn.reply || "empty"}`);
  await openTurn(part, turn, { say, fail }).catch(fail); // the answer itself is there
  const { top } = part.node.getBoundingClientRect();
  if (top < 0 || top > innerHeight / 2) part.node.scrollIntoView(); // it has grown
  turn.node = part.node;
}

function turnPart({ number, pictures, text }) {
  const short = element("span", { className: "short", dir: "auto" });
  const title = element("h3", { id: `turn-${number}` }, element("span", { className: "number" }, String(number)), element("span", { dir: "auto" }, text || "What the pictures show"));
  const shown = element("p", { className: "shown" }, ...pictures.map(({ url }, k) => element("img", { src: url, alt: `picture ${k + 1} of the question` })));
  const said = element("p", { className: "said", dir: "auto", "aria-busy": "true" });
  const waiting = element("p", { className: "small waiting" }, "Waiting for the first word …");
  const halt = button("Stop", () => {});
  const host = element("div", { className: "vila-view" });
  const fold = element("details", { open: true }, element("summary", {}, title, short), shown, said, waiting, element("p", { className: "row halt" }, halt), host);
  const node = element("article", { className: "turn", "aria-labelledby": title.id }, fold);
  return {
    node, host, halt, fold,
    grow(words) {
      waiting.remove();
      said.textContent = words;
    },
    finish(reply) {
      waiting.remove();
      halt.parentElement.remove();
      said.removeAttribute("aria-busy");
      said.textContent = short.textContent = reply || "(The answer is empty.)";
    },
    seen: () => shown.remove(), // the viewer shows them
  };
}

async function openTurn(part, turn, { say, fail }) {
  let tools = null;
  const onChange = ({ tokens }) => tools?.pinned(tokens.at(-1));
  const drawn = await look(part.host, turn.id, { onChange });
  part.seen();
  part.host.before(element("p", { className: "small" }, HOW));
  const show = async (name) => {
    drawn.view.destroy();
    Object.assign(drawn, await look(part.host, turn.id, { name, onChange }));
  };
  tools = toolsPart({ number: turn.number, id: turn.id, messages: turn.messages, text: turn.reply, payload: drawn.payload }, { show, say, fail });
  part.fold.append(tools.node);
}
