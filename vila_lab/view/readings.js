// What a reading's bytes say: fields of cells, numbers per column, shares of the question's words. Knows no page and no element.

const MISSING = 255;
const NO_NUMBER = -32768;

const opened = new WeakMap();

/** A reading with its bytes unpacked: fields of cells, numbers per column, shares of the question's words. */
async function openReading(payload, reading) {
  if (!opened.has(reading)) opened.set(reading, await unpack(payload, reading));
  return opened.get(reading);
}

async function unpack(payload, reading) {
  const { tokens, images, columns } = payload;
  const { levels, scale, totalScale, signed, shares } = reading;
  const cells = await inflate(reading.cells);
  const grids = reading.grids ?? images.map(({ rows, cols }) => [rows, cols]);
  const texts = (payload.words ?? []).filter((word) => typeof word === "string").length;
  const rows = reading.ledger ? [...reading.ledger, reading.totalLedger] : [];
  let wordLevels = reading.wordLevels ? await inflate(reading.wordLevels) : null;
  if (reading.numbers) { // (tokens and their total, columns) in 16 bits, then the words' levels
    const bytes = await inflate(reading.numbers);
    const table = new DataView(bytes.buffer);
    for (let row = 0, at = 0; row <= tokens.length; row++) {
      rows.push(columns.map(() => table.getInt16(2 * at++, true)).map((value) => (value === NO_NUMBER ? null : value * reading.step)));
    }
    if (reading.hasWords) wordLevels = bytes.subarray(2 * columns.length * (tokens.length + 1));
  }
  const sizes = grids.map(([high, wide]) => high * wide);
  const starts = [];
  let end = 0;
  for (const size of sizes) { starts.push(end); end += size * tokens.length; }
  const totals = sizes.map((size) => { end += size; return end - size; });
  const lens = {
    ...reading,
    grid: (k) => grids[k],
    scale: (index) => (index === ALL ? totalScale : scale),
    /** Where the colours end: for all tokens of this answer, or of all answers that share a scale. */
    top: (index) => (index === ALL ? reading.totalTop ?? totalScale : reading.top ?? scale),
    isShared: "top" in reading,
    /** Numbers of a picture's cells, each rounded to a level. */
    field(index, k) {
      const from = index === ALL ? totals[k] : starts[k] + index * sizes[k];
      const top = this.scale(index);
      return Float32Array.from(cells.subarray(from, from + sizes[k]), (level) => (level === MISSING ? NaN : top * (signed ? (2 * level) / levels - 1 : level / levels)));
    },
    numbers(index) {
      const row = rows[index === ALL ? tokens.length : index];
      return row?.some((value) => value !== null) ? row : null;
    },
    words(index) {
      if (!wordLevels || !texts || !tokens.length) return null;
      const mine = index === ALL ? wordLevels : wordLevels.subarray(index * texts, (index + 1) * texts);
      const sums = new Array(texts).fill(0); // of all tokens, their mean
      mine.forEach((level, at) => { sums[at % texts] += ((level / 255) * reading.wordScale * texts) / mine.length; });
      return sums;
    },
    /** A token's cells in a region added up; those it covers in part, in part. */
    regionSum({ picture, box }, index) {
      const [high, wide] = grids[picture];
      const { width, height } = images[picture];
      const field = this.field(index, picture);
      const part = (k, count, low, top, side) => Math.max(0, Math.min(k + 1, (top / side) * count) - Math.max(k, (low / side) * count));
      let sum = 0;
      for (let row = 0; row < high; row++) {
        const down = part(row, high, box[1], box[3], height);
        if (down > 1e-6) for (let col = 0; col < wide; col++) sum += (field[row * wide + col] || 0) * down * part(col, wide, box[0], box[2], width);
      }
      return sum;
    },
    text: (value, plus = !shares) => (Number.isFinite(value) ? (plus && value > 0 ? "+" : "") + (shares ? `${(100 * value).toFixed(1)} %` : number(value)) : "–"),
    strongest: 1,
  };
  if (!shares) lens.strongest = Math.max(...rows.slice(0, -1).map(speaking), 1e-9);
  return lens;
}

const speaking = (row) => (row ?? []).reduce((sum, value) => sum + Math.max(0, value), 0);
const minus = (one, other) => one.map((value, at) => value - other[at]);
const peak = (field) => field.reduce((most, value) => Math.max(most, Math.abs(value) || 0), 0);

/** The picture a token read most (-1: none) and its share. */
function leading({ images }, lens, index) {
  const shares = (lens.numbers(index) ?? []).slice(0, images.length);
  const share = Math.max(...shares, 0);
  return [share > 0 ? shares.indexOf(share) : -1, share];
}
