// Questions and answers: messages as the service takes them, and an answer as it comes. Knows no element of the page.

import { Failure, events, send } from "/page/service.js";

const { model, largest } = document.documentElement.dataset;
const MIB = 2 ** 20;

/** The messages of a conversation so far and of the next question; pictures stand before the words. */
export function messagesOf(turns, pictures, text) {
  const said = turns.flatMap((turn) => [question(turn.pictures, turn.text), { role: "assistant", content: turn.reply }]);
  return [...said, question(pictures, text)];
}

function question(pictures, text) {
  const shown = pictures.map(({ url }) => ({ type: "image_url", image_url: { url } }));
  return { role: "user", content: [...shown, ...(text ? [{ type: "text", text }] : [])] };
}

const parts = (message) => (Array.isArray(message.content) ? message.content : []);

/** The pictures of messages, in order. */
export const picturesOf = (messages) => messages.flatMap(parts).filter(({ type }) => type === "image_url").map((part) => part.image_url.url);

/** The same messages with other pictures in the places of theirs. */
export function withPictures(messages, urls) {
  const rest = [...urls];
  const moved = (part) => (part.type === "image_url" ? { ...part, image_url: { url: rest.shift() } } : part);
  return messages.map((message) => (Array.isArray(message.content) ? { ...message, content: message.content.map(moved) } : message));
}

/**
 * Ask, and hear the answer grow: `onBegin(id)`, then `onText(all so far)`; returns `{ id, text, notes, stopped }`.
 * `edits` act on the model meanwhile; aborting the `signal` stops it.
 */
export async function ask(messages, { edits = [], onBegin = () => {}, onText = () => {}, signal } = {}) {
  const body = { model, messages, stream: true, vila_lab: { keep: true, apply_exif: true, goes_on: !edits.length, edits } };
  checkSize(picturesOf(messages));
  const found = { id: null, text: "", notes: [], finish: null };
  for await (const { choices } of events("/v1/chat/completions", { method: "POST", body, signal })) {
    const [{ delta, vila_lab: more, finish_reason: finish }] = choices;
    if (more?.answer && !found.id) onBegin((found.id = more.answer));
    if (delta.content) onText((found.text += delta.content));
    if (finish) Object.assign(found, { finish, notes: more?.notes ?? [] });
  }
  if (!found.finish) throw new Failure("The connection broke off before the answer was complete; ask again.");
  return found;
}

/** Have an answer end here, with what was said. */
export const stop = (id) => send(`/v1/answers/${id}/stop`, { method: "POST" });

/** A server refuses what is too large before it has come, which a browser takes for a broken line: so say it here. */
function checkSize(urls) {
  const bytes = urls.reduce((sum, url) => sum + url.length, 0);
  if (bytes < Number(largest) - MIB) return;
  const sizes = `${Math.ceil(bytes / MIB)} MiB as they are sent, and a question may have ${Math.floor(largest / MIB)} MiB`;
  throw new Failure(`The pictures of this conversation are ${sizes}. Remove some, or choose smaller files.`, 413);
}
