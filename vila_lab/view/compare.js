// The host of a comparison (see compare.py): follows the viewer's module in one source, and keeps its views in step.

/** Several answers side by side (see compare.py): what is selected in one is selected in the others. */
async function mountCompare(host, { answers, notes }, { css = "" } = {}) {
  const columns = element("div", { className: "columns" });
  shadow(host, element("div", { className: "compare" }, ...notes.map((note) => element("p", { dir: "auto" }, note)), columns), css);
  const views = [];
  for (const [mine, { label, payload }] of answers.entries()) {
    const place = element("div", { className: "vila-part" });
    columns.append(element("section", { role: "group", "aria-label": label }, element("h3", { dir: "auto" }, label), place));
    const onChange = ({ tokens, region, layer }) => answers.forEach((other, k) => {
      if (k === mine) return;
      const translate = (from, to, index) => (from[index] < 0 ? ALL : to.indexOf(from[index]));
      const picture = region ? translate(answers[mine].pictures, other.pictures, region.picture) : ALL;
      views[k]?.set({
        tokens: tokens.map((token) => translate(answers[mine].same, other.same, token)),
        region: picture < 0 ? null : { ...region, picture }, layer,
      });
    });
    views.push(await mount(place, payload, { css, onChange }));
  }
}
