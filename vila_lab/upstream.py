"""Every name of transformers, torch, peft and argparse that is private or changes between versions. Knows nothing of vila_lab.

A minor version of transformers renamed the keyword of the cache and an edit then silently did nothing. So these names are
read and written here and nowhere else, caches are told by their type, and a name that is gone raises one sentence: there
are no defaults that would let a result be wrong instead.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from packaging.version import Version
from torch import Tensor, nn
from transformers import LogitsProcessorList, PreTrainedModel
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    QuantizedLayer,
    StaticLayer,
)
from transformers.generation.utils import GenerationMixin

from .errors import UpstreamChanged
from .versions import installed, remedy

__all__ = [
    "CACHE",
    "CACHE_NAMES",
    "arguments_of",
    "attention_function",
    "attention_name",
    "best_resolution",
    "cache_bytes",
    "cache_of",
    "calls_attention_function",
    "can_return_tuple",
    "caps_logits",
    "changes_later",
    "compilable_check",
    "config_with_attention",
    "first_keys",
    "foreign_hooks",
    "fork",
    "from_config",
    "fused_kernel",
    "has_adapter",
    "has_flash_attention",
    "has_torchvision",
    "imported",
    "int_matmul",
    "is_buffer",
    "is_out_of_memory",
    "is_quantized",
    "joined",
    "keeps_everything",
    "keeps_keys",
    "layer_of",
    "leaves_softcap_out",
    "loading_heard",
    "logits_processors",
    "made_cache",
    "offloaded_state",
    "overrides",
    "render_jinja_template",
    "shortened",
    "state_of",
    "tiled_canvas",
    "times_written",
    "with_cache",
]

AttentionFunction = Callable[..., Any]
F = TypeVar("F", bound=Callable[..., Any])

INTERFACE = "ALL_ATTENTION_FUNCTIONS"
"""The global under which a modeling file of transformers keeps its table of attention functions."""


def read(owner: Any, name: str) -> Any:
    """An attribute that must be there.

    Raises
    ------
    UpstreamChanged
        It is gone.
    """
    try:
        return getattr(owner, name)
    except AttributeError as error:
        kind = owner if isinstance(owner, type) or inspect.ismodule(owner) else type(owner)
        home = kind.__name__ if inspect.ismodule(kind) else f"{kind.__module__}.{kind.__name__}"
        raise UpstreamChanged(f"{home} has no {name!r} any more, on which vila_lab stands; {remedy()}") from error


def imported(module: str, name: str) -> Any:
    """A name of a module that is not part of a package's documented surface.

    Raises
    ------
    UpstreamChanged
        It is gone.
    """
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise UpstreamChanged(f"there is no {module} any more, on which vila_lab stands; {remedy()}") from error
    return read(found, name)


can_return_tuple = imported("transformers.utils.generic", "can_return_tuple")
offloaded_state = imported("accelerate.utils.modeling", "get_state_dict_offloaded_model")
compilable_check = imported("transformers.utils.import_utils", "torch_compilable_check")
render_jinja_template = imported("transformers.utils.chat_template_utils", "render_jinja_template")
int_matmul = imported("torch", "_int_mm")
best_resolution = imported("transformers.image_processing_utils", "select_best_resolution")
tiled_canvas = imported("transformers.models.got_ocr2.image_processing_pil_got_ocr2", "get_optimal_tiled_canvas")
set_tqdm_hook = imported("transformers.utils.logging", "set_tqdm_hook")
has_torchvision = imported("transformers.utils.import_utils", "is_torchvision_available")
has_flash_attention = imported("transformers.utils.import_utils", "is_flash_attn_2_available")


# -- the cache of keys and values ----------------------------------------------------------------------------------------

CACHE_NAMES = ("cache", "past_key_values")
"""Keywords under which a forward may be given its cache: 5.24 renamed the second to the first."""


def _cache_name() -> str:
    known = inspect.signature(read(GenerationMixin, "prepare_inputs_for_generation")).parameters
    for name in CACHE_NAMES:
        if name in known:
            return name
    raise UpstreamChanged(f"transformers' generation names its cache neither {' nor '.join(CACHE_NAMES)}; {remedy()}")


CACHE = _cache_name()
"""The keyword that the installed transformers uses."""


def cache_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Cache | None:
    """The cache that a forward was given, under whatever name and at whatever place."""
    named = kwargs.get(CACHE)
    if isinstance(named, Cache):
        return named
    return next((item for item in (*args, *kwargs.values()) if isinstance(item, Cache)), None)


def made_cache(output: Any) -> Cache | None:
    """The cache in what a forward returned, a dictionary of outputs or a tuple."""
    items = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple) else ()
    return next((item for item in items if isinstance(item, Cache)), None)


def with_cache(cache: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a call with the cache under the installed version's name, however it was given."""
    given = (cache, *(options.get(name) for name in CACHE_NAMES))
    others = {name: value for name, value in options.items() if name not in CACHE_NAMES}
    return {**others, CACHE: next((item for item in given if item is not None), None)}


