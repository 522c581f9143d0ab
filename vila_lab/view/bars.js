// Bars of parts, one part per column: what speaks for a token. Knows columns and numbers, no page.

const NUMBERED = 5; // percent of a bar from which a part has room for its picture's number

/** An empty bar that lies, with the numbers of its pictures, or stands; `setBar` gives it its lengths. */
function emptyBar(payload, stands = false) {
  const parts = payload.columns.map((_, k) => {
    const box = drawn("rect", { [stands ? "width" : "height"]: "100%", fill: columnFill(payload, k) });
    const number = drawn("text", { y: "50%", dy: "0.36em", "text-anchor": "middle", fill: inkOn(k), stroke: colour(k) });
    if (k < payload.images.length && !stands) number.textContent = k + 1;
    return [box, number];
  });
  const lost = drawn("rect", { width: "100%", height: "100%", fill: "url(#missing)" });
  const node = drawn("svg", { class: "bar", "aria-hidden": "true" }, lost, ...parts.flat());
  return { node, parts, lost, stands };
}

/** Lengths of its parts in percent of the bar; none at all where nothing was captured. */
function setBar({ parts, lost, stands }, lengths) {
  let end = 0;
  parts.forEach(([box, number], k) => {
    const length = Math.max(0, lengths?.[k] ?? 0);
    const start = stands ? 100 - end - length : end;
    box.setAttribute(stands ? "y" : "x", `${start.toFixed(2)}%`);
    box.setAttribute(stands ? "height" : "width", `${length.toFixed(2)}%`);
    number.setAttribute("x", `${(start + length / 2).toFixed(2)}%`);
    number.style.display = length >= NUMBERED ? "" : "none";
    end += length;
  });
  lost.style.display = lengths ? "none" : "";
}

/** What speaks for a token, column by column, in percent of its bar. */
function lengthsOf(lens, index) {
  const row = lens.numbers(index);
  const whole = index === ALL && !lens.shares ? speaking(row) || 1 : lens.strongest;
  return row && row.map((value) => (100 * value) / whole);
}
