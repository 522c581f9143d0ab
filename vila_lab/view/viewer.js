// The viewer: an answer's tokens over the pictures they read. Knows no model, no kernel and no network.
//
// One ES module for three hosts: a notebook cell and an offline page inline it, a widget imports it. `mount` draws into
// a shadow root, so no style leaks in or out. What a user or a model wrote becomes text nodes and attributes, never markup.

// Okabe-Ito, told apart with any colour vision, and a wine red for an eighth picture.
const PICTURE_COLOURS = ["#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#0072b2", "#d55e00", "#f0e442", "#882255"];
const VIRIDIS = "31688e 287c8e 21918c 20a486 35b779 5ec962 90d743 c8e020 fde725"; // its upper two thirds: purple would not show on a dimmed picture
const BLUE_RED = "3d9bff 7ab8ff b8d8ff f7f7f7 ffc9b8 ff9a7a ff5f3c"; // signed: zero in the middle, and no dark ends
const MISSING = 255;
const STRONGEST_TINT = 0.4; // text keeps 4.5:1 on every tint up to this, on white and on black
const STRONGEST_CELL = 0.88; // opacity of the cell at the top of the scale; half the number is half the opacity
const BRIGHTEST = 10; // a token's own scale is at most so much finer than the answer's: who hardly read stays faint
const ALL = -1;

