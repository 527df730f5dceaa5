"""Which versions of which libraries something was made or measured with."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of the distributions that are installed, in the given order; others are left out.

    Example:
        >>> installed_versions(["no-such-distribution"])
        {}
    """
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
