// The viewer: an answer's tokens over the pictures they read. Knows no model, no kernel and no network.
//
// Cells and offline pages inline it, the widget and the service's page import it. `mount` draws into a shadow root with
// viewer.css. What a user or a model wrote becomes text, never markup.

const STRONGEST_TINT = 0.4; // text keeps 4.5:1 up to this
const BRIGHTEST = 10; // a token's own scale is at most so much finer
const SLIMMEST = 24; // longer pictures are drawn shorter
const ALL = -1;
const CHOSEN = ["name", "layer", "heads", "sinks"]; // what tells one reading from the others

/**
 * Draw a payload (see payload.py) into an element, in place of what it holds; returns `{ select(index), set(change), destroy() }`.
 * `onSelect(index)` hears which token is pinned, -1 for all together; `onChange({ tokens, region, layer, head })` hears
 * every choice; `request({ layer, head, sinks } or { method }, { signal, tell })` computes a reading that the payload does not
 * hold, tells how far it is, `tell(done, total, what)`, and gives up when the signal says so.
 */
export async function mount(host, payload, { css = "", onSelect, onChange, request } = {}) {
  const readings = [payload, ...(payload.readings ?? [])];
  const state = { hovered: ALL, focused: ALL, pins: [], region: null, name: payload.name, layer: null, heads: "", sinks: false };
  let lens = await openReading(payload, payload);
  const view = element("div", { className: payload.images.length ? "view both" : "view" });
  const root = shadow(host, view, css);

  const question = promptPart(payload);
  const answer = answerPart(payload);
  const reading = readingPart(payload);
  const pickers = pickersPart(payload, readings, state, request && payload.live, (change) => choose(change));
  const pictures = picturesPart(payload, pickers.node, (...region) => selectRegion(...region));
  const footer = footerPart(payload, savingPart(payload, view, css, () => lens));
  const aloud = element("div", { className: "aloud", "aria-live": "polite" });
  const left = element("div", { className: "left" }, question.node, answer.node, reading.node);
  view.append(paintsOf(payload), editsPart(payload), left, pictures.node, footer.node, aloud);

  /** The token that is drawn, or the two that are compared. */
  const drawn = () => {
    const over = state.hovered !== ALL ? state.hovered : state.focused;
    const [first, second] = state.pins;
    if (second === undefined) return [over !== ALL ? over : first ?? ALL];
    return [first, over !== ALL && over !== first ? over : second];
  };
  const show = () => {
    const tokens = drawn();
    question.show(lens, tokens.at(-1));
    answer.show(tokens.at(-1), state.pins);
    reading.show(lens, tokens, state);
    pictures.show(lens, tokens, state.region);
  };
  const refresh = () => {
    answer.colour(lens, state.region);
    pickers.show();
    footer.show(lens);
    show();
  };
  const tell = () => onChange?.({ tokens: [...state.pins], region: state.region, layer: state.layer, head: headOf(state) });

  const pin = (pins) => {
    Object.assign(state, { pins, hovered: ALL, focused: ALL });
    show();
    if (getComputedStyle(answer.node).position === "sticky") pictures.gallery?.scrollIntoView({ block: "nearest", behavior: pace() });
    aloud.textContent = describe(payload, lens, pins.at(-1) ?? ALL);
    onSelect?.(pins.at(-1) ?? ALL);
    tell();
  };
  const select = (index) => pin(index === ALL ? [] : [index]);
  const toggle = (index) => pin(state.pins.includes(index) ? state.pins.filter((one) => one !== index) : [...state.pins.slice(0, 1), index]);
  const selectRegion = (region, quiet = false) => {
    state.region = region;
    answer.colour(lens, region);
    show();
    if (quiet) return;
    aloud.textContent = region ? regionWords(payload, lens, region) : "No region.";
    tell();
  };

  let errand = null;
  /** Switch to another method, layer, heads or sinks; what is not there is computed, or falls back to what is. */
  const choose = async (change, quiet = false) => {
    errand?.abort();
    for (const key of CHOSEN) state[key] = lens[key]; // whatever was under way is not what is drawn
    Object.assign(state, change);
    const mine = (errand = new AbortController());
    let found = match(readings, state);
    const isNew = !readings.some(({ name }) => name === state.name);
    if (!found && request && (isNew || state.name === payload.name)) {
      const wanted = isNew ? { method: state.name } : { layer: state.layer, head: headOf(state), sinks: state.sinks };
      const say = (how) => pickers.say(`Computing ${isNew ? `${state.name} ` : ""}… ${how}`, () => mine.abort());
      say("");
      const progress = (done, total, what) => say(`${done} of ${total} ${what}`);
      const answered = await request(wanted, { signal: mine.signal, tell: progress });
      if (mine !== errand) return;
      pickers.say(answered.error ?? "");
      if (answered.reading) readings.push((found = answered.reading));
    }
    found ??= match(readings, { ...state, heads: "", sinks: false }) ?? readings.find(({ name }) => name === state.name) ?? match(readings, lens);
    const opened = await openReading(payload, found);
    if (mine !== errand) return;
    lens = opened;
    for (const key of CHOSEN) state[key] = found[key];
    refresh();
    if (!quiet) tell();
  };

  const { list, chips } = answer;
  const indexOf = (event) => chips.indexOf(event.target.closest(".chip"));
  listen(list, {
    pointerover(event) {
      if (event.pointerType === "touch") return; // a finger's tap pins
      state.hovered = indexOf(event);
      show();
    },
    pointerleave() { state.hovered = ALL; show(); },
    click(event) {
      const index = indexOf(event);
      if (index !== ALL) toggle(index);
    },
    focusin(event) {
      state.focused = indexOf(event);
      chips.forEach((chip, k) => { chip.tabIndex = k === state.focused ? 0 : -1; });
      show();
    },
    focusout() { state.focused = ALL; show(); },
    keydown(event) {
      const index = indexOf(event);
      const action = keyAction(event, index, chips.length, getComputedStyle(list).direction === "rtl");
      if (!action) return;
      event.preventDefault();
      event.stopPropagation(); // or the notebook takes the arrow keys
      if (action.toggle) return toggle(index);
      if (action.clear) return select(ALL);
      state.hovered = ALL; // the keys win over a resting pointer
      chips[action.focus].focus();
      show();
    },
  });
  reading.button.addEventListener("click", () => { state.region = null; answer.colour(lens, null); select(ALL); });
  refresh();
  const set = ({ tokens, region, layer, head, name }) => {
    if (tokens) { state.pins = tokens.filter((k) => k >= 0 && k < chips.length).slice(0, 2); show(); }
    if (region !== undefined) selectRegion(payload.images[region?.picture] ? region : null, true);
    if (readings.some((one) => one.name === name)) return choose({ name, layer: null, heads: "", sinks: false }, true);
    if (layer !== undefined || head !== undefined) {
      const heads = head === undefined ? state.heads : head === null ? "" : `head ${head}`;
      return choose({ name: payload.name, layer: layer === undefined ? state.layer : layer, heads }, true);
    }
  };
  return { select, set, destroy: () => { errand?.abort(); pickers.stop(); root.replaceChildren(); } };
}