const CSS = `
:host { all: initial; display: block; container-type: inline-size; color-scheme: inherit;
  --fg0: #1b1d21; --bg0: #ffffff; --accent0: #0b62c4; }
@media (prefers-color-scheme: dark) { :host { --fg0: #e8e8ea; --bg0: #121212; --accent0: #7ab8ff; } }
* { box-sizing: border-box; }
.view { --fg: var(--jp-content-font-color0, var(--vscode-editor-foreground, var(--fg0)));
  --bg: var(--jp-layout-color0, var(--vscode-editor-background, var(--bg0)));
  --accent: var(--jp-brand-color1, var(--accent0));
  --soft: color-mix(in srgb, var(--fg) 74%, var(--bg)); --line: color-mix(in srgb, var(--fg) 16%, var(--bg));
  --rest0: color-mix(in srgb, var(--fg) 58%, var(--bg)); --rest1: color-mix(in srgb, var(--fg) 36%, var(--bg));
  --rest2: color-mix(in srgb, var(--fg) 15%, var(--bg));
  font: 14px/1.5 var(--jp-content-font-family, system-ui, -apple-system, "Segoe UI", "Noto Sans", "Noto Sans CJK SC", sans-serif);
  color: var(--fg); background: var(--bg); display: grid; gap: 18px 40px; padding: 12px 8px; max-width: 1560px;
  font-variant-numeric: tabular-nums; }
h3 { font-size: 12px; font-weight: 600; color: var(--soft); margin: 0 0 4px; letter-spacing: .02em; }
p { margin: 0; }
b { font-weight: 600; }
.left { display: grid; gap: 18px; align-content: start; min-width: 0; }
.right { min-width: 0; }
.prompt { font-size: 16px; line-height: 1.6; white-space: pre-wrap; overflow-wrap: anywhere; }
.badge { display: inline-block; min-width: 1.5em; padding: 0 .35em; border-radius: 4px; text-align: center;
  font-size: 12px; font-weight: 700; line-height: 1.5em; margin-inline-end: .4em; }
.tokens { font-size: 16px; line-height: 1.35; max-height: 27rem; overflow-y: auto; padding: 3px; margin: -3px; }
.chip { display: inline-block; vertical-align: top; margin: 0 1px 8px 0; cursor: pointer; max-width: 100%; outline: none; }
.chip.ends { margin-inline-end: 6px; }
.chip > span { display: block; padding: 2px 5px 1px; border-radius: 4px 4px 0 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.chip sup { font-size: 10px; line-height: 1; margin-inline-start: 2px; vertical-align: 5px; font-weight: 600; }
.chip i { display: block; height: 22px; border-radius: 0 0 3px 3px; }
.chip.now, .chip.pinned { position: relative; z-index: 1; }
.chip.now { box-shadow: 0 0 0 2px var(--fg); border-radius: 4px; }
.chip.pinned { box-shadow: 0 0 0 3px var(--accent); border-radius: 4px; }
.chip:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px; border-radius: 4px; }
.read { display: grid; gap: 8px; }
.read-head { display: flex; gap: 10px; align-items: center; justify-content: space-between; min-height: 30px; }
.read-head b { overflow-wrap: anywhere; }
button { font: inherit; font-size: 13px; color: var(--fg); background: transparent; border: 1px solid var(--line);
  border-radius: 6px; padding: 2px 10px; cursor: pointer; white-space: nowrap; }
button:focus-visible, input:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
button[hidden] { display: inline-block; visibility: hidden; }
.bar { height: 12px; border-radius: 3px; }
.legend { display: grid; grid-template-columns: repeat(auto-fill, minmax(135px, 1fr)); gap: 3px 6px; list-style: none; margin: 0; padding: 0; font-size: 13px; }
.legend li { display: flex; align-items: center; gap: 6px; }
.legend i { width: 11px; height: 11px; border-radius: 2px; flex: none; }
.legend span { min-width: 3.6em; text-align: end; }
.pictures { --zoom: 1; display: flex; flex-wrap: wrap; gap: 18px 16px; align-items: flex-start; }
figure { margin: 0; max-width: 100%; min-width: 0; }
figcaption { display: flex; align-items: center; gap: 4px; margin-bottom: 5px; font-size: 14px; white-space: nowrap; }
.stack { position: relative; line-height: 0; border-radius: 3px; overflow: hidden; background: #777; }
.stack img { width: 100%; height: 100%; filter: grayscale(calc(.65 * var(--overlay))) brightness(calc(1 - .35 * var(--overlay))); }
.stack canvas { position: absolute; inset: 0; width: 100%; height: 100%; opacity: var(--overlay); image-rendering: pixelated; }
.share { height: 4px; margin-top: 5px; background: var(--rest2); border-radius: 2px; overflow: hidden; }
.share i { display: block; height: 100%; }
.scale { display: flex; flex-wrap: wrap; align-items: center; gap: 4px 22px; margin-top: 14px; font-size: 13px; color: var(--soft); }
.scale div, .scale label { display: flex; align-items: center; gap: 8px; }
.scale .ramp { width: 132px; height: 11px; border-radius: 2px; }
.scale .hatch { width: 11px; height: 11px; background: repeating-linear-gradient(135deg, #000 0 2px, #fff 2px 4px); }
.scale output { flex-basis: 100%; min-height: 1.5em; }
input { accent-color: var(--soft); margin: 0; }
input[type="range"] { width: 90px; }
footer { font-size: 13px; color: var(--soft); display: grid; gap: 2px; border-top: 1px solid var(--line); padding-top: 10px; overflow-wrap: anywhere; }
footer p { max-width: 110ch; }
footer b { color: var(--fg); }
.empty { color: var(--soft); font-size: 15px; }
.aloud { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
@container (min-width: 1400px) {
  .both { grid-template-columns: minmax(0, 1fr) minmax(0, 2fr); }
  .both footer { grid-column: 1 / -1; }
}
@container (min-width: 1560px) {
  .pictures { --zoom: 1.15; }
}
@media (forced-colors: active) { .chip.now { outline: 2px solid Highlight; } .bar, i, .badge { forced-color-adjust: none; } }
`;

/**
 * Draw a payload (see payload.py) into an element, in place of what it holds; returns `{ select(index), destroy() }`.
 * `onSelect(index)` hears which token the reader pins, -1 for all together.
 */
