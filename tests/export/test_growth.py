"""Growth of a distance: what drifts must be found, what only scatters must not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.stream.growth import BOUND, NUM_BLOCKS, growth_of

STEPS = 1000
seeds = st.integers(0, 2**31)


def noise(seed, steps=STEPS, memory=0.0):
    """Distances as they are: positive, with a long tail, each a little like the one before."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=steps)
    for step in range(1, steps):
        values[step] = memory * values[step - 1] + np.sqrt(1 - memory**2) * values[step]
    return 0.02 * np.exp(0.6 * values)


# chance may call anything growth: the examples are the same ones every time
@settings(max_examples=200, derandomize=True)
@given(seeds, st.sampled_from([0.0, 0.3, 0.5]), st.sampled_from([500, 1000, 3000]))
def test_noise_does_not_grow(seed, memory, steps):
    found = growth_of(noise(seed, steps, memory))
    assert not found.grows, found


def test_even_noise_with_a_long_memory_is_seldom_called_growth():
    """Blocks of a hundred steps, a memory of twenty: one in a hundred at most."""
    assert sum(growth_of(noise(seed, STEPS, 0.9)).grows for seed in range(200)) <= 2


@settings(max_examples=100, derandomize=True)
@given(seeds, st.floats(2.0, 20.0))
def test_a_steady_rise_is_found(seed, rise):
    """To three times the start and more, under the same scatter."""
    assert growth_of(noise(seed) * np.linspace(1, 1 + rise, STEPS)).grows


@settings(max_examples=100, derandomize=True)
@given(seeds)
def test_what_breaks_out_near_the_end_is_found(seed):
    distance = noise(seed)
    distance[800:] *= 5
    found = growth_of(distance)
    assert found.grows
    assert found.ratio > 3
    assert found.break_t > 10


def test_most_random_walks_are_found():
    """Errors that add up leave like a walk does; some come back, those look like no growth."""
    found = 0
    for seed in range(100):
        steps = np.random.default_rng(seed).normal(size=(STEPS, 8))
        found += growth_of(0.02 + 0.02 * np.linalg.norm(np.cumsum(steps, 0), axis=1)).grows
    assert found >= 85


@settings(max_examples=50, derandomize=True)
@given(seeds)
def test_what_shrinks_is_no_fault(seed):
    assert not growth_of(noise(seed) * np.linspace(3, 1, STEPS)).grows


def test_by_hand():
    """Blocks of 1 … 10: the line is exact, it ends at ten times its start."""
    found = growth_of(np.repeat(np.arange(1.0, NUM_BLOCKS + 1), 7))
    assert found.blocks == tuple(float(value) for value in range(1, NUM_BLOCKS + 1))
    assert found.growth == pytest.approx(10)
    assert found.ratio == pytest.approx(9.5 / 4.5)
    # the first eight scatter by √6
    assert found.break_t == pytest.approx(5 / np.sqrt(6 * (1 / 8 + 1 / 2)))
    assert found.t_value == BOUND
    assert found.grows


def test_t_by_hand():
    """Slope 1 with a zigzag of ±1: s² = Σr² / 8, t = slope / (s / √82.5)."""
    place = np.arange(NUM_BLOCKS)
    blocks = 20.0 + place + np.where(place % 2, 1.0, -1.0)
    slope, offset = np.polyfit(place, blocks, 1)
    rest = blocks - (slope * place + offset)
    expected = slope / np.sqrt(rest @ rest / 8 / 82.5)
    found = growth_of(np.repeat(blocks, 3))
    assert found.t_value == pytest.approx(expected)
    assert found.growth == pytest.approx((offset + 9 * slope) / offset)


def test_a_sure_trend_that_is_small_is_no_fault():
    found = growth_of(np.linspace(1.0, 1.2, STEPS))
    assert found.t_value > 10
    assert not found.grows


def test_one_odd_step_is_no_growth():
    distance = noise(0)
    distance[-3] = 100.0
    assert not growth_of(distance).grows


@pytest.mark.parametrize("distance", [np.zeros(50), np.full(50, 0.1)])
def test_what_stays_the_same_does_not_grow(distance):
    assert not growth_of(distance).grows


def test_from_nothing_to_something_is_growth_and_a_number():
    distance = np.zeros(100)
    distance[80:] = 1.0
    found = growth_of(distance)
    assert found.grows
    assert found.ratio == BOUND
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("distance", "message"),
    [
        (np.ones(NUM_BLOCKS - 1), "at least 10"),
        (np.ones((20, 2)), "at least 10"),
        (np.array([1.0] * 19 + [np.nan]), "finite"),
        (np.array([1.0] * 19 + [-1.0]), ">= 0"),
    ],
)
def test_what_is_no_distance_is_refused(distance, message):
    with pytest.raises(ValueError, match=message):
        growth_of(distance)