const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
const pace = () => (calm() ? "auto" : "smooth");
const modified = (event) => event.ctrlKey || event.metaKey || event.altKey;
const headOf = ({ heads }) => (/^head \d+$/.test(heads) ? Number(heads.slice(5)) : null);
const match = (readings, state) => readings.find((one) => CHOSEN.every((key) => one[key] === state[key]));

/** What a key does on a token: `{focus}`, `{toggle}`, `{clear}`, or nothing. */
function keyAction(event, index, count, rightToLeft) {
  if (modified(event) || index === ALL) return null;
  const forward = { focus: Math.min(index + 1, count - 1) };
  const back = { focus: Math.max(index - 1, 0) };
  return {
    ArrowRight: rightToLeft ? back : forward, ArrowLeft: rightToLeft ? forward : back, ArrowDown: forward, ArrowUp: back,
    Home: { focus: 0 }, End: { focus: count - 1 }, Enter: { toggle: true }, " ": { toggle: true }, Escape: { clear: true },
  }[event.key];
}

// ---- parts of the view ----

function editsPart({ edits = [] }) {
  if (!edits.length) return "";
  return element("section", { className: "edits" }, ...edits.map((edit) => element("p", {}, element("b", {}, "Edited while answering: "), edit)));
}

/** The question; its words are tinted by what the token drawn read of them. */
function promptPart({ parts, title, words = [] }) {
  if (!parts.length && !title) return { node: "", show() {} };
  const box = element("p", { className: "prompt", dir: "auto" });
  const spans = [];
  for (const part of [words, parts, [title]].find(({ length }) => length)) {
    if (typeof part === "number") { box.append(badge(part)); continue; }
    const [, gap, word] = /^(\s*)(.*)$/s.exec(part);
    spans.push(element("span", { className: "word" }, word));
    box.append(gap, spans.at(-1));
  }
  if (box.textContent.length > 600) assign(box, { tabIndex: 0, role: "region", "aria-label": "Question" }); // it scrolls
  let say = () => "";
  listen(box, { pointerover: ({ target }) => { if (target !== box) target.title = say(spans.indexOf(target)); } });
  const show = (lens, index) => {
    const shares = lens.words(index);
    say = (k) => (shares && k >= 0 ? lens.text(shares[k]) : "");
    const most = Math.max(...(shares ?? []), 1e-9);
    spans.forEach((span, k) => {
      const strength = shares ? Math.round((30 * shares[k]) / most) : 0;
      if (span.dataset.strength === String(strength)) return; // hovering touches only what changes
      span.dataset.strength = strength;
      span.style.background = strength ? `color-mix(in srgb, var(--fg) ${strength}%, transparent)` : "";
    });
  };
  return { node: section("Question", box), show };
}

