// Class mode: joining, exercises to predict, and the teacher's overview. Knows the service's /class, and no question that is asked freely.

import { element, enable } from "/page/elements.js";
import { get, send, token } from "/page/service.js";

const EVERY = 4000; // milliseconds between two looks at the class
const MEANING = "Read: share of the attention. Needed: how much less likely the answer is without the picture (log-probability). The two need not agree.";
const ALONE = "This address reaches this machine alone. For a class start the server with --host 0.0.0.0, and open it under this machine’s name or number.";
const KEPT = "Names, questions and points are kept in this server’s memory alone: nothing is written to disk or sent elsewhere, " +
  "and all of it is gone when the server ends. Pictures are not shown here.";
const LOOPBACK = ["127.0.0.1", "localhost", "[::1]"];

/** Join with a code; the token that comes back is one's own. */
export async function join(code, name) {
  const joined = await (await send("/class/join", { method: "POST", body: { code, name } })).json();
  token.set(joined.token);
}

export const whoAmI = () => get("/class/me");

// ---- exercises ----

/** Fill a room with the exercises. */
export async function showExercises(room, { say, fail }) {
  const { exercises } = await get("/class/exercises");
  const score = element("p", { className: "score" });
  const tell = () => { score.textContent = scoreWords(exercises); };
  tell();
  const cards = exercises.map((one) => exerciseCard(one, { say, fail, tell }));
  const about = element("p", { className: "small" }, "Say first which picture the answer needs, then look. Every exercise can be predicted once.");
  room.querySelector(".filled").replaceChildren(about, score, ...cards);
}

function scoreWords(exercises) {
  const done = exercises.filter((one) => one.done);
  const points = done.reduce((sum, one) => sum + one.done.points, 0);
  const possible = exercises.reduce((sum, one) => sum + one.possible, 0);
  return `${points} of ${possible} points; ${done.length} of ${exercises.length} exercises done`;
}

function exerciseCard(one, { say, fail, tell }) {
  const title = element("h3", { id: `exercise-${one.number}` }, `Exercise ${one.number}`);
  const pictures = element("ol", { className: "tray", "aria-label": "Pictures" }, ...one.pictures.map(pictureCard));
  const place = element("div", { className: "predict" });
  const question = element("p", { className: "said", dir: "auto" }, one.question);
  const node = element("article", { className: "exercise", "aria-labelledby": title.id }, title, question, pictures, place);
  const reveal = (found) => {
    const shown = revealPart(one, found);
    place.replaceChildren(shown);
    return shown;
  };
  if (one.done) reveal(one.done);
  else place.append(predictionForm(one, async (prediction) => {
    one.done = await (await send(`/class/exercises/${one.number}`, { method: "POST", body: prediction })).json();
    const shown = reveal(one.done);
    tell();
    say(`${one.done.points} of ${one.possible} points.`);
    shown.tabIndex = -1;
    shown.focus();
  }, fail));
  return node;
}

function pictureCard(name, k) {
  const words = name.replace(/\.\w+$/, "").replaceAll("_", " ");
  const image = element("img", { src: `/page/demo/${name}`, alt: `picture ${k + 1}: ${words}` });
  return element("li", { className: "card" }, image, element("span", { className: "number" }, String(k + 1)));
}

function predictionForm(one, predict, fail) {
  const name = `exercise-${one.number}`;
  const which = choice("Which picture does the answer need most?", `${name}-picture`, one.pictures.map((_, k) => [`image_${k + 1}`, `picture ${k + 1}`]));
  const outcomes = [["yes", "the answer stays the same"], ["no", "the answer changes"]];
  const stays = choice("And if nothing can read that picture?", `${name}-survives`, outcomes);
  const go = element("button", { type: "submit", className: "main" }, "Predict and look");
  const form = element("form", { className: "prediction" }, which, stays, element("p", { className: "row" }, go));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (go.getAttribute("aria-disabled") === "true") return;
    const given = new FormData(form);
    enable(go, false);
    try {
      await predict({ picture: given.get(`${name}-picture`), survives: given.get(`${name}-survives`) === "yes" });
    } catch (error) {
      fail(error);
    }
    enable(go, true);
  });
  return form;
}

