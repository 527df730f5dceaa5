"""What a clip that is played backwards shows: standing up becomes sitting down.

Whoever knows the classes names the pairs; no name tells that "fall" backwards is no class at all.
"""

from __future__ import annotations

from collections.abc import Sequence

SEPARATOR = "/"


def reversal_map(pairs: Sequence[str], labels: Sequence[str]) -> dict[int, int]:
    """Which class a reversed clip of a class shows.

    Args:
        pairs: `open/close`: each is the other, backwards. `wave/wave` is itself.
        labels: Class names in the order of the logits.

    Returns:
        Class index by class index; classes in no pair are not in it and are never reversed.

    Raises:
        ValueError: No pair of two known classes, or a class in two pairs.

    Example:
        >>> reversal_map(["open/close", "wave/wave"], ["close", "fall", "open", "wave"])
        {2: 0, 0: 2, 3: 3}
    """
    found: dict[int, int] = {}
    for pair in pairs:
        names = [name.strip() for name in pair.split(SEPARATOR)]
        if len(names) != 2:
            raise ValueError(f"reverse wants pairs like open/close, got {pair!r}")
        unknown = [name for name in names if name not in labels]
        if unknown:
            raise ValueError(
                f"reverse names {unknown[0]!r}, which is none of the classes: {', '.join(labels)}"
            )
        one, other = (labels.index(name) for name in names)
        if one in found or other in found:
            raise ValueError(f"reverse names a class of {pair!r} twice; it can be one class only")
        found[one], found[other] = other, one
    return found