export async function mount(host, payload, { onSelect = () => {} } = {}) {
  const cells = await inflate(payload.cells);
  const heat = heatmaps(payload, cells);
  const root = host.shadowRoot ?? host.attachShadow({ mode: "open" });
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(CSS);
  root.adoptedStyleSheets = [sheet]; // allowed under any content security policy, unlike a style element
  const view = element("div", { className: payload.images.length ? "view both" : "view" });
  const state = { hovered: ALL, focused: ALL, pinned: ALL };

  const answer = answerPart(payload);
  const reading = readingPart(payload);
  const pictures = picturesPart(payload, heat);
  const aloud = element("div", { className: "aloud", "aria-live": "polite" });
  view.append(element("div", { className: "left" }, promptPart(payload), answer.node, reading.node), pictures.node, footerPart(payload), aloud);
  root.replaceChildren(view);
  host.replaceChildren();

  const current = () => [state.hovered, state.focused, state.pinned].find((index) => index !== ALL) ?? ALL;
  const show = () => {
    answer.show(current(), state.pinned);
    reading.show(current(), state.pinned);
    pictures.show(current());
  };
  const select = (index) => {
    Object.assign(state, { pinned: index, hovered: ALL, focused: ALL });
    show();
    aloud.textContent = describe(payload, index);
    onSelect(index);
  };

  const { list, chips } = answer;
  const indexOf = (event) => chips.indexOf(event.target.closest(".chip"));
  list.addEventListener("pointerover", (event) => {
    if (event.pointerType === "touch") return; // a finger's tap pins
    state.hovered = indexOf(event);
    show();
  });
  list.addEventListener("pointerleave", () => { state.hovered = ALL; show(); });
  list.addEventListener("click", (event) => {
    const index = indexOf(event);
    if (index !== ALL) select(index === state.pinned ? ALL : index);
  });
  list.addEventListener("focusin", (event) => {
    state.focused = indexOf(event);
    chips.forEach((chip, k) => { chip.tabIndex = k === state.focused ? 0 : -1; });
    show();
  });
  list.addEventListener("focusout", () => { state.focused = ALL; show(); });
  list.addEventListener("keydown", (event) => {
    const index = indexOf(event);
    const action = keyAction(event, index, chips.length, getComputedStyle(list).direction === "rtl");
    if (!action) return;
    event.preventDefault();
    event.stopPropagation(); // or the notebook takes the arrow keys
    if (action.toggle) return select(index === state.pinned ? ALL : index);
    if (action.clear) return select(ALL);
    state.hovered = ALL; // the keys win over a resting pointer
    chips[action.focus].focus();
    show();
  });
  reading.button.addEventListener("click", () => select(ALL));
  show();
  return { select, destroy: () => root.replaceChildren() };
}

/** What a key does on token `index`: `{focus}`, `{toggle}`, `{clear}`, or nothing. */
function keyAction(event, index, count, rightToLeft) {
  if (event.ctrlKey || event.metaKey || event.altKey || index === ALL) return null;
  const forward = { focus: Math.min(index + 1, count - 1) };
  const back = { focus: Math.max(index - 1, 0) };
  return {
    ArrowRight: rightToLeft ? back : forward, ArrowLeft: rightToLeft ? forward : back, ArrowDown: forward, ArrowUp: back,
    Home: { focus: 0 }, End: { focus: count - 1 }, Enter: { toggle: true }, " ": { toggle: true }, Escape: { clear: true },
  }[event.key];
}

function promptPart({ parts, title }) {
  if (!parts.length && !title) return "";
  const words = element("p", { className: "prompt", dir: "auto" });
  for (const part of parts.length ? parts : [title]) words.append(typeof part === "number" ? badge(part) : part);
  return element("section", {}, element("h3", {}, "Question"), words);
}

function answerPart(payload) {
  const { tokens, ledger } = payload;
  const lead = tokens.map((_, index) => leading(payload, index));
  const strongest = Math.max(...lead.map((one) => one.share), 1e-9);
  const list = element("div", { className: "tokens", role: "listbox", "aria-label": "Answer, token by token", dir: direction(tokens) });
  const chips = tokens.map((token, index) => {
    const { picture, share } = lead[index];
    const face = element("span", {}, element("bdi", {}, visible(token)));
    if (picture >= 0) {
      face.append(element("sup", {}, String(picture + 1)));
      face.style.background = alpha(colour(picture), (STRONGEST_TINT * share) / strongest);
    }
    const bar = element("i");
    bar.style.background = stacked(payload, ledger[index], "to top");
    const chip = element("span", { className: "chip", role: "option", "aria-selected": "false", tabIndex: index ? -1 : 0 }, face, bar);
    chip.setAttribute("aria-label", describe(payload, index));
    chip.classList.toggle("ends", /^\s/.test(tokens[index + 1] ?? "")); // where lines may break
    list.append(chip);
    if (token.includes("\n")) list.append(element("br"));
    return chip;
  });
  const body = tokens.length ? list : element("p", { className: "empty" }, "The answer is empty: no tokens.");
  const show = (index, pinned) => chips.forEach((chip, k) => {
    chip.classList.toggle("now", k === index);
    chip.classList.toggle("pinned", k === pinned);
    chip.setAttribute("aria-selected", String(k === pinned));
  });
  return { node: element("section", {}, element("h3", {}, "Answer"), body), list, chips, show };
}

