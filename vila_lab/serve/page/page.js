// The page: who sits here, the conversation, and what is said when something does not work. Knows its parts by their modules.

import { messagesOf } from "/page/asking.js";
import { join, showExercises, showOverview, whoAmI } from "/page/class.js";
import { byId, element, enable } from "/page/elements.js";
import { Failure, get, send, token, tokenFromAddress } from "/page/service.js";
import { tray } from "/page/tray.js";
import { playTurn } from "/page/turn.js";

const EXAMPLES = ["g.png", "m.png", "a.png", "n.png"];
const EXAMPLE = "What is in image 2?";
const EMBEDDED = "The embedded model is small, and was trained on drawn scenes and four company marks: ask it about pictures like the examples. It is no general assistant.";
const { model, classroom } = document.documentElement.dataset;

const ROOMS = { ask: ["Ask", "ask-room"], exercises: ["Exercises", "exercises"], class: ["Your class", "class"] };

const turns = []; // of this conversation
let asking = false;
let rooms = []; // that this person may enter; none while nobody is signed in

// ---- what is said ----

const say = (words) => { byId("aloud").textContent = words; };

/** Tell in one sentence what did not work; a token that is not known leads back to the door. */
function fail(error) {
  if (error.name === "AbortError") return;
  byId("error").textContent = error.message;
  byId("trouble").hidden = false;
  if (error.status === 401) signOut();
}

function calm() {
  byId("trouble").hidden = true;
  byId("error").textContent = "";
}

// ---- the door ----

/** Let in whoever has a token that is known. */
async function enter() {
  try {
    const me = await (classroom === "yes" ? whoAmI() : get("/v1/models"));
    rooms = ["ask", ...(classroom === "yes" ? ["exercises"] : []), ...(me.is_teacher ? ["class"] : [])];
    byId("name").textContent = me.is_teacher ? "Teacher" : me.name ?? "";
  } catch (error) {
    byId("door").hidden = false;
    return fail(error);
  }
  calm();
  await openRoom();
}

function signOut() {
  token.drop();
  rooms = [];
  openRoom();
  byId(classroom === "yes" ? "code" : "token").focus();
}

// ---- rooms ----

/** Show the room that the address names: the first one unless it names another that may be entered. */
async function openRoom(asked = location.hash.slice(1)) {
  const now = rooms.includes(asked) ? asked : rooms[0];
  byId("door").hidden = rooms.length > 0;
  byId("who").hidden = !rooms.length;
  for (const [name, [, id]] of Object.entries(ROOMS)) byId(id).hidden = name !== now;
  byId("rooms").hidden = rooms.length < 2;
  byId("rooms").replaceChildren(...rooms.map((name) => element("a", { href: `#${name}`, ...(name === now ? { "aria-current": "page" } : {}) }, ROOMS[name][0])));
  if (now === "ask") byId("question").focus();
  if (now === "exercises") await showExercises(byId("exercises"), { say, fail });
  if (now === "class") await showOverview(byId("class"), { fail });
  if (now && now !== "ask") byId(ROOMS[now][1]).querySelector("h2").focus();
}

// ---- the conversation ----

const pictures = tray(byId("tray"), { say, onChange: () => hint() });

function hint() {
  const shown = turns.flatMap((turn) => turn.pictures).length;
  const words = asking ? "The answer is coming. Write the next question meanwhile." : turns.length
    ? `The conversation goes on: the model still sees ${shown === 1 ? "the picture" : `the ${shown} pictures`} from before. Add more, or just ask.`
    : model === "embedded" ? EMBEDDED : "Add pictures, put them in order, and ask about them: they are numbered as they stand.";
  byId("hint").textContent = words;
  byId("new").hidden = asking || !turns.length;
  byId("again").hidden = asking || !shown;
  byId("examples").hidden = asking || turns.length > 0 || pictures.pictures().length > 0;
}

