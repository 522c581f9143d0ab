// Saving what a viewer shows, as it prints: the picture as SVG and PNG, the numbers as CSV. Knows elements and numbers, no model.

const SHARP = 2; // pixels of a PNG per pixel of the page
const LARGEST = 8192; // pixels of a PNG's longer side: some browsers draw no larger canvas

/** Buttons that save; `css` is the view's style sheet, and `lens` gives the reading that is drawn now. */
function savingPart(payload, view, css, lens) {
  const drawing = () => asPrinted(view, css, svgOf);
  const button = (kind, what, bytes) => {
    const node = element("button", { type: "button", "aria-label": `Save the ${what} as ${kind}` }, kind);
    node.addEventListener("click", async () => download(await bytes(), `${nameOfFile(payload, lens())}.${kind.toLowerCase()}`));
    return node;
  };
  return element("div", { className: "save" }, "Save",
    button("PNG", "picture", () => pngOf(drawing())),
    button("SVG", "picture", () => new Blob([new XMLSerializer().serializeToString(drawing())], { type: "image/svg+xml" })),
    button("CSV", "numbers", () => new Blob([csvOf(payload, lens())], { type: "text/csv" })));
}

function download(blob, name) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const nameOfFile = ({ tokens }, { name }) => ["vila_lab", tokens.join("").slice(0, 40), name].join(" ").replace(/[^\p{L}\p{N}]+/gu, "_");

/** All tokens and columns of a reading, by RFC 4180; the mark in front tells spreadsheets that it is UTF-8. */
function csvOf({ tokens, columns, probabilities }, lens) {
  const head = ["token", "text", ...(probabilities ? ["probability"] : []), ...columns];
  const rows = tokens.map((token, k) => [k + 1, token, ...(probabilities ? [probabilities[k]] : []), ...(lens.numbers(k) ?? columns.map(() => null))]);
  const cell = (value) => (typeof value === "number" ? String(Number(value.toPrecision(7))) : `"${(value ?? "").replaceAll('"', '""')}"`);
  return `\ufeff${[head, ...rows].map((row) => `${row.map(cell).join(",")}\r\n`).join("")}`;
}

/** What `draw` makes of the view while it lies as it does on paper: light, without controls, nothing scrolled away. */
function asPrinted(view, css, draw) {
  const [sheet] = view.getRootNode().adoptedStyleSheets;
  sheet.replaceSync(css.replaceAll("@media print", "@media all"));
  try {
    return draw(view);
  } finally {
    sheet.replaceSync(css);
  }
}

