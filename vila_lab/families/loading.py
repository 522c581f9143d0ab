"""From a folder or hub id to a loaded family: whose checkpoint it is, and where and how its weights lie. Knows no prompt."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch
from transformers import BitsAndBytesConfig

from ..errors import CheckpointError, DeviceError, MissingExtra, OptionError, VilaLabError
from ..nvila.folder import find_root, read_json
from ..options import nearest
from ..upstream import has_flash_attention
from . import FAMILIES
from .adapters import find_adapter, put_in
from .base import Family
from .int8 import quantise

Quantization: TypeAlias = Literal["4bit", "8bit", "int8"]
DTypeName: TypeAlias = Literal["auto", "float32", "float16", "bfloat16"]
AttentionName: TypeAlias = Literal["sdpa", "eager", "flash_attention_2", "flex_attention"]
BITSANDBYTES = ("4bit", "8bit")
QUANTIZATIONS: tuple[str, ...] = get_args(Quantization)
DTYPES: tuple[str, ...] = get_args(DTypeName)
ATTENTION: tuple[str, ...] = get_args(AttentionName)
DEVICES = ("cpu", "cuda", "mps", "xpu")


def load_family(
    source: str | Path,
    *,
    device: str | None = None,
    dtype: str | torch.dtype = "auto",
    device_map: Any = None,
    quantization: str | None = None,
    attn_implementation: str | None = None,
    revision: str | None = None,
    adapter: str | Path | None = None,
) -> Family:
    """Load a checkpoint with the family that it belongs to.

    Parameters
    ----------
    source : str or Path
        A local folder in any of the published layouts, or a hub id.
    device : str, optional
        Where to put the model, "cpu", "cuda", "cuda:1", "mps"; by default where `device_map` says, otherwise the CPU.
    dtype : str or torch.dtype
        "auto" keeps the type in which the weights are stored.
    device_map : optional
        transformers' own, for instance "auto".
    quantization : {"4bit", "8bit", "int8"}, optional
        With bitsandbytes, on a GPU; or "int8", without it and on the CPU, where it takes half the time (`vila_lab.families.int8`).
        Tower, projector and head stay in full precision.
    attn_implementation : str, optional
        "sdpa", "eager", "flash_attention_2" ...
    revision : str, optional
        Branch, tag or commit on the hub.
    adapter : str or Path, optional
        A LoRA adapter as peft saves it, a folder or a hub id; it is put in, and its parameters belong to the model.

    Returns
    -------
    Family
        With its model in evaluation mode.

    Raises
    ------
    CheckpointNotFound, CheckpointError, DeviceError, OptionError, MissingExtra
    """
    known = (*DTYPES, torch.float32, torch.float16, torch.bfloat16, torch.float64)
    if not isinstance(dtype, str | torch.dtype) or dtype not in known:
        raise OptionError(f"dtype {dtype!r} is unknown{nearest(dtype, DTYPES)}; choose one of {', '.join(DTYPES)}.")
    _check_attention(attn_implementation)
    if device is not None and device_map is not None:
        raise OptionError("device and device_map exclude each other; give one of them.")
    if device is not None:
        _check_device(device)
    if not isinstance(device_map, str | dict | None):
        raise OptionError(f"device_map {device_map!r} is neither a name such as 'auto' nor a table of modules.")
    _check_quantization(quantization)
    if quantization == "int8":
        _check_int8(device, device_map, adapter)
    root = find_root(source, revision=revision)
    config = read_json(root / "config.json")
    kind = family_of(config, str(source))
    stored = stored_quantization(config)
    if stored is not None and quantization is not None:
        raise OptionError(f"{source} is stored as {stored} already, so leave quantization={quantization!r} out.")
    beside = None if adapter is None else find_adapter(adapter)
    options: dict[str, Any] = {"dtype": dtype, "device_map": device_map, "attn_implementation": attn_implementation}
    if quantization in BITSANDBYTES:
        options["quantization_config"] = _quantization_config(quantization, dtype, kind.kept_in_full)
    is_quantized = quantization in BITSANDBYTES or stored is not None
    if is_quantized and device_map is None and device is not None:  # such weights cannot be moved afterwards
        options["device_map"] = {"": device}
    given = {key: value for key, value in options.items() if value is not None}
    with _one_sentence(source, attn_implementation, stored):
        family = kind.load(root, str(source), **given)
    if beside is not None:
        put_in(family.model, beside)
    if device is not None and not is_quantized:
        family.model.to(device)
    check_numbers(family.model)
    if quantization == "int8":
        quantise(family.decoder_layers)
    return family


def family_of(config: dict[str, Any], name: str) -> type[Family]:
    """The family that a checkpoint's ``config.json`` belongs to.

    Raises
    ------
    CheckpointError
        If no family knows its model type.
    """
    for module, attribute in FAMILIES.values():
        family: type[Family] = getattr(importlib.import_module(module), attribute)
        if family.matches(config):
            return family
    raise CheckpointError(
        f"{name} has model type {config.get('model_type')!r}, which no family here reads; known families: {', '.join(FAMILIES)}."
    )


def stored_quantization(config: dict[str, Any]) -> str | None:
    """How a checkpoint's weights are stored, where they are quantised: awq, gptq, fp8, compressed-tensors ..."""
    found = config.get("quantization_config")
    return str(found.get("quant_method", "quantised")) if isinstance(found, dict) else None


