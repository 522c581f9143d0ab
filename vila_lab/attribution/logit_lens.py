"""Logit lens: which word does each patch already say, layer by layer. Reads hidden states; not a causal method."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..engine.replay import Replay
from ..engine.target import Target
from ..errors import OptionError
from .features import check_pictures, is_visual
from .method import Method, Outcome
from .residuals import output_columns, read_out, residuals

CHUNK_LOGITS = 2**24  # logits held at once: 64 MiB in float32

METHOD = Method(
    name="logit_lens",
    sentence="The probability of the word when a patch's hidden state is read by the output head, layer by layer.",
    unit="probability at the patch",
    signed=False,
    cost="1 forward",
    source="nostalgebraist 2020, 'interpreting GPT: the logit lens'; on visual tokens: Neo et al. 2024, "
    "'Towards Interpreting Visual Information Processing in Vision-Language Models'",
    contrast=False,
    mean=True,
    covers_prompt=False,
)


def attribute(replay: Replay, target: Target, *, layers: Sequence[int] | None = None) -> Outcome:
    """Mean over layers of the word's probability at every visual token.

    `Attribution.extras` holds ``logit`` (layer, token, position), the word's logit, and ``word`` (layer, position), the
    most probable word of each patch; position counts in the whole sequence.

    Parameters
    ----------
    layers
        Layers to read behind, counted from 0 (negative from the end); None for all.
    """
    import xarray as xr

    check_pictures(replay)
    count = len(replay.family.decoder_layers)
    wanted = list(range(count)) if layers is None else [int(layer) for layer in layers]
    if not wanted or any(not -count <= layer < count for layer in wanted):
        raise OptionError(f"layers={wanted} are not all there: the model has {count}, counted from 0")
    wanted = [layer % count for layer in wanted]
    visual = is_visual(replay.token_map)
    columns = output_columns(replay)
    step = max(1, CHUNK_LOGITS // len(columns))
    ids = torch.tensor(target.ids(), device=columns.device)
    logits, chances, words = [], [], []
    for hidden in residuals(replay, target.passes[0], wanted):
        normed = read_out(replay, hidden[visual])  # (n, H)
        tables = [
            replay.family.capped(part.to(columns) @ columns.T) for part in torch.split(normed, step)
        ]  # (step, V) each
        logits.append(torch.cat([table[:, ids] for table in tables]).T.double().cpu())
        chances.append(torch.cat([table.float().softmax(-1)[:, ids] for table in tables]).T.double().cpu())
        words.append(torch.cat([table.argmax(-1) for table in tables]).tolist())
    values = np.zeros((len(target.rows), replay.prompt_length))
    values[:, visual] = torch.stack(chances).mean(0).numpy()
    distinct = sorted({word for row in words for word in row})
    spelled = dict(zip(distinct, replay.family.tokenizer.batch_decode([[word] for word in distinct]), strict=True))
    spoken = [[spelled[word] for word in row] for row in words]
    coords = {"layer": wanted, "position": visual}
    extras = {
        "logit": xr.DataArray(
            torch.stack(logits).numpy(),
            dims=("layer", "token", "position"),
            coords={**coords, "token": [row.number for row in target.rows]},
        ),
        "word": xr.DataArray(np.array(spoken, dtype=object), dims=("layer", "position"), coords=coords),
    }
    which = "all layers" if layers is None else f"layers {', '.join(map(str, wanted))}"
    return Outcome(
        values=values, note=f"mean over {which}; what a patch says is not yet what the answer used", extras=extras
    )