/** The tokens as chips, tinted by their leading picture or by a region; bars below them. */
function answerPart(payload) {
  const { tokens, images, probabilities, changed = [] } = payload;
  const list = element("div", { className: "tokens", role: "listbox", "aria-label": "Answer, token by token", "aria-multiselectable": "true", dir: direction(tokens) });
  const bars = tokens.map(() => emptyBar(payload, true));
  const chips = tokens.map((token, index) => {
    const face = element("span", {}, element("bdi", {}, visible(token)), element("sup"));
    const sure = element("i");
    sure.style.width = `${100 * (probabilities?.[index] ?? 0)}%`;
    const chip = element("span", { className: "chip", role: "option", "aria-selected": "false", tabIndex: index ? -1 : 0 }, face, probabilities ? sure : "", bars[index].node);
    if (probabilities) chip.title = `probability ${chance(probabilities[index])}`;
    chip.classList.toggle("ends", /^\s/.test(tokens[index + 1] ?? "")); // where lines may break
    chip.classList.toggle("changed", changed.includes(index));
    list.append(chip);
    if (token.includes("\n")) list.append(element("br"));
    return chip;
  });
  const colourChips = (lens, region) => {
    const lead = tokens.map((_, index) => (region ? [region.picture, lens.regionSum(region, index)] : leading(payload, lens, index)));
    const strongest = Math.max(...lead.map(([, share]) => share), lens.shares ? 1e-3 : 1e-9);
    chips.forEach((chip, index) => {
      const face = chip.firstChild;
      const [picture, share] = lead[index];
      const strength = Math.max(0, share) / strongest;
      face.lastChild.dataset.picture = picture >= 0 && !region ? picture + 1 : ""; // no text: a chip's name is its token
      face.style.background = picture >= 0 ? alpha(colour(picture), STRONGEST_TINT * strength) : "";
      setBar(bars[index], region ? images.map((_, k) => (k === picture ? 100 * strength : 0)) : lengthsOf(lens, index));
      chip.setAttribute("aria-label", (changed.includes(index) ? "changed; " : "") + (region ? `${visible(tokens[index])}: ${lens.text(share)} of it in the region` : describe(payload, lens, index)));
    });
  };
  const body = tokens.length ? list : element("p", { className: "empty" }, "The answer is empty: no tokens.");
  let before = [];
  const show = (index, pins) => {
    for (const k of new Set([...before, index, ...pins])) {
      const chip = chips[k];
      if (!chip) continue;
      chip.classList.toggle("now", k === index);
      chip.classList.toggle("pinned", pins.includes(k));
      chip.setAttribute("aria-selected", String(pins.includes(k)));
      chip.dataset.pin = (pins.length > 1 && "AB"[pins.indexOf(k)]) || "";
    }
    list.classList.toggle("paired", pins.length > 1);
    before = [index, ...pins];
  };
  return { node: assign(section("Answer", body), { className: "answer" }), list, chips, show, colour: colourChips };
}