function readingPart(payload) {
  const { tokens, columns } = payload;
  const name = element("b", { dir: "auto" });
  const button = element("button", { type: "button" }, "All tokens");
  const bar = element("div", { className: "bar" });
  const numbers = columns.map(() => element("span"));
  const legend = element("ul", { className: "legend" }, ...columns.map((column, k) => {
    const swatch = element("i");
    swatch.style.background = columnColour(payload, k);
    return element("li", {}, swatch, columnName(column), numbers[k]);
  }));
  const show = (index, pinned) => {
    const shares = sharesOf(payload, index);
    name.textContent = index === ALL ? `All ${tokens.length} answer tokens` : `Token ${index + 1} of ${tokens.length}: “${visible(tokens[index])}”`;
    button.hidden = pinned === ALL;
    bar.style.background = stacked(payload, shares, "to right");
    numbers.forEach((number, k) => { number.textContent = percent(shares?.[k]); });
  };
  const head = element("div", { className: "read-head" }, name, button);
  return { node: tokens.length ? element("section", { className: "read" }, head, bar, legend) : "", button, show };
}

function picturesPart(payload, heat) {
  const { images, tokens } = payload;
  if (!images.length) {
    return { node: element("p", { className: "empty" }, "No pictures were part of this question: no heatmap."), show() {} };
  }
  const high = rowHeight(images);
  const readout = element("output");
  const ends = { low: element("span"), high: element("span") };
  let shown = ALL;
  const cards = images.map((image, k) => {
    const share = element("b");
    const fill = element("i");
    fill.style.background = colour(k);
    const canvas = element("canvas", { width: image.cols, height: image.rows, role: "img" });
    const photo = element("img", { src: image.src, alt: `picture ${k + 1} of ${images.length}` });
    const stack = element("div", { className: "stack" }, photo, canvas);
    const figure = element("figure", {}, element("figcaption", {}, badge(k), share), stack, element("div", { className: "share" }, fill));
    layOut(figure, stack, image, high);
    canvas.addEventListener("pointermove", (event) => {
      const box = canvas.getBoundingClientRect();
      const row = clamp(Math.floor(((event.clientY - box.top) / box.height) * image.rows), image.rows);
      const col = clamp(Math.floor(((event.clientX - box.left) / box.width) * image.cols), image.cols);
      readout.textContent = `Picture ${k + 1}, row ${row + 1}, column ${col + 1}: ${heat.text(shown, k, row * image.cols + col)}`;
    });
    canvas.addEventListener("pointerleave", () => { readout.textContent = ""; });
    return { figure, canvas, share, fill };
  });

  const gallery = element("div", { className: "pictures" }, ...cards.map(({ figure }) => figure));
  const slider = element("input", { type: "range", min: 0, max: 100, value: tokens.length ? 100 : 0 });
  const fade = () => gallery.style.setProperty("--overlay", slider.value / 100);
  slider.addEventListener("input", fade);
  slider.addEventListener("keydown", (event) => event.stopPropagation());
  const same = element("input", { type: "checkbox" });
  same.addEventListener("change", () => show(shown));
  const ramp = element("div", { className: "ramp" });
  ramp.style.background = `linear-gradient(to right, ${rampStops(payload)}) #555`;
  const scale = element("div", { className: "scale" },
    element("div", {}, ends.low, ramp, ends.high, "per cell, one scale for all pictures"),
    element("label", {}, same, "Same scale for all tokens"),
    element("label", {}, "Overlay", slider), readout);
  if (payload.missing) scale.insertBefore(element("div", {}, element("div", { className: "hatch" }), "no number"), readout);
  fade();

  const show = (index) => {
    shown = index;
    const shares = sharesOf(payload, index);
    const part = same.checked ? 1 : Math.max(heat.reach(index), 1 / BRIGHTEST);
    const colours = colourTable(payload, part);
    const top = heat.scale(index) * part;
    ends.low.textContent = number(payload.signed ? -top : 0);
    ends.high.textContent = number(top);
    cards.forEach(({ canvas, share, fill }, k) => {
      paint(canvas, images[k], heat.levels(index, k), colours, payload.missing);
      canvas.setAttribute("aria-label", `Heatmap on picture ${k + 1}: ${percent(shares?.[k])}`);
      share.textContent = percent(shares?.[k]);
      fill.style.width = `${100 * (shares?.[k] ?? 0)}%`;
    });
  };
  return { node: element("section", { className: "right" }, element("h3", {}, images.length > 1 ? "Pictures" : "Picture"), gallery, scale), show };
}

