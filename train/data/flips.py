"""What a mirrored clip shows: "pushing something from left to right" becomes "… right to left".

The partner of a class is read off the names: left and right change places, and so do clockwise
and counterclockwise. Names are English; any case, `swipe_left`, `SwipeLeft` and `swipe left` do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# The words that a mirror changes, as one letter each; \0 cannot be in a name.
_LEFT, _RIGHT, _CLOCKWISE, _COUNTER = "\0l", "\0r", "\0c", "\0a"
_MIRRORED = {_LEFT: _RIGHT, _RIGHT: _LEFT, _CLOCKWISE: _COUNTER, _COUNTER: _CLOCKWISE}

# A word begins after no letter, or as a capital after a small one (`SwipeLeft`).
_BEGIN = r"(?:(?<![A-Za-z])|(?<=[a-z])(?=[A-Z]))"
_END = r"(?![a-z])"
_COUNTER_WORD = re.compile(rf"{_BEGIN}(?:(?i:counter|anti)[\s_-]*(?i:clockwise)|[Cc]cw|CCW){_END}")
_CLOCKWISE_WORD = re.compile(rf"{_BEGIN}(?:[Cc]lockwise|CLOCKWISE|[Cc]w|CW){_END}")
_SIDE_END = r"(?:(?![a-z])|(?=wards?(?![a-z])|most(?![a-z])|hand))"
_LEFT_WORD = re.compile(rf"{_BEGIN}(?:[Ll]eft|LEFT){_SIDE_END}")
# "pulling it right out" is no direction
_RIGHT_WORD = re.compile(
    rf"{_BEGIN}(?:[Rr]ight|RIGHT){_SIDE_END}"
    r"(?!\s+(?:out|away|after|before|behind|next\s+to|in\s+front)(?![a-z]))"
)


def flip_map(labels: Sequence[str]) -> dict[int, int]:
    """What a mirrored clip of each class shows.

    A class whose name says no direction shows itself. A class that says one goes to its partner.
    Where it has no partner (`turn left` without `turn right`) its mirrored clips would show
    something that is no class: it is not in the map, and its clips are never mirrored; see
    `unpaired`.

    Args:
        labels: Class names in the order of the logits.

    Returns:
        Class index by class index.

    Example:
        >>> flip_map(["swipe left", "swipe right", "clap", "turn clockwise"])
        {0: 1, 1: 0, 2: 2}
    """
    marked = [_marked(label) for label in labels]
    found = {key: index for index, key in reversed(list(enumerate(marked)))}
    partners = {index: found.get(_mirrored(key)) for index, key in enumerate(marked)}
    return {
        index: index if partner is not None and marked[index] == marked[partner] else partner
        for index, partner in partners.items()
        if partner is not None
    }


def unpaired(labels: Sequence[str]) -> tuple[str, ...]:
    """Classes that say a direction and have no partner: their clips are never mirrored.

    Example:
        >>> unpaired(["swipe left", "swipe right", "clap", "turn clockwise"])
        ('turn clockwise',)
    """
    partners = flip_map(labels)
    return tuple(label for index, label in enumerate(labels) if index not in partners)


def _marked(label: str) -> str:
    """The name with its directions as marks, in small letters."""
    marked = _COUNTER_WORD.sub(_COUNTER, label)
    marked = _CLOCKWISE_WORD.sub(_CLOCKWISE, marked)
    marked = _LEFT_WORD.sub(_LEFT, marked)
    return _RIGHT_WORD.sub(_RIGHT, marked).casefold()


def _mirrored(marked: str) -> str:
    return re.sub("\0[lrca]", lambda match: _MIRRORED[match[0]], marked)