/** The numbers of what is drawn: one token, two, or a region; and what the answer rests on. */
function readingPart(payload) {
  const { tokens, columns, probabilities, verdict, sink_note: sink = "" } = payload;
  const name = element("b", { dir: "auto" });
  const sure = element("p", { className: "sure" });
  const button = element("button", { type: "button" }, "All tokens");
  const bar = emptyBar(payload);
  const numbers = columns.map(() => element("span"));
  const legend = element("ul", { className: "legend" }, ...columns.map((column, k) =>
    element("li", { title: column === "sink" ? sink : "" }, swatch(columnFill(payload, k)), columnName(column), numbers[k])));
  const show = (lens, shown, { pins, region }) => {
    const index = shown.at(-1);
    name.textContent = sided(shown, (one) => nameOf(tokens, one));
    sure.textContent = probabilities ? `Probability, the line under a token: ${sided(shown, (one) => surely(probabilities, one))}` : "";
    legend.classList.toggle("two", shown.length > 1);
    button.hidden = !pins.length && !region;
    setBar(bar, lengthsOf(lens, index));
    numbers.forEach((number, k) => { number.textContent = shown.map((one) => lens.text(lens.numbers(one)?.[k])).join(" · "); });
  };
  const head = element("div", { className: "read-head" }, name, button);
  const judged = verdict ? element("p", { className: "verdict", dir: "auto" }, element("b", {}, "Verdict: "), verdict) : "";
  return { node: tokens.length ? element("section", { className: "read" }, judged, head, probabilities ? sure : "", bar.node, legend) : "", button, show };
}

/** Which method, layer, heads; whether sinks count. Only where there is a choice. */
function pickersPart(payload, readings, state, live, choose) {
  const there = (name) => readings.some((one) => one.name === name);
  const names = [...new Set([...readings.map(({ name }) => name), ...(live?.methods ?? [])])];
  const node = element("div", { className: "controls" });
  const method = picker("Method", names.map((name) => [name, name]), (name) => choose({ name, layer: null, heads: "", sinks: false }));
  const layers = () => (live && state.name === payload.name ? [...Array(live.layers).keys()]
    : readings.filter((one) => one.name === state.name && !one.heads && one.layer !== null).map(({ layer }) => layer));
  const slide = slider("Layer", 0, 0, (step) => { stop(); goTo(Number(step)); });
  const said = element("span", { className: "wide" });
  const play = element("button", { type: "button", "aria-label": "Play the layers" }, "▶");
  const layer = element("div", {}, slide.node, play, said);
  const goTo = (step) => choose({ layer: step ? layers()[step - 1] : null, heads: headOf(state) === null ? "" : state.heads });
  let timer = 0;
  const stop = () => { clearInterval(timer); timer = 0; play.textContent = "▶"; };
  const step = () => {
    const next = Number(slide.input.value) + 1;
    if (next > slide.input.max || !node.isConnected) return stop();
    goTo(next);
  };
  play.addEventListener("click", () => {
    if (timer) return stop();
    if (slide.input.value === slide.input.max) slide.input.value = 0;
    step();
    if (calm()) return; // each click is one step
    timer = setInterval(step, 700);
    play.textContent = "❚❚";
  });
  const sets = [...new Set(readings.map(({ heads }) => heads).filter(Boolean))];
  const single = [...Array(live?.heads ?? 0).keys()].map((head) => `head ${head}`);
  const heads = picker("Heads", [["", "mean of all heads"], ...[...sets, ...single].map((name) => [name, name])], (name) =>
    choose({ heads: name, layer: sets.includes(name) ? null : state.layer, sinks: false }));
  const sinks = checkbox("Count sinks in", () => choose({ sinks: sinks.input.checked, ...(live ? {} : { layer: null, heads: "" }) }));
  const news = element("output");
  const cancel = element("button", { type: "button" }, "Cancel");
  const busy = element("div", {}, news, cancel);
  let onCancel = null;
  cancel.addEventListener("click", () => onCancel?.());
  const say = (text, stopIt = null) => {
    onCancel = stopIt;
    news.textContent = text;
    visibly(busy, text);
    visibly(cancel, stopIt);
  };
  say("");
  node.append(method.node, layer, heads.node, sinks.node, busy);
  node.addEventListener("keydown", (event) => event.stopPropagation());
  const show = () => {
    const all = layers();
    const own = state.name === payload.name;
    for (const option of method.select.options) option.textContent = option.value + (there(option.value) ? "" : " (compute)");
    method.select.value = state.name;
    slide.input.max = all.length;
    slide.input.value = state.layer === null ? 0 : all.indexOf(state.layer) + 1;
    said.textContent = state.layer === null ? (sets.includes(state.heads) ? "their own layers" : "mean of all layers") : `layer ${state.layer}`;
    slide.input.setAttribute("aria-valuetext", said.textContent);
    heads.select.value = state.heads;
    sinks.input.checked = state.sinks;
    const useful = [names.length > 1, all.length > 0, own && sets.length + single.length > 0, own && Boolean(live || readings.some((one) => one.sinks))];
    useful.forEach((on, k) => visibly(node.children[k], on));
    visibly(node, useful.includes(true));
  };
  return { node, show, stop, say };
}

