"""What of vila_lab works on this machine, and what to do about the rest. Knows packages, devices, fonts and folders, no result.

Every check is a `Finding`; `report` makes text of them. Nothing is changed, and nothing is fetched.
"""

from __future__ import annotations

import platform
import re
import shutil
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from . import __version__
from .tiny import demo_images
from .versions import PACKAGE, installed, requirements

__all__ = [
    "CHECKS",
    "Finding",
    "device",
    "disk",
    "examined",
    "extras",
    "fonts",
    "model",
    "needed",
    "report",
    "system",
    "widgets",
]

GB = 1e9
ROOM = 20 * GB  # for a model of 8B parameters in half precision, and for what is unpacked beside it
LEFT_TO_DEVELOPERS = ("docs", "test")
WIDTH = 118


@dataclass(frozen=True)
class Finding:
    """What was found out about one thing.

    Attributes
    ----------
    name : str
    state : str
        What there is.
    remedy : str
        What to do about it, where something is to be done; otherwise empty.
    is_fault : bool
        Whether vila_lab may fail or err as it is; False where something is merely left out.
    """

    name: str
    state: str
    remedy: str = ""
    is_fault: bool = False


def system() -> Iterator[Finding]:
    """vila_lab, Python and the machine."""
    yield Finding(
        "vila_lab", f"{__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    )


def needed() -> Iterator[Finding]:
    """Every package that vila_lab needs, and whether it was verified with the installed version."""
    if not requirements():
        yield Finding("versions", "unknown: vila_lab is not installed as a package", 'pip install -e "."')
    for name, needs in sorted(requirements().items()):
        yield _version(needs, f"pip install '{name}{needs.specifier}'")


def _version(needs: Requirement, remedy: str) -> Finding:
    version = installed(needs.name)
    if version is None:
        return Finding(needs.name, "not installed", remedy, is_fault=True)
    if _is_verified(needs, version):
        return Finding(needs.name, f"{version}, verified ({needs.specifier})")
    return Finding(needs.name, f"{version}, not verified ({needs.specifier} is)", remedy, is_fault=True)


def _is_verified(needs: Requirement, version: str | None) -> bool:
    """Whether a version is among those asked for, which one before its release is, too."""
    return version is not None and needs.specifier.contains(version, prereleases=True)


def device() -> Iterator[Finding]:
    """Where models run."""
    import torch

    for number in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(number)
        yield Finding("device", f"cuda:{number}: {found.name}, {found.total_memory / GB:.0f} GB")
    if torch.backends.mps.is_available():
        yield Finding("device", "mps: an Apple GPU")
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        return
    state = f"cpu, {torch.get_num_threads()} threads; no GPU is in reach"
    if shutil.which("nvidia-smi") and not torch.version.cuda:
        yield Finding("device", state, "there is an NVIDIA driver and a torch without CUDA: install torch with CUDA")
        return
    yield Finding("device", f"{state}, and the embedded model needs none")


def fonts() -> Iterator[Finding]:
    """What figures are lettered with."""
    from .view.lettering import FONT_REMEDY, font_family

    names = font_family()
    if len(names) > 1:
        yield Finding("fonts", ", ".join(names))
    else:
        yield Finding("fonts", f"{names[0]}; none with Chinese, Japanese and Korean characters", FONT_REMEDY)


def widgets() -> Iterator[Finding]:
    """Whether ``answer.explore()`` can show itself."""
    yield _extra("widgets", _extras().get("lab", ()), "lab", "answer.explore() works in Jupyter")


def extras() -> Iterator[Finding]:
    """What each of the optional parts needs."""
    for extra, needs in _extras().items():
        if extra not in (*LEFT_TO_DEVELOPERS, "lab"):
            yield _extra(extra, needs, extra, "")


def _extra(name: str, needs: Iterable[Requirement], extra: str, works: str) -> Finding:
    found = {each.name: installed(each.name) for each in needs}
    state = ", ".join(f"{package} {version or 'not installed'}" for package, version in found.items())
    outside = [each for each in needs if not _is_verified(each, found[each.name])]
    if not found or outside:
        return Finding(name, state or "unknown", f'pip install "{PACKAGE}[{extra}]"')
    return Finding(name, f"{state}: {works}" if works else state)


def _extras() -> dict[str, tuple[Requirement, ...]]:
    """What each extra asks for, as the package's metadata states it."""
    try:
        lines = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return {}
    found: dict[str, tuple[Requirement, ...]] = {}
    for line in lines:
        needs = Requirement(line)
        extra = re.search(r"extra == [\"']([\w-]+)[\"']", str(needs.marker))
        if extra is not None:
            found[extra[1]] = (*found.get(extra[1], ()), needs)
    return found


def disk() -> Iterator[Finding]:
    """Room for weights, and for answers that go beyond the memory given to them."""
    from huggingface_hub.constants import HF_HUB_CACHE

    yield _room(
        "weights", Path(HF_HUB_CACHE), ROOM, "HF_HOME names another place; a model of 8B parameters takes 16 GB"
    )
    yield _room("tapes", Path(tempfile.gettempdir()), GB, "TMPDIR names another place")


def _room(name: str, folder: Path, least: float, remedy: str) -> Finding:
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(there).free
    return Finding(name, f"{free / GB:.1f} GB free in {folder}", remedy if free < least else "")


def model() -> Iterator[Finding]:
    """Whether the embedded model loads and answers."""
    from .resident import load

    started = time.perf_counter()
    answer = load().ask([demo_images() / "g.png", "What is in image 1?"])
    seconds = time.perf_counter() - started
    is_right = "Google" in answer.text
    remedy = (
        ""
        if is_right
        else f"install {PACKAGE} again: its weights, or a version above, are not those it was tested with"
    )
    yield Finding(
        "model", f"the embedded one was loaded and answered {answer.text!r} in {seconds:.1f} s", remedy, not is_right
    )


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (system, needed, device, model, fonts, widgets, extras, disk)


def examined(check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """What a check finds; where it fails itself, that is what was found.

    >>> def check():
    ...     raise ImportError("libcuda.so.1: no such file")
    >>> examined(check)[0].state
    'cannot be examined (ImportError: libcuda.so.1: no such file)'
    """
    try:
        return list(check())
    except Exception as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return [
            Finding(
                check.__name__,
                f"cannot be examined ({said})",
                "mend what is named, or install vila_lab into a fresh environment",
                is_fault=True,
            )
        ]


def report(findings: Iterable[Finding]) -> str:
    """A line for each, and below those that need it what to do.

    >>> print(report([Finding("fonts", "DejaVu Sans"), Finding("video", "av not installed", 'pip install "vila-lab[video]"')]))
    fonts               DejaVu Sans
    video               av not installed
                        to have it: pip install "vila-lab[video]"
    """
    lines = []
    for each in findings:
        lines.append(_hanging(f"{each.name:<20}{each.state}"))
        if each.remedy:
            lines.append(_hanging(f"{'':<20}{'to mend it' if each.is_fault else 'to have it'}: {each.remedy}"))
    return "\n".join(lines)


def _hanging(line: str) -> str:
    return textwrap.fill(line, WIDTH, subsequent_indent=" " * 20, break_long_words=False, break_on_hyphens=False)
