"""The sessions that are resident: loaded once, given again. Knows a session, and nothing of what is asked of it.

They are the package's one global: `load` with the same arguments gives the same session, so that running a notebook's cells
again loads nothing twice.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import torch

from .engine.band import Band
from .engine.reuse import CACHE_BYTES
from .errors import OptionError
from .families.loading import AttentionName, DTypeName, Quantization, load_family
from .names_offered import offer
from .options import check_range, check_types
from .progress import progress
from .session import CAPTURE_BUDGET, Session
from .tiny import MOST_PICTURES, band_file, heads_file, weights_folder
from .upstream import loading_heard
from .versions import warn_if_unverified

EMBEDDED = "embedded"

_sessions: dict[tuple[Any, ...], Session] = {}
_lock = threading.RLock()


def load(
    source: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: DTypeName | str | torch.dtype | None = None,
    device_map: Any = None,
    quantization: Quantization | str | None = None,
    attn_implementation: AttentionName | str | None = None,
    revision: str | None = None,
    adapter: str | Path | None = None,
    capture_budget: int = CAPTURE_BUDGET,
    cache_bytes: int = CACHE_BYTES,
) -> Session:
    """Load a model and keep it resident. The same call again gives the same session.

    Parameters
    ----------
    source
        A hub id such as ``"Efficient-Large-Model/NVILA-8B"`` or a folder, in any published layout of the family; None
        for the small embedded model.
    device
        "cpu", "cuda", "cuda:1", "mps"; by default a GPU where there is one, and the CPU for the embedded model.
    dtype
        "float32", "float16", "bfloat16" or "auto" (as stored); by default float32 on the CPU and as stored elsewhere.
    device_map, quantization, attn_implementation, revision, adapter
        Passed on; see `vila_lab.families.loading.load_family`.
    capture_budget, cache_bytes
        See `Session`.

    Raises
    ------
    CheckpointNotFound, CheckpointError, DeviceError, OptionError, MissingExtra
        One sentence that says what is wrong and the way out.

    Examples
    --------
    >>> import vila_lab
    >>> vila_lab.load() is vila_lab.load()
    True
    """
    offer()
    check_types(
        load,
        {"quantization": quantization, "attn_implementation": attn_implementation, "revision": revision}
        | {"capture_budget": capture_budget, "cache_bytes": cache_bytes},
    )
    check_range("capture_budget", capture_budget, least=0)
    check_range("cache_bytes", cache_bytes, least=0)
    if isinstance(device, torch.device):
        device = str(device)
    if source is not None and not isinstance(source, str | Path):
        raise OptionError(f"source must be a hub id or a folder, not {source!r}")
    if source is not None and Path(source).expanduser() == weights_folder():
        source = None  # named or not, it is the same resident model
    if source is None:
        place: str | Path = weights_folder()
        name = EMBEDDED
    else:
        folder = Path(source).expanduser()
        place = folder if folder.exists() else source
        name = str(source) if revision is None else f"{source}@{revision}"
    if device is None and device_map is None:
        wants_cpu = source is None or quantization == "int8"
        device = "cuda" if not wants_cpu and torch.cuda.is_available() else "cpu"
    if dtype is None:
        dtype = "float32" if device == "cpu" and quantization in (None, "int8") else "auto"
    key = (
        *(str(place), device, str(dtype), repr(device_map), quantization, attn_implementation, revision),
        None if adapter is None else str(adapter),
    )
    with _lock:
        if key not in _sessions or not _sessions[key].is_loaded:
            named = "the embedded model" if source is None else name
            with progress(None, "tensors", f"loading {named}") as count, loading_heard(count.listener()):
                family = load_family(
                    place,
                    device=device,
                    dtype=dtype,
                    device_map=device_map,
                    quantization=quantization,
                    attn_implementation=attn_implementation,
                    revision=revision,
                    adapter=adapter,
                )
            _sessions[key] = Session(family, name)
            if source is None:
                family.trained_pictures = MOST_PICTURES
                _sessions[key].head_sets.update(_shipped_heads())
                _sessions[key].engine.band = _shipped_band()
        session = _sessions[key]
        session.capture_budget = capture_budget
        if session.cache_bytes != cache_bytes:
            session.cache_bytes = cache_bytes
    warn_if_unverified()
    return session


def _shipped_heads() -> dict[str, tuple[tuple[int, int], ...]]:
    """The head sets of the embedded model; `training.rank_heads` made them."""
    content = json.loads(heads_file().read_text(encoding="utf-8")) if heads_file().is_file() else {}
    return {kind: tuple((layer, head) for layer, head in ranking["heads"]) for kind, ranking in content.items()}


def _shipped_band() -> Band | None:
    """Where the embedded model's answers are redirected; `training.rank_heads` found it."""
    return Band.from_json(json.loads(band_file().read_text(encoding="utf-8"))) if band_file().is_file() else None


def loaded() -> list[Session]:
    """The sessions that are resident now.

    Examples
    --------
    >>> import vila_lab
    >>> vila_lab.load() in vila_lab.loaded()
    True
    """
    with _lock:
        return [session for session in _sessions.values() if session.is_loaded]