/** The pictures under their cells, and how cells are drawn. */
function picturesPart(payload, pickers, onRegion) {
  const { images, tokens } = payload;
  if (!images.length) {
    const none = element("p", { className: "empty" }, "No pictures were part of this question: no heatmap.");
    return { node: element("div", {}, pickers, none), show() {} };
  }
  const readout = element("output");
  const where = element("p", { className: "where", dir: "auto" });
  const ends = { low: element("span"), high: element("span"), words: element("span") };
  let now = { lens: null, shown: [ALL], region: null };
  const gallery = element("div", { className: "pictures" });
  const again = () => show(now.lens, now.shown, now.region);

  const cards = images.map((image, k) => {
    const share = element("b");
    const fill = element("i");
    fill.style.background = colour(k);
    const pair = element("div", { className: "pair" });
    const figure = element("figure", {}, element("figcaption", {}, badge(k), share), pair, element("div", { className: "share" }, fill));
    const card = { figure, share, fill, pair, stacks: [], image, k };
    addStack(card, images.length);
    figure.style.setProperty("--ratio", slotRatio(image).toFixed(4));
    pair.style.width = `${Math.min(100, (100 * shapeOf(image)) / slotRatio(image))}%`;
    selectable(card, () => now, readout, onRegion);
    return card;
  });
  gallery.style.setProperty("--high", `${rowHeight(images).toFixed(1)}px`);
  gallery.append(...cards.map(({ figure }) => figure));

  const overlay = slider("Overlay", 100, tokens.length ? 100 : 0, (value) => gallery.style.setProperty("--overlay", value / 100));
  const hide = slider("Hide below", 95, 0, () => { hidden.textContent = `${hide.input.value} % of the scale`; again(); });
  const hidden = element("span", {}, "0 % of the scale");
  hide.node.append(hidden);
  const same = checkbox("Same scale for all tokens", again);
  const smooth = checkbox("Smooth", () => gallery.classList.toggle("smooth", smooth.input.checked));
  const marks = checkbox(images.some(({ boxes }) => boxes.length) ? "Tiles and known boxes" : "Tile borders", () => gallery.classList.toggle("plain", !marks.input.checked));
  marks.input.checked = true;
  visibly(marks.node, images.some(({ boxes, tiles }) => boxes.length || tiles.length));
  const norm = picker("Scale", [["one", "one scale for all pictures"], ["own", "a scale per picture: do not compare them"]], again);
  visibly(norm.node, images.length > 1);
  const mode = picker("Two tokens", [["side", "side by side"], ["difference", "difference, A minus B"]], again);
  const ramp = swatch("url(#unsigned)");
  ramp.classList.add("ramp");
  const hatch = element("div", {}, swatch("url(#missing)"), "no number");
  const scale = element("div", { className: "scale" },
    element("div", {}, ends.low, ramp, ends.high, ends.words), norm.node, mode.node, same.node, smooth.node, marks.node, hide.node, overlay.node, hatch, readout);
  scale.addEventListener("keydown", (event) => event.stopPropagation());

  /** Where pictures lie in a row to swipe: move to the one that a token read most. */
  const swipe = (lens, index) => {
    const [k] = index === ALL ? [ALL] : leading(payload, lens, index);
    if (k < 0 || gallery.scrollWidth <= gallery.clientWidth) return;
    const { offsetLeft, offsetWidth } = cards[k].figure;
    gallery.scrollTo({ left: offsetLeft - (gallery.clientWidth - offsetWidth) / 2, behavior: pace() });
  };
  const show = (lens, shown, region) => {
    if (shown.at(-1) !== now.shown.at(-1)) swipe(lens, shown.at(-1));
    const two = shown.length > 1;
    const difference = two && mode.select.value === "difference";
    const sides = two && !difference ? 2 : 1;
    const signed = lens.signed || difference;
    const own = norm.select.value === "own";
    now = { lens, shown, region, difference };
    const fields = images.map((_, k) => shown.map((index) => lens.field(index, k))).map((pair) => (difference ? [minus(...pair)] : pair));
    const reach = fields.map((ones) => Math.max(...ones.map(peak)));
    const whole = lens.top(shown.at(-1));
    const shared = difference ? Math.max(...reach) : same.input.checked || lens.isShared ? whole : Math.max(...reach, whole / BRIGHTEST);
    const tops = reach.map((top) => (own ? top : shared));
    const rows = shown.map((index) => lens.numbers(index));
    cards.forEach((card, k) => {
      while (card.stacks.length < sides) addStack(card, images.length);
      while (card.stacks.length > sides) card.stacks.pop().remove();
      const numbers = rows.map((row) => row?.[k]);
      const words = difference ? lens.text(numbers[0] - numbers[1], true) : sided(numbers, (one) => lens.text(one));
      card.stacks.forEach((stack, side) => {
        const canvas = stack.querySelector("canvas");
        paint(canvas, lens.grid(k), fields[k][side], tops[k], signed, hide.input.value / 100);
        canvas.setAttribute("aria-label", `Heatmap on picture ${k + 1}: ${words}`);
      });
      card.share.textContent = words;
      card.fill.style.width = `${Math.max(0, (100 * (numbers.at(-1) ?? 0)) / lens.strongest)}%`;
      for (const stack of card.stacks) {
        stack.querySelector(".region")?.remove();
        if (region?.picture === k) mark(stack, "region", region.box, card.image);
      }
    });
    gallery.classList.toggle("two", sides > 1);
    ramp.firstChild.setAttribute("fill", `url(#${signed ? "signed" : "unsigned"})`);
    ends.low.textContent = !signed ? "0" : own ? "least" : number(-shared);
    ends.high.textContent = own ? "most" : number(shared);
    const whose = own ? ", a scale per picture" : lens.isShared ? ", one scale for all answers" : images.length > 1 ? ", one scale for all pictures" : "";
    ends.words.textContent = `per cell${lens.unit ? `, ${lens.unit}` : ""}${whose}`;
    visibly(same.node, !lens.isShared);
    visibly(where, region);
    if (region) where.textContent = regionWords(payload, lens, region);
    visibly(mode.node, two);
    visibly(hatch, lens.missing);
  };
  overlay.input.dispatchEvent(new Event("input"));
  const node = section(images.length > 1 ? "Pictures" : "Picture", pickers, gallery, where, scale);
  return { node: assign(node, { className: "right" }), show, gallery };
}

