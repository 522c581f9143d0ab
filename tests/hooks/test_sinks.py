"""Which positions are sinks, and that recording norms leaves nothing behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.inside import hooks_of
from vila_lab.hooks.sinks import ResidualNorms, sink_positions


def test_the_first_position_is_a_sink_whatever_its_norm():
    assert sink_positions(np.array([0.1, 5.0, 5.0, 5.0], np.float32)).tolist() == [0]


@pytest.mark.parametrize(("factor", "expected"), [(4.9, [0]), (5.1, [0, 2])])
def test_a_norm_beyond_five_medians_is_a_sink(factor, expected):
    assert sink_positions(np.array([1, 1, factor, 1, 1], np.float32)).tolist() == expected


def test_nothing_recorded_means_no_sinks():
    assert sink_positions(np.zeros(0, np.float32)).size == 0


def test_norms_come_in_order_and_the_hook_goes():
    layer = nn.Identity()
    with ResidualNorms(layer) as norms:
        layer(torch.tensor([[[3.0, 4.0], [0.0, 1.0]]]))
        layer(torch.tensor([[[6.0, 8.0]]]))
    layer(torch.ones(1, 1, 2))
    assert norms.values().tolist() == [5.0, 1.0, 10.0]
    assert not any(hooks_of(layer))


def test_the_hook_goes_after_an_exception():
    layer = nn.Identity()
    with pytest.raises(KeyboardInterrupt), ResidualNorms(layer):
        raise KeyboardInterrupt
    assert not any(hooks_of(layer))