async function pngOf(drawing) {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(new XMLSerializer().serializeToString(drawing))}`;
  await image.decode();
  const scale = Math.min(SHARP, LARGEST / Math.max(image.width, image.height));
  const canvas = element("canvas", { width: Math.round(scale * image.width), height: Math.round(scale * image.height) });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve));
}

// ---- elements as they lie, drawn as SVG ----

/** The view as one self-contained SVG, its text as text. */
function svgOf(view) {
  const { left, top, width, height } = view.getBoundingClientRect();
  const size = { width: Math.ceil(width), height: Math.ceil(height) };
  const sheet = drawn("svg", { ...size, viewBox: `0 0 ${size.width} ${size.height}`, "xml:space": "preserve" });
  const pen = element("canvas", { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
  sheet.append(view.querySelector(".paints defs").cloneNode(true));
  copy(view, { sheet, left, top, pen });
  return sheet;
}

function copy(node, page) {
  if (node.nodeType === Node.TEXT_NODE) return copyText(node, page);
  const style = getComputedStyle(node);
  if (style.display === "none" || style.visibility === "hidden" || node.matches(".aloud, .paints")) return;
  const box = placed(node.getBoundingClientRect(), page);
  copyFrame(style, box, page);
  if (node.tagName === "IMG") copyPhoto(node, style, box, page);
  else if (node.tagName === "CANVAS") page.sheet.append(picture(enlarged(node, style, box), box));
  else if (node.tagName === "svg") copyDrawing(node, box, page);
  else node.childNodes.forEach((child) => copy(child, page));
  const { pin, picture: number } = node.dataset; // what the style sheet writes
  if (pin || number) page.sheet.append(drawnText(pin || number, box.x, pin ? box.y - 2 : box.y + 0.85 * box.height, style, page));
}

const placed = ({ x, y, width, height }, { left, top }) => ({ x: x - left, y: y - top, width, height });
const picture = (href, box) => drawn("image", { ...box, href, preserveAspectRatio: "none" });

/** Ground, ring and borders. */
function copyFrame(style, { x, y, width, height }, page) {
  const rx = parseFloat(style.borderTopLeftRadius) || 0;
  const ground = paintOf(style.backgroundColor, "fill", page);
  if (ground["fill-opacity"] > 0) page.sheet.append(drawn("rect", { x, y, width, height, rx, ...ground }));
  const [, colour, spread] = /^(\S+\(.*?\)) 0px 0px 0px ([\d.]+)px/.exec(style.boxShadow) ?? [];
  if (spread) page.sheet.append(outline({ x, y, width, height, rx }, Number(spread), 0.5, paintOf(colour, "stroke", page)));
  const [up, right, down, left] = ["Top", "Right", "Bottom", "Left"].map((side) => parseFloat(style[`border${side}Width`]));
  const ink = (side, name) => paintOf(style[`border${side}Color`], name, page);
  if (up && right && down && left) page.sheet.append(outline({ x, y, width, height, rx }, up, -0.5, ink("Top", "stroke")));
  else if (up) page.sheet.append(drawn("rect", { x, y, width, height: up, ...ink("Top", "fill") }));
  else if (left) page.sheet.append(drawn("rect", { x, y, width: left, height, ...ink("Left", "fill") }));
}

/** A line of some breadth around a box: outside of it, or inside. */
function outline({ x, y, width, height, rx }, breadth, out, ink) {
  const by = breadth * out;
  return drawn("rect", { x: x - by, y: y - by, width: Math.max(0, width + 2 * by), height: Math.max(0, height + 2 * by), rx,
    fill: "none", "stroke-width": breadth, ...ink });
}

function copyPhoto(node, style, box, { sheet }) {
  const brightness = Number(/brightness\((.*?)\)/.exec(style.filter)?.[1] ?? 1);
  sheet.append(picture(node.src, box), drawn("rect", { ...box, "fill-opacity": 1 - brightness }));
}

/** A heatmap with pixels as large as they are shown, so that every program draws its cells as crisp as here. */
function enlarged(canvas, style, { width }) {
  const times = Math.max(1, Math.ceil((SHARP * width) / canvas.width));
  const large = element("canvas", { width: times * canvas.width, height: times * canvas.height });
  const context = large.getContext("2d");
  context.imageSmoothingEnabled = style.imageRendering !== "pixelated";
  context.globalAlpha = Number(style.opacity);
  context.drawImage(canvas, 0, 0, large.width, large.height);
  return large.toDataURL();
}

/** A bar or a key, with the colours that its style gives it. */
function copyDrawing(node, box, page) {
  const part = drawn("svg", box);
  for (const child of node.children) {
    const style = getComputedStyle(child);
    if (style.display === "none") continue;
    const twin = child.cloneNode(true);
    for (const name of ["fill", "stroke"]) {
      const value = style[name];
      if (value !== "none" && !value.startsWith("url")) Object.entries(paintOf(value, name, page)).forEach((pair) => twin.setAttribute(...pair));
    }
    for (const name of ["stroke-width", "paint-order", "font-size", "font-weight", "font-family"]) twin.setAttribute(name, style.getPropertyValue(name));
    part.append(twin);
  }
  page.sheet.append(part);
}

/** A text node, line by line. */
function copyText(node, page) {
  const style = getComputedStyle(node.parentElement);
  const range = document.createRange();
  const lines = [];
  for (const { 0: sign, index } of node.data.matchAll(/./gsu)) {
    range.setStart(node, index);
    range.setEnd(node, index + sign.length);
    const { top, left, right, bottom, width } = range.getBoundingClientRect();
    const line = lines.at(-1);
    if (line && (!width || Math.abs(line.top - top) < 2)) {
      line.text += sign;
      if (width) Object.assign(line, { left: Math.min(line.left, left), right: Math.max(line.right, right) });
    } else if (width && sign.trim()) lines.push({ text: sign, top, left, right, bottom });
  }
  page.pen.font = `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
  const { fontBoundingBoxAscent: above, fontBoundingBoxDescent: below } = page.pen.measureText("");
  for (const { text, top, left, right, bottom } of lines) {
    const x = (style.direction === "rtl" ? right : left) - page.left;
    page.sheet.append(drawnText(text.trimEnd(), x, (top + bottom + above - below) / 2 - page.top, style, page));
  }
}

function drawnText(text, x, y, style, page) {
  const node = drawn("text", { x, y, direction: style.direction, "font-family": style.fontFamily, "font-size": style.fontSize,
    "font-weight": style.fontWeight, "text-decoration": style.textDecorationLine, ...paintOf(style.color, "fill", page) });
  node.textContent = text.replace(/[\0-\x1f\ufffe\uffff]/g, "\ufffd"); // no XML holds these
  return node;
}

/** A colour of CSS as every SVG program reads it. */
function paintOf(css, name, { pen }) {
  pen.clearRect(0, 0, 1, 1);
  pen.fillStyle = css;
  pen.fillRect(0, 0, 1, 1);
  const [red, green, blue, strength] = pen.getImageData(0, 0, 1, 1).data;
  return { [name]: `rgb(${red}, ${green}, ${blue})`, [`${name}-opacity`]: Number((strength / 255).toFixed(3)) };
}