def first_keys(cache: Cache) -> Tensor | None:
    """The keys of the first layer that holds any."""
    for layer in read(cache, "layers"):
        keys = vars(layer).get("keys")  # linear attention has a layer without keys
        if isinstance(keys, Tensor):
            return keys
    return None


def layer_of(cache: Cache | None, layer: int) -> Any:
    """One layer of a cache; None where there is none yet."""
    layers = [] if cache is None else read(cache, "layers")
    return layers[layer] if layer < len(layers) else None


def is_buffer(layer: Any) -> bool:
    """Whether a layer of a cache hands out its whole buffer, longer than what was seen."""
    return isinstance(layer, StaticLayer)


def keeps_keys(cache: Cache | None, layer: int) -> bool:
    """Whether all keys of a layer stay where they are: not in a sliding, quantised or offloaded cache."""
    if cache is None:
        return True
    if read(cache, "offloading"):
        return False
    held = layer_of(cache, layer)
    if not isinstance(held, CacheLayerMixin):  # not made yet, or of a layer without keys
        return True
    return not (_is_quantized(held) or read(held, "is_sliding"))


def changes_later(cache: Cache) -> bool:
    """Whether a reordering waits for the next update: a quantised cache puts it off."""
    return any(vars(layer).get("_pending_beam_idx") is not None for layer in read(cache, "layers"))  # 5.18: at once


def _is_quantized(layer: CacheLayerMixin) -> bool:
    return isinstance(layer, QuantizedLayer) or "_quantized_keys" in vars(layer)


def fork(cache: Cache) -> Cache:
    """A cache that goes on from here by itself. Nothing is copied: the layers append by making new tensors."""
    branch = copy.copy(cache)
    branch.layers = [copy.copy(layer) for layer in read(cache, "layers")]
    return branch


def shortened(cache: Cache, length: int) -> Cache | None:
    """A fork of a cache that ends earlier, or where it does; None where a layer has not kept all positions up to there.

    Layers are told by their very type: buffers, quantised and offloaded ones and those with states of another kind are left alone,
    and a sliding window as soon as it has let go of something. What is cut off is counted from the end, which means the same in
    every version.
    """
    branch = fork(cache)
    layers: list[Any] = branch.layers
    if read(cache, "offloading") or not layers:
        return None
    for layer in layers:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            return None
        seen, window = int(layer.get_seq_length()), vars(layer).get("sliding_window")
        if seen < length or (window is not None and seen >= window):
            return None
        if seen > length:
            layer.crop(length - seen)
    return branch


def keeps_everything(cache: Cache) -> bool:
    """Whether an empty cache will keep the keys of all positions of all layers as they come."""
    layers = read(cache, "layers")
    return not read(cache, "offloading") and bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def joined(caches: Sequence[Cache], whole: Cache) -> Cache:
    """Caches of several sequences as one batch in an empty one, the shorter padded on the left.

    Every layer of each keeps all of its keys, as one from `shortened` does; a cache may be empty.
    """
    length = max(int(cache.get_seq_length()) for cache in caches)
    template = next(cache for cache in caches if cache.get_seq_length() == length)
    for number, like in enumerate(read(template, "layers")):
        sides = []
        for side in ("keys", "values"):
            parts = [_held(cache, number, side, like) for cache in caches]
            sides.append(torch.cat([nn.functional.pad(part, (0, 0, length - part.shape[2], 0)) for part in parts]))
        whole.update(sides[0], sides[1], number)
    return whole


