"""What a measurement was made on: processor, cores, system and versions; never names or paths."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path


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


def measured_on(libraries: Iterable[str], *, also: str = "") -> str:
    """One line for a measurement: date, processor, cores, system and versions.

    Args:
        libraries: Distributions whose versions matter.
        also: A further part of the machine, as a GPU's name.
    """
    versions = ", ".join(f"{name} {v}" for name, v in installed_versions(libraries).items())
    today = datetime.now(timezone.utc).date().isoformat()
    parts = [processor(), f"{os.cpu_count()} cores", *([also] if also else []), system_name()]
    return (
        f"Measured {today} on {', '.join(parts)}, Python {platform.python_version()}; {versions}."
    )


def processor() -> str:
    """The processor's model, or its architecture where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def system_name() -> str:
    """Name and version of the operating system."""
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.system()