function choice(legend, name, options) {
  const one = ([value, text]) => element("label", { className: "option" }, element("input", { type: "radio", name, value, required: true }), text);
  return element("fieldset", {}, element("legend", {}, legend), element("div", { className: "row" }, ...options.map(one)));
}

function revealPart(one, { answer, picture, survives, predicted, points, pictures }) {
  const stays = (yes) => (yes ? "stays the same" : "changes");
  const number = (name) => Number(name.split("_")[1]);
  const most = number(picture);
  const other = pictures[most - 1].without;
  const after = survives ? "is still the same." : `is “${other}”`;
  const happened = `The model says “${answer}” Picture ${most} counts most: without it the answer ${after}`;
  const guess = `You said picture ${number(predicted.picture)}, and that the answer ${stays(predicted.survives)}: `;
  const head = ["Picture", "Read", "Needed", "Without it"].map((text) => element("th", { scope: "col" }, text));
  const rows = pictures.map(({ read, needed, without }, k) => element("tr", { className: k + 1 === most ? "most" : "" },
    element("th", { scope: "row" }, String(k + 1)),
    element("td", {}, `${(100 * read).toFixed(0)} %`),
    element("td", {}, signed(needed)),
    element("td", { dir: "auto" }, without)));
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows));
  return element("div", { className: "revealed" },
    element("p", { dir: "auto" }, happened),
    element("p", {}, guess, element("b", {}, `${points} of ${one.possible} points.`)),
    scrolling("What the model did", table),
    element("p", { className: "small" }, MEANING));
}

const signed = (value) => `${value >= 0.005 ? "+" : ""}${Math.abs(value) < 0.005 ? "0.00" : value.toFixed(2)}`;

/** A table that is wider than a small screen scrolls by itself, by keys too. */
const scrolling = (label, table) => element("div", { className: "scrolls", role: "group", "aria-label": label, tabIndex: 0 }, table);

// ---- the teacher's overview ----

/** Fill a room with the overview, and follow the class for as long as somebody looks. */
export async function showOverview(room, { fail }) {
  const found = await get("/class/overview");
  const table = element("tbody");
  const count = element("p", { className: "score" });
  const head = ["Name", "Questions", "Points", "Last question", "Answer", "When", ...found.exercises.map((number) => `Ex. ${number}`)];
  const whole = element("table", {}, element("thead", {}, element("tr", {}, ...head.map((text) => element("th", { scope: "col" }, text)))), table);
  const address = element("b", {}, location.origin);
  const invite = element("p", {}, "Students open ", address, " and join with this code:");
  const code = element("p", { className: "code", "aria-label": found.code.split("").join(" ") }, `${found.code.slice(0, 4)} ${found.code.slice(4)}`);
  const alone = LOOPBACK.includes(location.hostname) ? element("p", { className: "small" }, ALONE) : "";
  const kept = element("p", { className: "small" }, KEPT);
  room.querySelector(".filled").replaceChildren(invite, code, alone, count, scrolling("The class", whole), kept);
  const draw = ({ students, exercises }) => {
    count.textContent = students.length ? `${students.length} in the class` : "Nobody has joined yet.";
    table.replaceChildren(...students.map((one) => studentRow(one, exercises)));
  };
  draw(found);
  const again = async () => {
    if (room.hidden || !whole.isConnected) return;
    try {
      if (!document.hidden) draw(await get("/class/overview"));
    } catch (error) {
      return fail(error); // opening the room again looks again
    }
    setTimeout(again, EVERY);
  };
  setTimeout(again, EVERY);
}

function studentRow({ name, questions, last_question: question, last_answer: answer, edits, asked_at: at, points }, exercises) {
  const cell = (text) => element("td", { dir: "auto" }, text);
  const asked = [question, ...edits.map((edit) => `(${edit})`)].join(" ");
  const sum = Object.values(points).reduce((all, one) => all + one, 0);
  const when = at ? new Date(1000 * at).toLocaleTimeString() : "–";
  const each = exercises.map((number) => String(points[number] ?? "–"));
  return element("tr", {}, element("th", { scope: "row", dir: "auto" }, name), ...[String(questions), String(sum), asked, answer, when, ...each].map(cell));
}
