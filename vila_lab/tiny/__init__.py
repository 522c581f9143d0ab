"""The embedded model: a small NVILA and the drawn world it was trained on. Knows nothing of hooks, answers or views."""

from __future__ import annotations

from pathlib import Path

DEMO_TEXT = "图像1是谷歌,以其搜索引擎闻名。图像2是微软,以其操作系统闻名。图像3是苹果,以iPhone和Mac闻名。图像4是"
MOST_PICTURES = 6  # in a prompt of its training
DEMO_MEDIA = ("g.png", "m.png", "a.png", "n.png")


def weights_folder() -> Path:
    """The embedded checkpoint, in NVILA's three-folder layout."""
    return Path(__file__).parent / "weights"


def heads_file() -> Path:
    """The embedded model's head rankings, made by ``python -m training.rank_heads``."""
    return Path(__file__).parent / "heads.json"


def band_file() -> Path:
    """Where the embedded model's answers are redirected, made by ``python -m training.rank_heads``."""
    return Path(__file__).parent / "band.json"


def demo_images() -> Path:
    """The folder of demo pictures: four company marks and six drawn scenes, with their boxes in ``boxes.json``.

    Examples
    --------
    >>> (demo_images() / "g.png").is_file()
    True
    """
    package = Path(__file__).parents[1]
    inside = package / "demo_images"  # of an installed wheel; a checkout has it beside the package
    return inside if inside.is_dir() else package.parent / "demo_images"
