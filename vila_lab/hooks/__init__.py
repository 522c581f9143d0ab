"""Attention of a generation, exactly and at almost no cost. Knows layers, heads, rows and columns, and no pictures."""

from vila_lab.hooks.context import Capture
from vila_lab.hooks.rows import attention_rows, group_indicator, group_mass
from vila_lab.hooks.tape import Tape
from vila_lab.hooks.tower import TowerTape

__all__ = ["Capture", "Tape", "TowerTape", "attention_rows", "group_indicator", "group_mass"]
