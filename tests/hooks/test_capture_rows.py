"""The two functions that hold the numerics, against float64 written out by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from vila_lab.errors import OptionError
from vila_lab.hooks import attention_rows, group_indicator, group_mass
from vila_lab.hooks.rows import FUSED_PIECES


def case(rows=7, columns=7, heads=4, kv_heads=2, width=8, batch=2, dtype=torch.float32, seed=0):
    random = torch.Generator().manual_seed(seed)
    query = torch.randn(batch, heads, rows, width, generator=random)
    key = torch.randn(batch, kv_heads, columns, width, generator=random)
    return query.to(dtype), key.to(dtype)


def truth(query, key, scaling, visible=None, bias=None, softcap=None, sinks=None):
    """Scores of every (row, column) pair one by one in float64; nothing shared with the code under test."""
    batch, heads, rows, _ = query.shape
    out = torch.zeros(batch, heads, rows, key.shape[2], dtype=torch.float64)
    for b in range(batch):
        for h in range(heads):
            keys = key[b, h // (heads // key.shape[1])].double()
            for r in range(rows):
                scores = (keys * query[b, h, r].double()).sum(-1) * scaling
                scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
                scores = scores if bias is None else scores + bias[r].double()
                shown = torch.ones(key.shape[2], dtype=torch.bool) if visible is None else visible[r]
                total = scores[shown].exp().sum() + (0 if sinks is None else sinks[h].double().exp())
                out[b, h, r, shown] = scores[shown].exp() / total
    return out


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 6),
    earlier=st.integers(0, 5),
    kv_heads=st.sampled_from([1, 2, 4]),
    window=st.sampled_from([None, 1, 3, 20]),
    softcap=st.sampled_from([None, 1.5]),
    with_sinks=st.booleans(),
    seed=st.integers(0, 99),
)
def test_rows_equal_the_written_out_softmax(rows, earlier, kv_heads, window, softcap, with_sinks, seed):
    query, key = case(rows, rows + earlier, kv_heads=kv_heads, seed=seed)
    positions = torch.arange(rows) + earlier
    visible = torch.arange(rows + earlier) <= positions[:, None]
    if window is not None:
        visible &= torch.arange(rows + earlier) > positions[:, None] - window
    sinks = torch.randn(4, generator=torch.Generator().manual_seed(seed)) if with_sinks else None
    weights = attention_rows(query, key, scaling=0.5, positions=positions, window=window, softcap=softcap, sinks=sinks)
    expected = truth(query, key, 0.5, visible, softcap=softcap, sinks=sinks)
    torch.testing.assert_close(weights.double(), expected, rtol=0, atol=1e-6)
    assert (weights[..., ~visible] == 0).all(), "hidden columns are exactly zero"
    sums = weights.sum(-1)
    assert (sums < 1).all() if with_sinks else ((sums - 1).abs() < 1e-6).all()


def test_bool_additive_and_column_masks_say_the_same():
    query, key = case()
    columns = torch.tensor([False, True, True, False, True, True, True])
    bool_mask = columns.expand(1, 1, 7, 7)
    additive = torch.zeros(1, 1, 7, 7).masked_fill(~bool_mask, torch.finfo(torch.float32).min)
    by_bool = attention_rows(query, key, scaling=1.0, mask=bool_mask)
    torch.testing.assert_close(attention_rows(query, key, scaling=1.0, mask=additive), by_bool, rtol=0, atol=0)
    torch.testing.assert_close(
        attention_rows(query, key, scaling=1.0, mask=columns.expand(2, 7)), by_bool, rtol=0, atol=0
    )
    torch.testing.assert_close(by_bool.double(), truth(query, key, 1.0, columns.expand(7, 7)), rtol=0, atol=1e-6)


def test_an_additive_mask_may_carry_a_bias():
    query, key = case()
    bias = torch.randn(7, 7, generator=torch.Generator().manual_seed(3))
    weights = attention_rows(query, key, scaling=1.0, mask=bias[None, None])
    torch.testing.assert_close(weights.double(), truth(query, key, 1.0, bias=bias), rtol=0, atol=1e-6)


def test_a_row_that_may_see_nothing_is_zero():
    query, key = case(rows=2)
    mask = torch.ones(1, 1, 2, 7, dtype=torch.bool)
    mask[:, :, 0] = False
    weights = attention_rows(query, key, scaling=1.0, mask=mask)
    assert (weights[:, :, 0] == 0).all()
    torch.testing.assert_close(weights[:, :, 1].sum(-1), torch.ones(2, 4), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("dtype", "result"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_scores_are_at_least_float32(dtype, result):
    query, key = case(dtype=dtype)
    weights = attention_rows(query, key, scaling=1.0)
    assert weights.dtype == result
    torch.testing.assert_close(weights.double(), truth(query, key, 1.0), rtol=0, atol=1e-6)


def test_rows_are_differentiable():
    query, key = case(rows=2, columns=3, batch=1, dtype=torch.float64)
    query, key = query.requires_grad_(), key.requires_grad_()
    positions = torch.tensor([1, 2])
    assert torch.autograd.gradcheck(lambda q, k: attention_rows(q, k, scaling=0.3, positions=positions), (query, key))


GROUPS = torch.tensor([0, 0, -1, 1, 2, 2, 1])
VARIANTS = {
    "whole prompt": {"start": 0},
    "no causal limit": {},
    "padding": {"mask": torch.tensor([[False] * 2 + [True] * 5]), "start": 0},
    "bool mask": {"mask": torch.ones(7, 7, dtype=torch.bool).tril()[None, None]},
    "additive mask": {"mask": torch.full((7, 7), -1e38).triu(1)[None, None]},
    "softcap": {"start": 0, "softcap": 1.0},
    "window": {"start": 0, "window": 3},
    "window wider than the prompt": {"start": 0, "window": 9},
    "sinks": {"start": 0, "sinks": torch.tensor([0.0, 1.0, -1.0, 2.0])},
}


@pytest.mark.parametrize("kv_heads", [2, 4])
@pytest.mark.parametrize("variant", VARIANTS)
def test_mass_is_the_sum_of_the_weights_of_each_group(variant, kv_heads):
    options = VARIANTS[variant]
    query, key = case(kv_heads=kv_heads)
    mass = group_mass(query, key, GROUPS, scaling=0.6, **options)
    rows = {name: value for name, value in options.items() if name != "start"}
    positions = torch.arange(7) if "start" in options else None
    expected = attention_rows(query, key, scaling=0.6, positions=positions, **rows) @ group_indicator(GROUPS)
    torch.testing.assert_close(mass, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("rows", "start"), [(1, 6), (3, 4)])
def test_mass_of_later_rows(rows, start):
    query, key = case(rows=rows)
    mass = group_mass(query, key, GROUPS, scaling=1.0, start=start)
    expected = attention_rows(query, key, scaling=1.0, positions=torch.arange(start, start + rows))
    torch.testing.assert_close(mass, expected @ group_indicator(GROUPS), rtol=0, atol=2e-6)


@pytest.mark.parametrize("count", [1, 8, 9, 8 * FUSED_PIECES, 8 * FUSED_PIECES + 1])
def test_any_number_of_groups(count):
    """One fused call holds head_dim groups, several hold more, and beyond that the chunked form takes over."""
    query, key = case(rows=40, columns=40)
    indicator = torch.rand(40, count, generator=torch.Generator().manual_seed(2))
    mass = group_mass(query, key, indicator, scaling=0.7, start=0, chunk_scores=2 * 4 * 40 * 3)
    expected = attention_rows(query, key, scaling=0.7, positions=torch.arange(40)) @ indicator
    torch.testing.assert_close(mass, expected, rtol=0, atol=5e-6)


def test_half_precision_mass_is_within_its_tolerance():
    query, key = case(rows=64, columns=64, dtype=torch.bfloat16)
    groups = torch.arange(64) // 16
    mass = group_mass(query, key, groups, scaling=0.4, start=0)
    expected = attention_rows(query, key, scaling=0.4, positions=torch.arange(64)) @ group_indicator(groups)
    torch.testing.assert_close(mass, expected, rtol=0, atol=8e-3)  # the kernel's bfloat16 output: half of 2**-7


class NoTensorOf(TorchDispatchMode):
    """Fails on any result with that many elements or more."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.elements = elements

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, torch.Tensor):
                assert value.numel() < self.elements, f"{func} made {tuple(value.shape)}"
        return out


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_mass_needs_no_rows_by_columns_matrix(softcap):
    rows = 512
    query, key = case(rows=rows, columns=rows, batch=1)
    with NoTensorOf(rows * rows):
        group_mass(query, key, torch.arange(rows) // 100, scaling=0.3, start=0, softcap=softcap, chunk_scores=rows * 64)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: attention_rows(*case(heads=4, kv_heads=3), scaling=1.0), "multiple of Hkv"),
        (lambda: attention_rows(case()[0], case(width=4)[1], scaling=1.0), "do not fit"),
        (lambda: group_mass(*case(), torch.zeros(5, dtype=torch.int64), scaling=1.0), "5 columns"),
        (lambda: group_mass(*case(), torch.zeros(7), scaling=1.0), "integer tensor"),
    ],
)
def test_shapes_that_do_not_fit_are_named(call, named):
    with pytest.raises(OptionError, match=named):
        call()
