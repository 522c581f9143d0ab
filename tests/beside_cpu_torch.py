"""A pytest plugin that lets PyPI's torchvision be imported beside a CPU wheel of torch.

That torchvision is built for CUDA's torch: its compiled operators cannot be loaded here, and importing it fails because two of
them are then unknown. Nothing that reads pictures calls them; so their names are made known, and no more. It must be loaded
before torchvision is (``pytest -p tests.beside_cpu_torch``), and is no part of the package.
"""

from __future__ import annotations

import torch

OPERATORS = ("nms", "qnms")

library = torch.library.Library("torchvision", "DEF")
for name in OPERATORS:
    library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
