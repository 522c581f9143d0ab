// How numbers and pictures are coloured: the scale of cells, and a colour and a texture per picture. Knows no answer.

// Okabe-Ito, told apart with any colour vision, and a wine red for an eighth picture.
const PICTURE_COLOURS = ["#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#0072b2", "#d55e00", "#f0e442", "#882255"];
const DARK = ["#0072b2", "#882255"]; // with white text
const TEXTURES = [ // strokes in a tile of 8 × 8, for whoever sees no colours and for grey print
  "M-2 2 2-2M0 8 8 0M6 10 10 6", "M-2 6 2 10M0 0 8 8M6-2 10 2", "M1 2H3M5 6H7", "M0 0 8 8M0 8 8 0",
  "M0 6 4 2 8 6", "M0 4H8M4 0V8", "M2 0V8M6 0V8", "M0 2H8M0 6H8",
];
const VIRIDIS = "31688e 287c8e 21918c 20a486 35b779 5ec962 90d743 c8e020 fde725"; // its purple is lost on a dark picture
const BLUE_RED = "3d9bff 7ab8ff b8d8ff f7f7f7 ffc9b8 ff9a7a ff5f3c"; // signed: zero in the middle, no dark ends
const STRONGEST_CELL = 0.8; // opacity of the cell at the top of the scale; half the number is half the opacity
const COLOURS = 1024; // steps of the table

/** Paint numbers, one pixel per cell; only hatching needs more. */
function paint(canvas, [rows, cols], field, top, signed, threshold = 0) {
  const table = tables[Number(signed)];
  const zoom = field.some(Number.isNaN) ? Math.max(1, Math.ceil(240 / Math.max(rows, cols))) : 1;
  const [wide, high] = [cols * zoom, rows * zoom];
  if (canvas.width !== wide || canvas.height !== high) Object.assign(canvas, { width: wide, height: high });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(wide, high);
  const words = new Uint32Array(pixels.data.buffer);
  for (let y = 0, at = 0; y < high; y++) {
    const row = Math.floor(y / zoom) * cols;
    for (let x = 0; x < wide; x++, at++) {
      const value = field[row + Math.floor(x / zoom)];
      if (Number.isNaN(value)) words[at] = (x + y) % 8 < 4 ? 0x90000000 : 0x90ffffff;
      else {
        const share = top > 0 ? Math.max(-1, Math.min(1, value / top)) : 0;
        if (Math.abs(share) >= threshold) words[at] = table[Math.round(Math.max(0, signed ? (share + 1) / 2 : share) * COLOURS)];
      }
    }
  }
  context.putImageData(pixels, 0, 0);
}

/** The colour of every step of the scale, as canvas words. */
function colourTable(signed) {
  const ramp = stopsOf(signed).map(channels);
  const bytes = new Uint8ClampedArray(4 * (COLOURS + 1));
  for (let step = 0; step <= COLOURS; step++) {
    const share = step / COLOURS;
    const low = Math.min(Math.floor(share * (ramp.length - 1)), ramp.length - 2);
    const past = share * (ramp.length - 1) - low;
    bytes.set([...ramp[low].map((c, i) => c + past * (ramp[low + 1][i] - c)), 255 * opacity(signed, share)], 4 * step);
  }
  return new Uint32Array(bytes.buffer);
}

/** The scale itself, for `fill` to name. */
function rampOf(signed) {
  const stops = stopsOf(signed).map((hex, k, { length }) => {
    const share = k / (length - 1);
    return drawn("stop", { offset: share, "stop-color": `#${hex}`, "stop-opacity": opacity(signed, share) });
  });
  return drawn("linearGradient", { id: signed ? "signed" : "unsigned" }, ...stops);
}

const stopsOf = (signed) => (signed ? BLUE_RED : VIRIDIS).split(" ");
/** Opacity at a place of the scale (0 to 1): none at zero. */
const opacity = (signed, share) => STRONGEST_CELL * (signed ? Math.abs(2 * share - 1) : share);
const channels = (hex) => [0, 2, 4].map((at) => parseInt(hex.replace("#", "").slice(at, at + 2), 16));
const alpha = (hex, strength) => `rgba(${channels(hex)}, ${strength.toFixed(3)})`;
const colour = (picture) => PICTURE_COLOURS[picture % PICTURE_COLOURS.length];
const inkOn = (picture) => (DARK.includes(colour(picture)) ? "#fff" : "#000");
const tables = [false, true].map(colourTable);

/** What `fill` names: scales, and textures in the pictures' colours, which repeat after eight pictures with other textures. */
function paintsOf({ images }) {
  const patterns = images.map((_, k) => drawn("pattern", { id: `picture${k}`, width: 8, height: 8, patternUnits: "userSpaceOnUse" },
    drawn("rect", { width: 8, height: 8, fill: colour(k) }),
    drawn("path", { d: TEXTURES[(k + Math.floor(k / 8)) % 8], fill: "none", stroke: inkOn(k), "stroke-opacity": 0.5 })));
  const hatch = drawn("path", { d: TEXTURES[0], fill: "none", stroke: "#808080" });
  patterns.push(drawn("pattern", { id: "missing", width: 8, height: 8, patternUnits: "userSpaceOnUse" }, hatch));
  return drawn("svg", { class: "paints", "aria-hidden": "true" }, drawn("defs", {}, rampOf(false), rampOf(true), ...patterns));
}

/** Pictures have colours with a texture, the rest plain greys. */
function columnFill({ images }, k) {
  return k < images.length ? `url(#picture${k})` : `var(--rest${Math.min(k - images.length, 2)})`;
}

/** A key of one colour, or of what was not captured. */
const swatch = (fill) => drawn("svg", { class: "swatch", "aria-hidden": "true" }, drawn("rect", { width: "100%", height: "100%", fill }));

function drawn(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
