"""Rounding of weights: to the nearest step, and with the least error of the output."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import export.int8.round_weights
from export.int8.round_weights import least_error, nearest

WEIGHTS = arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)),
    elements=st.floats(-100, 100, width=32),
)


@given(WEIGHTS)
def test_weights_are_rounded_per_output_channel(weight):
    steps, scale = nearest(weight)
    assert steps.dtype == np.int8
    assert steps.shape == weight.shape
    assert scale.dtype == np.float32
    assert scale.shape == weight.shape[:1]
    assert np.all(scale > 0)
    assert steps.min() >= -127
    back = steps.astype(np.float64) * scale.reshape(-1, 1, 1)
    limit = 0.5001 * scale.reshape(-1, 1, 1) + 1e-30
    assert np.all(np.abs(back - weight) <= limit)
    used = np.abs(weight).reshape(len(weight), -1).max(1) > 1e-30
    assert np.all(np.abs(steps).reshape(len(weight), -1).max(1)[used] == 127)


@pytest.mark.parametrize("dead", [0.0, 1e-44, 1e-38])
def test_a_dead_channel_becomes_zeros(dead):
    weight = np.ones((3, 2, 3, 3), np.float32)
    weight[1] = dead
    steps, scale = nearest(weight)
    assert not steps[1].any()
    assert np.all(np.isfinite(scale))
    assert np.all(scale > 1e-6)
    assert np.all(steps[[0, 2]] == 127)


def output_error(weight, rounded, patches):
    """Mean squared error of the outputs; patches of each group, (G, S, P)."""
    steps, scale = rounded
    held = steps * scale.reshape(-1, *[1] * (weight.ndim - 1)).astype(np.float64)
    error = (weight - held).reshape(len(patches), -1, patches.shape[2])
    return float(np.square(patches @ error.transpose(0, 2, 1)).mean())


def never_negative(groups, size, seed=0):
    """Inputs as they are behind a ReLU: related to each other, and large together."""
    rng = np.random.default_rng(seed)
    common = rng.uniform(0, 6, (groups, 500, 1))
    return np.maximum(common + rng.normal(0, 1, (groups, 500, size)), 0)


@pytest.mark.parametrize(("groups", "shape"), [(1, (12, 20, 1, 1)), (6, (12, 1, 3, 3))])
def test_the_output_has_a_smaller_error(groups, shape):
    """On inputs of the same kind, not on those it was rounded for."""
    weight = np.random.default_rng(1).normal(0, 1, shape).astype(np.float32)
    size = int(np.prod(shape[1:]))
    seen, unseen = never_negative(groups, size, 2), never_negative(groups, size, 3)
    moments = np.stack([each.T @ each / len(each) for each in seen])
    found = least_error(weight, moments)
    assert output_error(weight, found, unseen) < 0.2 * output_error(weight, nearest(weight), unseen)
    assert found[0].dtype == np.int8
    assert found[0].shape == shape
    assert found[0].min() >= -127
    assert np.array_equal(found[1], nearest(weight)[1])


def test_blocks_are_only_faster(monkeypatch):
    """More weights than a block holds: those behind it make up for its errors too."""
    weight = np.random.default_rng(7).normal(0, 1, (3, 150, 1, 1)).astype(np.float32)
    seen = never_negative(1, 150)
    moments = np.stack([each.T @ each / len(each) for each in seen])
    found = least_error(weight, moments)[0]
    monkeypatch.setattr(export.int8.round_weights, "BLOCK", 1000)
    assert np.array_equal(found, least_error(weight, moments)[0])


def test_no_weight_moves_where_inputs_are_unrelated():
    weight = np.random.default_rng(4).normal(0, 1, (5, 8, 1, 1)).astype(np.float32)
    steps, scale = least_error(weight, np.eye(8)[np.newaxis])
    assert np.array_equal(steps, nearest(weight)[0])
    assert np.array_equal(scale, nearest(weight)[1])


def test_groups_do_not_mix():
    """Channels of another group neither change nor are changed."""
    weight = np.random.default_rng(5).normal(0, 1, (4, 1, 3, 3)).astype(np.float32)
    patches = never_negative(2, 9)
    moments = np.stack([each.T @ each / len(each) for each in patches])
    both = least_error(weight, moments)[0]
    assert np.array_equal(both[:2], least_error(weight[:2], moments[:1])[0])
    assert np.array_equal(both[2:], least_error(weight[2:], moments[1:])[0])
    assert not np.array_equal(both, nearest(weight)[0])


def test_inputs_that_were_always_zero():
    weight = np.random.default_rng(6).normal(0, 1, (3, 4, 1, 1)).astype(np.float32)
    steps, scale = least_error(weight, np.zeros((1, 4, 4)))
    assert np.array_equal(steps, nearest(weight)[0])
    assert np.all(np.isfinite(scale))
