"""Heads over time: what stands between pooled features and the classifier in two baselines.

`gru` and `tconv` see the pooled features of a clip's frames as a sequence, as a plain backbone's
answer to order. Both are causal: what they say of a frame depends on it and on earlier ones.
They are for whole clips; nothing carries their state over frames of a stream.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from torch import Tensor, nn

from train.model.precision import no_autocast, vector_dtype

Head: TypeAlias = Literal["none", "gru", "tconv"]
HEADS: tuple[Head, ...] = ("none", "gru", "tconv")

# 1280 or 2048 features would give the baseline more parameters over time than PEM and TM have
MOST_CHANNELS = 256
KERNEL = 3


class GruHead(nn.Module):
    """One layer of gated recurrent units (Cho et al. 2014, arXiv:1406.1078), from zeros.

    Args:
        num_features: Pooled features F; the hidden state has as many numbers, `MOST_CHANNELS` at
            most.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = min(num_features, MOST_CHANNELS)
        self.gru = nn.GRU(num_features, self.num_features, batch_first=True)

    def forward(self, features: Tensor) -> Tensor:
        """The hidden state after every frame.

        Args:
            features: Pooled features, shape (N, T, F).

        Returns:
            Shape (N, T, min(F, 256)), float32 at least.
        """
        with no_autocast(features):
            hidden: Tensor = self.gru(features.to(vector_dtype(features)))[0]
        return hidden


class TemporalConvHead(nn.Module):
    """One causal convolution over time and ReLU: each frame with the two before it.

    Args:
        num_features: Pooled features F; as many channels come out, `MOST_CHANNELS` at most.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = min(num_features, MOST_CHANNELS)
        self.conv = nn.Conv1d(num_features, self.num_features, KERNEL)

    def forward(self, features: Tensor) -> Tensor:
        """The convolution after every frame; zeros stand before the first.

        Args:
            features: Pooled features, shape (N, T, F).

        Returns:
            Shape (N, T, min(F, 256)), float32 at least.
        """
        with no_autocast(features):
            x = features.to(vector_dtype(features)).transpose(1, 2)
            x = self.conv(nn.functional.pad(x, (KERNEL - 1, 0))).relu()
        return x.transpose(1, 2)


TemporalHead: TypeAlias = GruHead | TemporalConvHead


def build_head(head: Head, num_features: int) -> TemporalHead | None:
    """The head of a name; None for `none`.

    Args:
        head: Which one.
        num_features: Pooled features F of the backbone.
    """
    match head:
        case "none":
            return None
        case "gru":
            return GruHead(num_features)
        case "tconv":
            return TemporalConvHead(num_features)
