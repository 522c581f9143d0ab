"""Which model families there are, and what each adds to a question. Knows where they stand, and imports none of them."""

from __future__ import annotations

from ..nvila.prompt_options import NVILAOptions

FAMILIES = {"nvila": ("vila_lab.families.nvila", "NVILAFamily")}
"""Module and class of every family, by name."""

OPTIONS: dict[str, type] = {"nvila": NVILAOptions}
"""What a prompt may be told in each family alone, here too so that the command line can list it without loading torch."""