/** A picture with its cells and its marks; a second one stands beside it when two tokens are compared. */
function addStack({ pair, stacks, image, k }, count) {
  const photo = element("img", { src: image.src, alt: `picture ${k + 1} of ${count}` });
  const stack = element("div", { className: "stack" }, photo, element("canvas", { role: "img" }));
  for (const box of image.tiles) mark(stack, "tile", box, image);
  for (const box of image.boxes) mark(stack, "box", box, image);
  stack.style.aspectRatio = String(shapeOf(image));
  pair.append(stack);
  stacks.push(stack);
}

/** Pointing tells a cell's number; dragging, or the keys, selects a region. */
function selectable(card, now, readout, onRegion) {
  const { pair, image, k, stacks } = card;
  const stack = stacks[0];
  assign(stack, { tabIndex: 0, role: "application",
    "aria-label": `Picture ${k + 1}: arrow keys move, Shift and arrows select a region, Enter a cell, Escape clears` });
  let [start, anchor] = [null, null]; // of a drag, and of a selection with the keys
  let cursor = { row: 0, col: 0 };
  let outline = null;
  const cellAt = (event, over) => {
    const box = over.getBoundingClientRect();
    const [rows, cols] = now().lens.grid(k);
    const at = (place, length, count) => clamp(Math.floor((place / length) * count), count);
    return { row: at(event.clientY - box.top, box.height, rows), col: at(event.clientX - box.left, box.width, cols) };
  };
  const boxOf = (one, other = one) => {
    const [rows, cols] = now().lens.grid(k);
    const span = (a, b, unit) => [Math.min(a, b) * unit, (Math.max(a, b) + 1) * unit];
    const [left, right] = span(one.col, other.col, image.width / cols);
    const [top, bottom] = span(one.row, other.row, image.height / rows);
    return [left, top, right, bottom];
  };
  const point = (cell, over) => {
    const { lens, shown, difference } = now();
    const at = cell.row * lens.grid(k)[1] + cell.col;
    const values = shown.map((index) => lens.field(index, k)[at]);
    const words = difference ? `A minus B ${about(values[0] - values[1])}` : sided(values, about);
    readout.textContent = `Picture ${k + 1}, row ${cell.row + 1}, column ${cell.col + 1}: ${words}`;
    outline?.remove();
    outline = mark(over, "cell", boxOf(cell), image);
  };
  const leave = () => { outline?.remove(); readout.textContent = ""; };
  listen(pair, {
    pointermove(event) {
      const over = event.target.closest(".stack");
      if (!over) return leave();
      const cell = cellAt(event, over);
      point(cell, over);
      if (!start || (!start.moved && cell.row === start.row && cell.col === start.col)) return;
      start.moved = true;
      onRegion({ picture: k, box: boxOf(start, cell) }, true);
    },
    pointerleave: leave,
    pointercancel() { start = null; }, // the finger swipes
    pointerdown(event) {
      const over = event.target.closest(".stack");
      if (over && event.button === 0) start = cellAt(event, over);
    },
    pointerup(event) {
      const over = event.target.closest(".stack");
      if (!start || !over) return;
      const region = { picture: k, box: boxOf(start, cellAt(event, over)) };
      const old = now().region;
      const again = !start.moved && old?.picture === k && String(old.box) === String(region.box); // the same cell: let go
      cursor = start;
      start = null;
      onRegion(again ? null : region);
    },
  });
  const onKey = (event) => {
    const [rows, cols] = now().lens.grid(k);
    const move = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    if (modified(event) || !(move || ["Enter", " ", "Escape"].includes(event.key))) return;
    event.preventDefault();
    event.stopPropagation();
    if (event.key === "Escape") { anchor = null; return onRegion(null); }
    if (!move) return onRegion({ picture: k, box: boxOf(cursor) });
    if (event.shiftKey) anchor ??= cursor;
    else anchor = null;
    cursor = { row: clamp(cursor.row + move[0], rows), col: clamp(cursor.col + move[1], cols) };
    point(cursor, stack);
    if (anchor) onRegion({ picture: k, box: boxOf(anchor, cursor) });
  };
  listen(stack, { keydown: onKey, blur: leave, focus: () => stack.matches(":focus-visible") && point(cursor, stack) });
}

