import pytest
import torch
from torch import nn

from train.model.shuffle import VideoShuffle, transposed
from train.model.temporal import TemporalState


def clip_of(rows, num_frames, channels):
    torch.manual_seed(0)
    return torch.randn(rows, num_frames, channels, 2, 3, dtype=torch.float64)


def by_hand(clip):
    """New frame g is group g of frame 0, group g of frame 1, ...; what is left over stays."""
    rows, T, C = clip.shape[:3]
    size = C // T
    shuffled = clip.clone()
    for n in range(rows):
        for g in range(T):
            for t in range(T):
                for k in range(size):
                    shuffled[n, g, t * size + k] = clip[n, t, g * size + k]
    return shuffled


@pytest.mark.parametrize(
    ("num_frames", "channels"), [(4, 8), (4, 4), (1, 5), (3, 8), (5, 24), (8, 40)]
)
def test_shuffle_is_the_papers_and_undoes_itself(num_frames, channels):
    clip = clip_of(2, num_frames, channels)
    shuffled, state = VideoShuffle()(clip.flatten(0, 1), num_frames, TemporalState())
    assert torch.equal(shuffled.unflatten(0, (2, num_frames)), by_hand(clip))
    assert state == TemporalState()
    assert torch.equal(VideoShuffle().restore(shuffled, num_frames), clip.flatten(0, 1))


def test_the_convolution_between_reads_all_frames_and_leaves_them_in_place():
    """A convolution over the shuffled frames, spelled out: out[t] reads every frame."""
    clip = clip_of(1, 2, 4)
    conv = nn.Conv2d(4, 6, 1, bias=False).double()
    out = VideoShuffle().restore(conv(transposed(clip[0], 2)), 2)
    w, x = conv.weight[:, :, 0, 0], clip[0]
    for t in range(2):
        for o in range(6):
            g = o // 3  # the new frame that this channel comes from
            row = w[t * 3 + o % 3]
            expected = sum(row[f * 2 + k] * x[f, g * 2 + k] for f in range(2) for k in range(2))
            torch.testing.assert_close(out[t, o], expected, atol=1e-12, rtol=0)


def test_more_frames_than_channels_are_refused():
    with pytest.raises(ValueError, match="needs a channel for every frame: 4 channels, 5 frames"):
        VideoShuffle()(clip_of(1, 5, 4).flatten(0, 1), 5, TemporalState())


def test_it_cannot_step():
    with pytest.raises(ValueError, match=r"\(vsn\) reads whole clips, it cannot step"):
        VideoShuffle().step(clip_of(1, 1, 4)[:, 0], TemporalState())
    assert not list(VideoShuffle().parameters())
