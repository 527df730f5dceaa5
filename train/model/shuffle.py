"""The video shuffle of Video Shuffle Networks (arXiv:1911.11319): whole clips only."""

from __future__ import annotations

import torch
from torch import Tensor

from train.model.temporal import TemporalModule, TemporalState


class VideoShuffle(TemporalModule):
    """Groups of channels change places with frames; no parameters.

    The channels of each of T frames are cut into T equal groups. New frame g holds group g of all
    frames, in their order: frames and groups are transposed, and transposing twice changes
    nothing. The convolution behind it so reads every frame of the clip; `restore` transposes its
    output back. Where T does not divide the channels, the last C mod T channels stay where they
    are (the paper's sizes always divide).

    There is no causal form: every new frame holds a part of the clip's last frame.
    """

    def forward(
        self, x: Tensor, num_frames: int, state: TemporalState
    ) -> tuple[Tensor, TemporalState]:
        """See the base class.

        Raises:
            ValueError: More frames than channels.
        """
        return transposed(x, num_frames), TemporalState()

    def step(self, x: Tensor, state: TemporalState) -> tuple[Tensor, TemporalState]:
        """Refused.

        Raises:
            ValueError: Always.
        """
        raise ValueError("the video shuffle (vsn) reads whole clips, it cannot step")

    def restore(self, y: Tensor, num_frames: int) -> Tensor:
        """Put what the convolution made of the new frames back to their own."""
        return transposed(y, num_frames)


def transposed(x: Tensor, num_frames: int) -> Tensor:
    """Frames and groups of channels transposed.

    Args:
        x: Shape (N·T, C, H, W), frames of a clip one after another.
        num_frames: T.

    Returns:
        Same shape.

    Raises:
        ValueError: More frames than channels.
    """
    clip = x.unflatten(0, (-1, num_frames))
    channels = clip.shape[2]
    if num_frames > channels:
        raise ValueError(
            f"temporal vsn needs a channel for every frame: {channels} channels, "
            f"{num_frames} frames; use fewer segments or a wider backbone"
        )
    size = channels // num_frames
    moved = num_frames * size
    groups = clip[:, :, :moved].unflatten(2, (num_frames, size))
    shuffled = groups.transpose(1, 2).flatten(2, 3)
    if moved < channels:
        shuffled = torch.cat((shuffled, clip[:, :, moved:]), dim=2)
    return shuffled.flatten(0, 1)
