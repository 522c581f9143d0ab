// The cells of a live widget (see explorer.py): follows the viewer's module in one source. Knows no kernel: a model makes itself known.

/** What is on this page of an explorer: its cells, and the model that brings them to life while its kernel is there. */
function explorer(key) {
  const all = (globalThis.vilaLabExplorers ??= new Map());
  if (!all.has(key)) all.set(key, { cells: new Set(), live: null });
  return all.get(key);
}

/** A cell of an explorer: live where its model is on the page, now or later, and otherwise a view like any other. */
async function mountExplored(host, payload, options) {
  const { key, ...chosen } = payload.explorer;
  const mine = explorer(key);
  const alone = async () => {
    const view = await mount(host, payload, options);
    await view.set(chosen);
    return () => view.destroy();
  };
  let drawn = Promise.resolve(() => {});
  const draw = () => (drawn = drawn.then(async (end) => {
    end();
    return mine.live ? mine.live(host) : alone();
  }));
  mine.cells.add(draw);
  await draw();
}