function footerPart({ method, honesty, notes }) {
  return element("footer", {}, element("p", {}, element("b", {}, "Drawn: "), method), ...[honesty, ...notes].filter(Boolean).map((line) => element("p", { dir: "auto" }, line)));
}

/** Slices of the cells: picture by picture (token, row, column), then picture by picture the total. */
function heatmaps(payload, cells) {
  const { images, tokens, levels, scale, totalScale, signed } = payload;
  const sizes = images.map(({ rows, cols }) => rows * cols);
  const starts = [];
  let end = 0;
  for (const size of sizes) { starts.push(end); end += size * tokens.length; }
  const totals = sizes.map((size) => { end += size; return end - size; });
  const from = (index, k) => (index === ALL ? totals[k] : starts[k] + index * sizes[k]);
  return {
    scale: (index) => (index === ALL ? totalScale : scale),
    levels: (index, k) => cells.subarray(from(index, k), from(index, k) + sizes[k]),
    text(index, k, cell) { // about: it was rounded to a level
      const level = cells[from(index, k) + cell];
      if (level === MISSING) return "no number";
      return `about ${number(this.scale(index) * (signed ? (2 * level) / levels - 1 : level / levels))}`;
    },
    reach(index) { // how far up the shared scale this token goes, 0 to 1
      let far = 0;
      for (const k of images.keys()) {
        for (const level of this.levels(index, k)) if (level !== MISSING) far = Math.max(far, signed ? Math.abs(2 * level - levels) : level);
      }
      return far / levels;
    },
  };
}

/** Paint levels, one pixel per cell; only the hatching of missing cells needs more. */
function paint(canvas, { rows, cols }, levels, colours, missing) {
  const zoom = missing ? Math.max(1, Math.ceil(240 / Math.max(rows, cols))) : 1;
  const [wide, high] = [cols * zoom, rows * zoom];
  if (canvas.width !== wide || canvas.height !== high) Object.assign(canvas, { width: wide, height: high });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(wide, high);
  const words = new Uint32Array(pixels.data.buffer);
  for (let y = 0, at = 0; y < high; y++) {
    const row = Math.floor(y / zoom) * cols;
    for (let x = 0; x < wide; x++, at++) {
      const level = levels[row + Math.floor(x / zoom)];
      words[at] = level === MISSING ? ((x + y) % 8 < 4 ? 0x90000000 : 0x90ffffff) : colours[level];
    }
  }
  context.putImageData(pixels, 0, 0);
}

/** The colour of every level, as canvas words, on a scale that ends at the part `top` of the shared one. */
function colourTable(payload, top) {
  const ramp = stops(payload);
  const { levels, signed } = payload;
  const bytes = new Uint8ClampedArray(4 * (levels + 1));
  for (let level = 0; level <= levels; level++) {
    const share = Math.min(1, Math.max(0, signed ? 0.5 + (level / levels - 0.5) / top : level / levels / top));
    const low = Math.min(Math.floor(share * (ramp.length - 1)), ramp.length - 2);
    const past = share * (ramp.length - 1) - low;
    bytes.set([...ramp[low].map((c, i) => c + past * (ramp[low + 1][i] - c)), 255 * opacity(payload, share)], 4 * level);
  }
  return new Uint32Array(bytes.buffer);
}

