"""Load a checkpoint of the family in one call. Knows devices and options, no file names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from vila_lab.errors import CheckpointError, DeviceError, MissingExtra, OptionError, VilaLabError
from vila_lab.nvila.configuration_nvila import NVILAConfig
from vila_lab.nvila.folder import find_checkpoint
from vila_lab.nvila.modeling_nvila import NVILAForConditionalGeneration
from vila_lab.nvila.processing_nvila import NVILAProcessor
from vila_lab.upstream import has_flash_attention

QUANTIZATIONS = ("4bit", "8bit")
DTYPES = ("auto", "float32", "float16", "bfloat16")
DEVICES = ("cpu", "cuda", "mps", "xpu")
ATTENTION = ("sdpa", "eager", "flash_attention_2", "flex_attention")
KEPT_IN_FULL = ["vision_tower", "mm_projector", "lm_head"]  # small, and visibly worse when quantised


def load_checkpoint(
    source: str | Path,
    *,
    device: str | None = None,
    dtype: str | torch.dtype = "auto",
    device_map: Any = None,
    quantization: str | None = None,
    attn_implementation: str | None = None,
    revision: str | None = None,
) -> tuple[NVILAForConditionalGeneration, NVILAProcessor]:
    """Load model and processor of an NVILA or VILA1.5 checkpoint.

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
    quantization : {"4bit", "8bit"}, optional
        With bitsandbytes; tower, projector and head stay in full precision.
    attn_implementation : str, optional
        "sdpa", "eager", "flash_attention_2" ...
    revision : str, optional
        Branch, tag or commit on the hub.

    Returns
    -------
    (NVILAForConditionalGeneration, NVILAProcessor)
        The model in evaluation mode.

    Raises
    ------
    CheckpointNotFound, CheckpointError, DeviceError, OptionError, MissingExtra
    """
    known = (*DTYPES, torch.float32, torch.float16, torch.bfloat16, torch.float64)
    if not isinstance(dtype, str | torch.dtype) or dtype not in known:
        raise OptionError(f"dtype {dtype!r} is unknown; choose one of {', '.join(DTYPES)}.")
    _check_attention(attn_implementation)
    if device is not None and device_map is not None:
        raise OptionError("device and device_map exclude each other; give one of them.")
    if device is not None:
        _check_device(device)
    if not isinstance(device_map, str | dict | None):
        raise OptionError(f"device_map {device_map!r} is neither a name such as 'auto' nor a table of modules.")
    options: dict[str, Any] = {"dtype": dtype, "device_map": device_map, "attn_implementation": attn_implementation}
    if quantization is not None:
        options["quantization_config"] = _quantization_config(quantization, dtype)
        if device_map is None and device is not None:
            options["device_map"] = {"": device}
    folder = find_checkpoint(source, revision=revision)
    given = {key: value for key, value in options.items() if value is not None}
    with _one_sentence(source):
        config = NVILAConfig.from_pretrained(folder.root)
        processor = NVILAProcessor.from_folder(folder, config, name=str(source))
        check_vocabulary(processor.tokenizer, config.text_config.vocab_size)
        model = NVILAForConditionalGeneration.from_pretrained(folder.root, config=config, processor=processor, **given)
    if device is not None and quantization is None:
        model.to(device)
    check_numbers(model)
    return model, processor


@contextmanager
def _one_sentence(source: str | Path) -> Iterator[None]:
    """What a damaged checkpoint makes other packages raise, named as what it is; lack of memory and packages stay."""
    try:
        yield
    except (VilaLabError, MemoryError, torch.OutOfMemoryError, ImportError):
        raise
    except Exception as error:
        raise CheckpointError(
            f"{source} cannot be loaded ({type(error).__name__}: {' '.join(str(error).split())[:300]}); fetch its files again."
        ) from error


def check_vocabulary(tokenizer: Any, rows: int) -> None:
    """Whether a tokenizer can be that of a decoder with so many rows of embeddings.

    Raises
    ------
    CheckpointError
    """
    known = len(tokenizer)
    if tokenizer.eos_token_id is None:
        raise CheckpointError("The tokenizer has no token that ends an answer; copy tokenizer_config.json there.")
    if known < rows / 2:
        raise CheckpointError(
            f"The tokenizer knows {known} tokens and the decoder has {rows}; copy the tokenizer that belongs to it."
        )
    control = set(tokenizer.added_tokens_decoder)  # those of pictures have no rows of their own
    highest = max((number for number in tokenizer.get_vocab().values() if number not in control), default=0)
    if highest >= rows:
        raise CheckpointError(
            f"The tokenizer gives ids up to {highest} and the decoder has {rows} rows; copy the tokenizer that belongs to it."
        )


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
        raise OptionError(f"attn_implementation {name!r} is unknown; choose one of {', '.join(ATTENTION)}.")
    if name == "flash_attention_2" and not has_flash_attention():
        raise OptionError(
            "attn_implementation 'flash_attention_2' needs a CUDA device and the package flash-attn; use 'sdpa'."
        )


def _quantization_config(quantization: str, dtype: str | torch.dtype) -> Any:
    if quantization not in QUANTIZATIONS:
        raise OptionError(f"quantization {quantization!r} is unknown; choose one of {', '.join(QUANTIZATIONS)}.")
    import importlib.util

    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtra("quantization needs bitsandbytes: pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=KEPT_IN_FULL)
    compute = torch.bfloat16 if dtype == "auto" else dtype
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_compute_dtype=compute, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=KEPT_IN_FULL
    )