async function askNext() {
  if (asking) return say("The answer before it is still coming.");
  const turn = { number: turns.length + 1, pictures: pictures.pictures(), text: byId("question").value.trim() };
  if (!turn.text) {
    byId("question").focus();
    return fail(new Failure("There is no question yet: write one, then ask."));
  }
  calm();
  turn.messages = messagesOf(turns, turn.pictures, turn.text);
  turns.forEach(({ node }) => { node.querySelector("details").open = false; });
  setAsking(true);
  byId("question").value = "";
  pictures.clear();
  say("Asked.");
  try {
    await playTurn(byId("turns"), turn, { say, fail });
    turns.push(turn);
  } catch (error) { // the question goes back to where it was, beside what was written meanwhile
    byId("question").value = [turn.text, byId("question").value].filter(Boolean).join("\n");
    pictures.put(turn.pictures);
    error.name === "AbortError" ? say("Stopped.") : fail(error);
  }
  setAsking(false);
}

function setAsking(on) {
  asking = on;
  enable(byId("ask"), !on);
  hint();
}

/** Begin anew. */
function begin(shown = []) {
  forget();
  turns.splice(0).forEach(({ node }) => node.remove());
  pictures.clear();
  pictures.put(shown);
  hint();
  say("A new conversation.");
  byId("question").focus();
}

/** The server need not keep what was said; where it does not hear of it, it lets go by itself within the hour. */
function forget() {
  for (const { id } of turns) send(`/v1/answers/${id}`, { method: "DELETE", keepalive: true }).catch(() => {});
}

/** Leave nothing for who sits here next. */
function leave() {
  forget();
  token.drop();
  location.reload();
}

async function useExamples() {
  const files = EXAMPLES.map(async (name) => new File([await (await send(`/page/demo/${name}`, { accept: "image/*" })).blob()], name, { type: "image/png" }));
  await pictures.add(await Promise.all(files));
  byId("question").value ||= EXAMPLE;
  byId("question").focus();
}

// ---- hands and keys ----

const guarded = (work) => (...given) => Promise.resolve(work(...given)).catch(fail);
const hear = (id, kind, work) => byId(id).addEventListener(kind, guarded(work));
const withFiles = ({ dataTransfer }) => !byId("ask-room").hidden && dataTransfer?.types.includes("Files");

hear("composer", "submit", (event) => { event.preventDefault(); return askNext(); });
hear("question", "keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) return askNext();
});
hear("files", "change", async ({ target }) => {
  await pictures.add(target.files);
  target.value = ""; // the same file can be chosen again
});
hear("examples", "click", useExamples);
hear("new", "click", () => begin());
hear("again", "click", () => begin(turns.flatMap((turn) => turn.pictures)));
hear("leave", "click", leave);
hear("dismiss", "click", calm);
hear("sign-in", "submit", (event) => {
  event.preventDefault();
  token.set(byId("token").value.trim());
  byId("token").value = "";
  return enter();
});
document.addEventListener("paste", guarded((event) => {
  const images = [...event.clipboardData.files].filter(({ type }) => type.startsWith("image/"));
  if (byId("ask-room").hidden || !images.length) return;
  if (!event.clipboardData.types.includes("text/plain")) event.preventDefault(); // words that come along go where they belong
  return pictures.add(images);
}));
document.addEventListener("dragover", (event) => { if (withFiles(event)) { event.preventDefault(); document.body.classList.add("over"); } });
document.addEventListener("dragleave", ({ relatedTarget }) => { if (!relatedTarget) document.body.classList.remove("over"); });
document.addEventListener("drop", guarded((event) => {
  document.body.classList.remove("over");
  if (!withFiles(event)) return;
  event.preventDefault();
  return pictures.add(event.dataTransfer.files);
}));
hear("join", "submit", async (event) => {
  event.preventDefault();
  await join(byId("code").value, byId("student").value);
  return enter();
});
addEventListener("hashchange", guarded(() => (tokenFromAddress() ? enter() : openRoom())));

byId("join").hidden = classroom !== "yes";
tokenFromAddress();
hint();
if (token.get()) guarded(enter)();
else byId("door").hidden = false;