/** Opacity at a place of the scale (0 to 1): none at zero. */
const opacity = ({ signed }, share) => STRONGEST_CELL * (signed ? Math.abs(2 * share - 1) : share);
const rampStops = (payload) => stops(payload).map((rgb, k, all) => `rgba(${rgb}, ${opacity(payload, k / (all.length - 1)).toFixed(3)})`);
const stops = ({ signed }) => (signed ? BLUE_RED : VIRIDIS).split(" ").map(channels);
const channels = (hex) => [0, 2, 4].map((at) => parseInt(hex.replace("#", "").slice(at, at + 2), 16));
const alpha = (hex, strength) => `rgba(${channels(hex)}, ${strength.toFixed(3)})`;
const colour = (picture) => PICTURE_COLOURS[picture % PICTURE_COLOURS.length];
const clamp = (index, count) => Math.max(0, Math.min(index, count - 1));
const percent = (share) => (Number.isFinite(share) ? `${(100 * share).toFixed(1)} %` : "–");
const number = (value) => (value === 0 ? "0" : String(Number(value.toPrecision(3))));
const columnName = (column) => column.replace(/^image_/, "picture ");
const sharesOf = ({ ledger, totalLedger }, index) => (index === ALL ? totalLedger : ledger[index]);

/** Height of a row of pictures before it grows: up to four pictures share one row, more share two. */
function rowHeight(images) {
  const ratios = images.reduce((sum, image) => sum + slotRatio(image), 0);
  const high = (images.length > 4 ? 1560 : 780) / ratios;
  return Math.max(120, Math.min(high, images.length === 1 ? 330 : 240));
}

/** Shape of a picture's slot, which a very wide or very tall one does not fill. */
const slotRatio = ({ width, height }) => Math.max(0.36, Math.min(width / height, 2.2));

/** Pictures of a row are equally high: they grow and shrink in proportion to their shapes. */
function layOut(figure, stack, { width, height }, high) {
  const ratio = slotRatio({ width, height });
  const wide = `${(high * ratio).toFixed(1)}px * var(--zoom)`;
  figure.style.flex = `${ratio.toFixed(4)} 1 calc(${wide})`;
  figure.style.maxWidth = `min(100%, 1.3 * ${wide})`;
  stack.style.width = `${Math.min(100, (100 * width) / height / ratio)}%`;
  stack.style.aspectRatio = `${width} / ${height}`;
}

/** Pictures have colours, the rest greys. */
function columnColour({ images }, k) {
  return k < images.length ? colour(k) : `var(--rest${Math.min(k - images.length, 2)})`;
}

function stacked(payload, shares, towards) {
  if (!shares) return "repeating-linear-gradient(135deg, var(--line) 0 2px, transparent 2px 5px)";
  let end = 0;
  const bands = shares.map((share, k) => {
    const start = end;
    end += 100 * share;
    return `${columnColour(payload, k)} ${start.toFixed(2)}% ${end.toFixed(2)}%`;
  });
  return `linear-gradient(${towards}, ${bands})`;
}

/** The picture a token read most (-1: none) and its share. */
function leading({ images, ledger }, index) {
  const shares = (ledger[index] ?? []).slice(0, images.length);
  const share = Math.max(...shares, 0);
  return { picture: share > 0 ? shares.indexOf(share) : -1, share };
}

function describe(payload, index) {
  const { tokens, columns } = payload;
  const shares = sharesOf(payload, index);
  const name = index === ALL ? "All answer tokens" : `Token ${index + 1} of ${tokens.length}, ${visible(tokens[index])}`;
  return `${name}: ${shares ? columns.map((column, k) => `${columnName(column)} ${percent(shares[k])}`).join(", ") : "no shares captured"}`;
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

function badge(picture) {
  const node = element("span", { className: "badge", title: `picture ${picture + 1}` }, String(picture + 1));
  node.style.background = colour(picture);
  node.style.color = luminance(channels(colour(picture))) > 0.18 ? "#000" : "#fff";
  return node;
}

function luminance(rgb) {
  const [r, g, b] = rgb.map((c) => (c <= 10 ? c / 3294 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "role" || name.startsWith("aria-")) node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children);
  return node;
}