@contextmanager
def _one_sentence(source: str | Path, attention: str | None, stored: str | None) -> Iterator[None]:
    """What other packages raise about a checkpoint, named as what it is; lack of memory stays."""
    try:
        yield
    except (VilaLabError, MemoryError, torch.OutOfMemoryError):
        raise
    except ImportError as error:
        if stored is None:
            raise
        raise MissingExtra(
            f"{source} is stored as {stored}, which transformers reads with packages that are not here: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error
    except Exception as error:
        if attention is not None and "does not support an attention implementation" in str(error):
            raise OptionError(
                f"{source} does not work with attn_implementation={attention!r}: leave it out, or take 'eager'."
            ) from error
        raise CheckpointError(
            f"{source} cannot be loaded ({type(error).__name__}: {' '.join(str(error).split())[:300]}); fetch its files again."
        ) from error


@torch.no_grad()
def check_numbers(model: torch.nn.Module) -> None:
    """Refuse weights that hold NaN or infinity: one of them makes every answer noise.

    Reads all weights once more, by their smallest and largest values: 0.2 to 0.3 s a GiB on two busy cores, a tenth of what
    asking every number takes.

    Raises
    ------
    CheckpointError
        Names the tensor.
    """
    for name, value in model.named_parameters():
        is_readable = value.device.type != "meta" and value.is_floating_point() and value.element_size() >= 2
        if not is_readable or not value.numel():
            continue
        if not all(torch.isfinite(end) for end in torch.aminmax(value)):  # both ends are NaN where one number is
            raise CheckpointError(f"The tensor {name} holds NaN or infinity; fetch the weights again.")


def _check_device(device: str) -> None:
    try:
        wanted = torch.device(device) if isinstance(device, str | torch.device) else None
    except RuntimeError:
        wanted = None
    if wanted is None or wanted.type not in DEVICES:
        raise DeviceError(f"Device {device!r} is not a device name; use cpu, cuda, cuda:0 or mps.")
    if wanted.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            f"Device {device!r} is asked for, but this machine (or this build of torch) has no CUDA; use device='cpu'."
        )
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"Device {device!r} is asked for, but there are only {torch.cuda.device_count()} CUDA devices."
        )
    if wanted.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("Device 'mps' is asked for, but this machine has no Apple GPU; use device='cpu'.")


def _check_attention(name: str | None) -> None:
    if name is None:
        return
    if name not in ATTENTION:
        raise OptionError(
            f"attn_implementation {name!r} is unknown{nearest(name, ATTENTION)}; choose one of {', '.join(ATTENTION)}."
        )
    if name == "flash_attention_2" and not has_flash_attention():
        raise OptionError(
            "attn_implementation 'flash_attention_2' needs a CUDA device and the package flash-attn; use 'sdpa'."
        )


def _check_quantization(quantization: str | None) -> None:
    if quantization is None:
        return
    if quantization not in QUANTIZATIONS:
        raise OptionError(
            f"quantization {quantization!r} is unknown{nearest(quantization, QUANTIZATIONS)}; choose one of {', '.join(QUANTIZATIONS)}."
        )
    if quantization in BITSANDBYTES and importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtra(f"quantization={quantization!r} needs bitsandbytes: pip install bitsandbytes")


def _check_int8(device: str | None, device_map: Any, adapter: Any) -> None:
    if device_map is not None or torch.device(device or "cpu").type != "cpu":
        raise OptionError("quantization='int8' is for the CPU; elsewhere take '8bit' or '4bit'.")
    if adapter is not None:
        raise OptionError(
            "an adapter is put into layers as they are trained, so quantization='int8' and adapter exclude each other."
        )


def _quantization_config(quantization: str, dtype: str | torch.dtype, kept_in_full: Sequence[str]) -> Any:
    kept = list(kept_in_full)
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    compute = torch.bfloat16 if dtype == "auto" else dtype
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_compute_dtype=compute, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=kept
    )
