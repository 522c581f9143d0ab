// The widget host (see explorer.py): follows the viewer's module in one source, and gives it the kernel and the traits.

/** Its traits follow the reader's choices, and the other way round. */
export default {
  async render({ model, el }) {
    const host = element("div");
    el.append(host);
    const waiting = new Map();
    model.on("msg:custom", ({ id, ...answered }) => { waiting.get(id)?.(answered); waiting.delete(id); });
    const request = (wanted) => new Promise((resolve) => {
      const id = crypto.getRandomValues(new Uint32Array(2)).join("-");
      waiting.set(id, resolve);
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
    for (const [name, hear] of Object.entries(heard)) model.on(`change:${name}`, hear);
    view.set(traits());
    return () => {
      for (const [name, hear] of Object.entries(heard)) model.off(`change:${name}`, hear);
      view.destroy();
    };
  },
};

const fromTrait = (region) => region && { picture: region[0], box: region.slice(1) };
