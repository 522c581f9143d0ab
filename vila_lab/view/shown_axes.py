"""Axes that show their figure when they are a notebook cell's last line. Knows matplotlib's classes and nothing else."""

from __future__ import annotations

import io

from matplotlib.axes import Axes


class ShownAxes(Axes):
    """Plain axes, except that a notebook shows a picture instead of their name.

    A figure that pyplot does not know is not shown by the notebook's own machinery.
    """

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        figure = self.get_figure(root=True)
        assert figure is not None  # axes that were removed from their figure are never a result
        figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
        return buffer.getvalue()