/** What is drawn, by which model, and what that does not prove. */
function footerPart({ honesty, notes, model, sink_note: sink }, saving) {
  const words = element("div");
  const line = (text, title) => element("p", { dir: "auto" }, title ? element("b", {}, `${title}: `) : "", text);
  const show = (lens) => words.replaceChildren(
    line(lens.method, "Drawn"), ...(model ? [line(model, "Model")] : []), ...(sink ? [line(sink, "Sink")] : []),
    ...[lens.honesty || honesty, lens.card && `Metric card: ${lens.card}`, ...notes].filter(Boolean).map((text) => line(text)));
  return { node: element("footer", {}, words, saving), show };
}

// ---- layout ----

/** Height of a row of pictures before it grows: up to four pictures share one row, more share two. */
function rowHeight(images) {
  const high = (images.length > 4 ? 1560 : 780) / images.reduce((sum, image) => sum + slotRatio(image), 0);
  return Math.max(120, Math.min(high, images.length === 1 ? 330 : 240));
}

/** Shape of a picture as drawn, and of its slot, which a very wide or very tall one does not fill. */
const shapeOf = ({ width, height }) => Math.max(1 / SLIMMEST, Math.min(width / height, SLIMMEST));
const slotRatio = (image) => Math.max(0.36, Math.min(shapeOf(image), 2.2));

/** Mark a box of the picture's pixels. */
function mark(stack, kind, [x0, y0, x1, y1], { width, height }) {
  const node = element("div", { className: `mark ${kind}` });
  const inset = [y0 / height, 1 - x1 / width, 1 - y1 / height, x0 / width];
  node.style.inset = inset.map((share) => `${(100 * share).toFixed(3)}%`).join(" ");
  stack.append(node);
  return node;
}

