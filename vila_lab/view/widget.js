// The live widget (see explorer.py): follows the viewer's module and explored.js in one source, and gives a view the kernel and the traits.

/** A view that asks the kernel, and whose choices are the traits of its model; returns what ends it. */
async function mountLive(model, host) {
  const waiting = new Map();
  const hear = ({ id, progress, ...answered }) => {
    const one = waiting.get(id);
    if (progress) return one?.tell?.(...progress);
    waiting.delete(id);
    one?.resolve(answered);
  };
  model.on("msg:custom", hear);
  const request = (wanted, { signal, tell } = {}) => new Promise((resolve) => {
    const id = crypto.getRandomValues(new Uint32Array(2)).join("-");
    waiting.set(id, { resolve, tell });
    signal?.addEventListener("abort", () => {
      if (!waiting.delete(id)) return;
      model.send({ cancel: id });
      resolve({});
    });
    model.send({ id, ...wanted });
  });
  const traits = () => ({
    tokens: [model.get("compared_token"), model.get("selected_token")].filter((token) => token !== null),
    region: fromTrait(model.get("selected_region")), layer: model.get("layer"), head: model.get("head"),
  });
  let telling = false;
  const onChange = ({ tokens, region, layer, head }) => {
    const chosen = {
      selected_token: tokens.at(-1) ?? null, compared_token: tokens.length > 1 ? tokens[0] : null,
      selected_region: region && [region.picture, ...region.box], layer, head,
    };
    telling = true; // what is set here is drawn already
    for (const [name, value] of Object.entries(chosen)) model.set(name, value);
    telling = false;
    model.save_changes();
  };
  const view = await mount(host, model.get("payload"), { css: model.get("css"), onChange, request });
  const follow = (part) => () => (telling ? undefined : view.set(part(traits())));
  const tokens = follow(({ tokens }) => ({ tokens }));
  const region = follow(({ region }) => ({ region }));
  const layers = follow(({ layer, head }) => ({ layer, head }));
  const heard = { selected_token: tokens, compared_token: tokens, selected_region: region, layer: layers, head: layers };
  for (const [name, change] of Object.entries(heard)) model.on(`change:${name}`, change);
  view.set(traits());
  return () => {
    model.off("msg:custom", hear);
    for (const [name, change] of Object.entries(heard)) model.off(`change:${name}`, change);
    view.destroy();
  };
}

const fromTrait = (region) => region && { picture: region[0], box: region.slice(1) };

export default {
  /** The cells of the model, in whichever order cells and model come. */
  initialize({ model }) {
    const mine = explorer(model.get("key"));
    const redraw = () => mine.cells.forEach((draw) => draw());
    mine.live = (host) => mountLive(model, host);
    redraw();
    return () => { mine.live = null; redraw(); };
  },
  /** A view by itself, in a box of widgets say. */
  async render({ model, el }) {
    const host = element("div");
    el.append(host);
    return mountLive(model, host);
  },
};