def _held(cache: Cache, number: int, side: str, like: Any) -> Tensor:
    """What a layer of a cache holds, nothing of the shape of another where it is empty.  # (1, Hkv, K, D)"""
    found = vars(layer_of(cache, number)).get(side) if cache.get_seq_length() else None
    empty: Tensor = vars(like)[side][:, :, :0]
    return found if isinstance(found, Tensor) else empty


def cache_bytes(cache: Cache) -> int:
    """Bytes of memory that a cache's keys and values lie in, which a shortened one shares with the whole."""
    tensors = [
        vars(layer)[name] for layer in read(cache, "layers") for name in ("keys", "values") if name in vars(layer)
    ]
    storages = [tensor.untyped_storage() for tensor in tensors if isinstance(tensor, Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


# -- attention functions -------------------------------------------------------------------------------------------------


def calls_attention_function(module: nn.Module) -> bool:
    """Whether a module's forward looks its attention function up in transformers' table."""
    code = getattr(_forward(module), "__code__", None)  # a builtin has no code, and looks nothing up
    return code is not None and INTERFACE in code.co_names and hasattr(module, "config")


def attention_function(module: nn.Module, name: str) -> AttentionFunction | None:
    """The attention function that a module would call under an implementation's name; None where there is none.

    It is looked up exactly as the module's own forward does: through that file's table (a file may override entries
    locally) with that file's ``eager_attention_forward`` as the default.
    """
    scope = _forward(module).__globals__
    if INTERFACE not in scope:
        raise UpstreamChanged(f"{scope.get('__name__')} has no {INTERFACE!r}; {remedy()}")
    found: AttentionFunction | None = read(scope[INTERFACE], "get_interface")(
        name, scope.get("eager_attention_forward")
    )
    return found


def leaves_softcap_out(module: nn.Module, name: str) -> bool:
    """Whether an implementation computes a soft-capped attention without its soft-cap; from 5.21 on it refuses instead."""
    capped = vars(module).get("attn_logit_softcapping") is not None
    return capped and name == "sdpa" and Version(installed("transformers") or "0") < Version("5.21")


def attention_name(config: Any) -> str:
    """The attention implementation that a config names."""
    return str(read(config, "_attn_implementation") or "eager")


def from_config(kind: type[PreTrainedModel], config: Any) -> Any:
    """A model of a class as its config says, attention implementation and all; weights are not initialised twice.

    >>> from transformers import SiglipVisionConfig, SiglipVisionModel
    >>> config = SiglipVisionConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=28)
    >>> type(from_config(SiglipVisionModel, config)).__name__
    'SiglipVisionModel'
    """
    return read(kind, "_from_config")(config)


def config_with_attention(config: Any, name: str) -> Any:
    """A shallow copy of a config that names another attention implementation; the config itself stays as it is."""
    read(config, "_attn_implementation_internal")
    other = copy.copy(config)
    other._attn_implementation_internal = name
    if read(other, "_attn_implementation") != name:
        raise UpstreamChanged(f"a copied config of transformers does not take an attention implementation; {remedy()}")
    return other


def _forward(module: nn.Module) -> Any:
    return inspect.unwrap(type(module).forward)


# -- generation and models -----------------------------------------------------------------------------------------------


def overrides(base: type) -> Callable[[F], F]:
    """Mark a method that takes the place of a private one: a private method may vanish, and nobody would call ours.

    Raises
    ------
    UpstreamChanged
        When the class is made, if the base has no method of that name.
    """

    def check(method: F) -> F:
        read(base, method.__name__)
        return method

    return check


def logits_processors(model: PreTrainedModel, config: Any, length: int) -> LogitsProcessorList:
    """What a generation config asks to be done to the scores of every token, what belongs to sampling left out.

    Parameters
    ----------
    model
    config : GenerationConfig
    length : int
        Positions of the prompt.
    """
    config = copy.deepcopy(config)
    config.do_sample = False
    read(model, "_prepare_special_tokens")(config, device=model.device)
    processors: LogitsProcessorList = read(model, "_get_logits_processor")(
        config, input_ids_seq_length=length, device=model.device
    )
    return processors


def caps_logits(model: PreTrainedModel) -> float | None:
    """The soft-cap that a model's own forward puts on its logits, which some versions leave to the text model alone."""
    code = getattr(_forward(model), "__code__", None)
    names = () if code is None else (*code.co_names, *code.co_consts)
    if "final_logit_softcapping" not in names:
        return None
    cap = getattr(model.config.get_text_config(decoder=True), "final_logit_softcapping", None)
    return None if cap is None else float(cap)


def has_adapter(model: PreTrainedModel) -> bool:
    """Whether an adapter of peft is attached."""
    return bool(read(model, "_hf_peft_config_loaded"))


def is_quantized(model: PreTrainedModel) -> bool:
    """Whether weights of the model are quantised, by transformers or as whole numbers."""
    by_transformers = vars(model).get("hf_quantizer") is not None
    return by_transformers or any(not weight.is_floating_point() for weight in model.parameters())


# -- torch ---------------------------------------------------------------------------------------------------------------


def fused_kernel(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float) -> bool:
    """Whether `scaled_dot_product_attention` would take a fused kernel rather than build the whole matrix.

    Asked of the dispatcher itself instead of switching the other kernel off with `sdpa_kernel`: that switch is one flag
    for the whole process, and two threads that set and restore it can leave it off for good.
    """
    grouped = query.shape[1] != key.shape[1]
    choice = read(torch, "_fused_sdp_choice")(query, key, value, mask, 0.0, causal, scale=scale, enable_gqa=grouped)
    return int(choice) > 0  # 0: math, -1: none


def times_written(tensor: Tensor) -> int:
    """How often a tensor was changed in place."""
    return 0 if tensor.is_inference() else int(read(tensor, "_version"))


def state_of(model: nn.Module) -> tuple[Any, ...]:
    """Tells a model before from after its weights were changed in place, exchanged, converted or moved.

    What is written past torch's count (``weight.data.mul_(2)``) cannot be told.
    """
    weights = [*model.parameters(), *model.buffers()]
    places = sum(weight.data_ptr() for weight in weights if weight.device.type != "meta")
    return len(weights), sum(map(times_written, weights)), places, frozenset((w.dtype, w.device) for w in weights)


def foreign_hooks(model: nn.Module, ours: str) -> bool:
    """Whether somebody's hooks are in a model: not this package's, nor those by which transformers hands out hidden states."""
    kinds = ("_forward_hooks", "_forward_pre_hooks")
    hooks = [hook for module in model.modules() for kind in kinds for hook in read(module, kind).values()]
    return any(not str(getattr(hook, "__module__", "")).startswith(("transformers.", f"{ours}.")) for hook in hooks)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator gave up: CUDA has an exception of its own, the CPU's says so in words."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


# -- progress ------------------------------------------------------------------------------------------------------------


@contextmanager
def loading_heard(kind: type[Any]) -> Iterator[None]:
    """transformers makes its bars of this kind of tqdm, and no bar of its own."""
    before = set_tqdm_hook(lambda _, args, kwargs: kind(*args, **kwargs))
    try:
        yield
    finally:
        set_tqdm_hook(before)


# -- the command line ----------------------------------------------------------------------------------------------------


def arguments_of(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Every argument of a parser, and of the commands below it."""
    for action in read(parser, "_actions"):
        yield action
        if isinstance(action, read(argparse, "_SubParsersAction")):
            for below in action.choices.values():
                yield from arguments_of(below)
