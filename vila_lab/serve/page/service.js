// The service as the page reaches it: a token, requests, events as they come. Knows no element of the page.

import { sentence } from "/page/elements.js";

const KEY = "vila_lab token";
const AWAY = "The server cannot be reached. It may have been stopped, or the network is down; nothing here is lost, so try again in a moment.";
const BROKEN = "The connection broke off before everything had come; try again.";
const UNKNOWN = "The server does not know this token (any more). Sign in again; what stands here stays.";

/** Something that did not happen: one sentence for the reader, and the status (0: the server was not reached). */
export class Failure extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** The token of whoever sits here: kept for this tab alone, and gone with it. */
export const token = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
  drop: () => sessionStorage.removeItem(KEY),
};

/** Take the token out of an address that ends in #token=…, so that it stays in no bookmark and no history. */
export function tokenFromAddress() {
  const found = /^#token=(.*)$/.exec(location.hash);
  if (!found) return false;
  history.replaceState(null, "", location.pathname + location.search);
  token.set(unescaped(found[1]));
  return true;
}

function unescaped(text) {
  try {
    return decodeURIComponent(text).trim();
  } catch {
    return text.trim(); // a % that stands for itself
  }
}

/** A request with the token; raises a `Failure`, or the AbortError of its `signal`. */
export async function send(path, { method = "GET", body, accept = "application/json", signal, keepalive = false } = {}) {
  const headers = { accept };
  const mine = token.get();
  if (mine && !/^[\x21-\x7e]+$/.test(mine)) throw new Failure(UNKNOWN, 401); // no header can hold it
  if (mine) headers.authorization = `Bearer ${mine}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  const response = await reached(fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), signal, keepalive }), AWAY);
  if (!response.ok) throw await failure(response);
  return response;
}

export const get = async (path, options) => (await send(path, options)).json();

/** What the server sends piece by piece, each a table. */
export async function* events(path, options) {
  const response = await send(path, { ...options, accept: "text/event-stream" });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    while (true) {
      const { done, value } = await reached(reader.read(), BROKEN);
      if (done) return;
      rest += value;
      if (!value.includes("\n")) continue; // a long one is still coming
      const blocks = rest.split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const data = block.replace(/^data: /, "");
        if (data === "[DONE]") continue; // the end of the stream says it as well
        const told = JSON.parse(data);
        if (told.error) throw new Failure(sentence(told.error.message), told.error.code);
        yield told;
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // who leaves early stops the model
  }
}

async function reached(promise, words) {
  try {
    return await promise;
  } catch (error) {
    throw error.name === "AbortError" ? error : new Failure(words);
  }
}

async function failure(response) {
  const told = await response.json().catch(() => null);
  const message = response.status === 401 ? UNKNOWN : sentence(told?.error?.message ?? `the server answered with status ${response.status}`);
  const after = response.headers.get("retry-after");
  const wait = after && !message.includes(` ${after} s`) ? ` Try again in ${after} s.` : "";
  return new Failure(message + wait, response.status);
}
