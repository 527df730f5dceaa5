from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train.model.td_loss import temporal_diversity_loss


def by_hand(features, ratio):
    """Equation 5 as it stands: every pair, every channel, in float64."""
    features = features.double()
    num_clips, T, C = features.shape[:3]
    pairs = list(combinations(range(T), 2))
    total = 0.0
    for clip in features:
        for c in range(max(1, int(C * ratio))):
            z = clip[:, c].flatten(1)
            cosines = []
            for i, j in pairs:
                lengths = z[i].norm() * z[j].norm()
                cosines.append(float(z[i] @ z[j] / lengths) if lengths > 0 else 0.0)
            total += sum(cosines) / len(pairs)
    return total / num_clips


def random_features(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30)
@given(
    shape=st.tuples(*(st.integers(1, n) for n in (3, 1, 5, 3, 3))),
    num_frames=st.integers(2, 6),
    ratio=st.sampled_from([0.25, 0.5, 1.0]),
    zeros=st.lists(st.tuples(*(st.integers(0, 5),) * 3), max_size=4),
    seed=st.integers(0, 100),
)
def test_equals_the_double_loop_over_pairs(shape, num_frames, ratio, zeros, seed):
    N, _, C, H, W = shape
    features = random_features(N, num_frames, C, H, W, seed=seed).double()
    for n, t, c in zeros:
        features[n % N, t % num_frames, c % C] = 0
    expected = by_hand(features, ratio)
    exact = temporal_diversity_loss(features, ratio=ratio)
    assert exact.dtype == torch.float64
    assert float(exact) == pytest.approx(expected, abs=1e-10)
    rounded = temporal_diversity_loss(features.float(), ratio=ratio)
    assert float(rounded) == pytest.approx(expected, abs=1e-5)


def test_equal_frames_cost_one_a_channel_and_opposite_ones_minus_one():
    frame = random_features(1, 1, 6, 4, 4)
    assert float(temporal_diversity_loss(frame.expand(1, 5, 6, 4, 4), ratio=1)) == pytest.approx(6)
    opposite = torch.cat((frame, -3 * frame), dim=1)
    assert float(temporal_diversity_loss(opposite, ratio=1)) == pytest.approx(-6)


def test_a_channel_of_zeros_costs_nothing_and_has_finite_gradients():
    features = random_features(2, 4, 6, 3, 3)
    features[0, 1, 0] = 0
    features[1, :, 2] = 0
    features.requires_grad_()
    loss = temporal_diversity_loss(features, ratio=1)
    loss.backward()
    assert torch.isfinite(loss)
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()
    assert torch.count_nonzero(features.grad[0, 1, 0]) == 0
    assert torch.count_nonzero(features.grad[0, 1, 1]) == 9
    everything = torch.zeros(1, 3, 2, 2, 2, requires_grad=True)
    silent = temporal_diversity_loss(everything, ratio=1)
    silent.backward()
    assert silent.item() == 0
    assert everything.grad is not None
    assert torch.count_nonzero(everything.grad) == 0


def test_ratio_takes_the_first_channels():
    features = random_features(1, 4, 10, 3, 3)
    loss = temporal_diversity_loss(features, ratio=0.35)  # the first 3
    other = features.clone()
    other[:, :, 3:] = random_features(1, 4, 7, 3, 3, seed=1)
    assert torch.equal(temporal_diversity_loss(other, ratio=0.35), loss)
    other[:, 0, 2] = 1.0
    assert not torch.allclose(temporal_diversity_loss(other, ratio=0.35), loss)
    assert torch.equal(loss, temporal_diversity_loss(features[:, :, :3], ratio=1))


def test_default_takes_half_of_the_channels():
    features = random_features(2, 4, 7, 3, 3)
    half = temporal_diversity_loss(features[:, :, :3], ratio=1)
    assert torch.equal(temporal_diversity_loss(features), half)


def test_size_of_the_features_does_not_matter_under_autocast_either():
    features = random_features(2, 4, 8, 5, 5)
    expected = temporal_diversity_loss(features)
    assert float(temporal_diversity_loss(1000 * features)) == pytest.approx(float(expected))
    with torch.autocast("cpu", torch.bfloat16):
        loss = temporal_diversity_loss(features)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


def test_features_in_bfloat16_are_compared_in_float32():
    features = random_features(2, 4, 8, 5, 5).bfloat16()
    expected = temporal_diversity_loss(features.float())
    with torch.autocast("cpu", torch.bfloat16):
        loss = temporal_diversity_loss(features)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)
    assert torch.equal(temporal_diversity_loss(features), expected)


@pytest.mark.parametrize("ratio", [0.0, -0.5, 1.01])
def test_ratio_out_of_range_is_refused(ratio):
    with pytest.raises(ValueError, match=rf"ratio must be in \(0, 1\], got {ratio}"):
        temporal_diversity_loss(random_features(1, 2, 2, 1, 1), ratio=ratio)


def test_one_frame_is_refused():
    with pytest.raises(ValueError, match="needs T >= 2, got 1"):
        temporal_diversity_loss(random_features(1, 1, 2, 1, 1))