// ---- words ----

const columnName = (column) => column.replace(/^image_/, "picture ");
const number = (value) => String(Number(value.toPrecision(3)));
const about = (value) => (Number.isNaN(value) ? "no number" : `about ${number(value)}`);
const clamp = (index, count) => Math.max(0, Math.min(index, count - 1));

function describe(payload, lens, index) {
  const { tokens, columns, probabilities } = payload;
  const row = lens.numbers(index);
  const sure = probabilities ? `; probability ${surely(probabilities, index)}` : "";
  return `${nameOf(tokens, index)}: ${row ? columns.map((column, k) => `${columnName(column)} ${lens.text(row[k])}`).join(", ") : "no shares captured"}${sure}`;
}

const chance = (value) => (value >= 0.001 ? `${(100 * value).toFixed(1)} %` : "below 0.1 %");
/** How sure the model was of a token, or of all of them in a row. */
const surely = (probabilities, k) => (k === ALL ? `${chance(probabilities.reduce((all, one) => all * one, 1))}, all tokens in a row` : chance(probabilities[k]));
const nameOf = (tokens, k) => (k === ALL ? "All answer tokens" : `Token ${k + 1} of ${tokens.length}, ${visible(tokens[k])}`);
const sided = (ones, text) => ones.map((one, side) => (ones.length > 1 ? `${"AB"[side]} ` : "") + text(one)).join(" · ");

/** Which tokens read a region most. */
function regionWords({ tokens }, lens, region) {
  const sums = tokens.map((token, index) => [lens.regionSum(region, index), token]).sort((a, b) => b[0] - a[0]);
  const most = sums.slice(0, 3).map(([sum, token]) => `“${visible(token)}” ${lens.text(sum)}`).join(", ");
  return `Region of picture ${region.picture + 1}, pixels ${region.box.map(Math.round).join(", ")}: all tokens ${lens.text(lens.regionSum(region, ALL))}${most ? `; most ${most}` : ""}`;
}

/** A token as it can be seen; the space before a word shows as a gap between chips. */
function visible(token) {
  const shown = token.replace(/\n/g, "⏎").replace(/\t/g, "⇥");
  return shown.trim() || shown.replace(/\s/g, "␣") || "∅";
}

/** Direction of the whole answer, by its first letter: chips would each decide for themselves. */
function direction(tokens) {
  const first = tokens.join("").match(/\p{L}/u)?.[0] ?? "";
  return /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff]/.test(first) ? "rtl" : "ltr";
}

// ---- elements ----

function badge(picture) {
  const node = element("span", { className: "badge", title: `picture ${picture + 1}` }, String(picture + 1));
  node.style.background = colour(picture);
  node.style.color = inkOn(picture);
  return node;
}

function listen(node, handlers) {
  for (const [name, handler] of Object.entries(handlers)) node.addEventListener(name, handler);
}

function picker(name, options, onPick) {
  const select = element("select", { "aria-label": name }, ...options.map(([value, text]) => element("option", { value }, text)));
  select.addEventListener("change", () => onPick(select.value));
  return { node: element("label", {}, name, select), select };
}

function checkbox(name, onToggle) {
  const input = element("input", { type: "checkbox" });
  input.addEventListener("change", onToggle);
  return { node: element("label", {}, input, name), input };
}

function slider(name, max, value, onMove) {
  const input = element("input", { type: "range", min: 0, max, value, "aria-label": name });
  input.addEventListener("input", () => onMove(input.value));
  return { node: element("label", {}, name, input), input };
}

const section = (title, ...children) => element("section", {}, element("h3", {}, title), ...children);

function visibly(node, on) {
  node.style.display = on ? "" : "none";
}

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function shadow(host, view, css) {
  const root = host.shadowRoot ?? host.attachShadow({ mode: "open" });
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(css);
  root.adoptedStyleSheets = [sheet]; // allowed under any content security policy, unlike a style element
  root.replaceChildren(view);
  host.replaceChildren();
  return root;
}

function element(tag, properties = {}, ...children) {
  const node = assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function assign(node, properties) {
  for (const [name, value] of Object.entries(properties)) {
    if (name === "role" || name.startsWith("aria-")) node.setAttribute(name, value);
    else node[name] = value;
  }
  return node;
}
