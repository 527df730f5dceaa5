"""GStreamer's Python for tests: PyGObject belongs to the system's Python, not to the .venv."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import sysconfig
import warnings
from pathlib import Path

import pytest

PACKAGES = Path("/usr/lib/python3/dist-packages")


def need_gstreamer(*elements: str) -> None:
    """Make `import gi` work here as it does on a Jetson; skips the test where it cannot."""
    if "gi" not in sys.modules:
        _import_gi()
    from runtime.sources.gstreamer import missing_elements

    if missing := missing_elements(("appsink", *elements)):
        pytest.skip(f"no GStreamer with {', '.join(missing)}")


def gi_folder(folder: Path) -> Path:
    """A folder for PYTHONPATH that holds the system's PyGObject and nothing else."""
    folder.mkdir()
    (folder / "gi").symlink_to(PACKAGES / "gi")
    return folder


def _import_gi() -> None:
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    if importlib.util.find_spec("gi") is not None:
        return
    if not (PACKAGES / "gi" / f"_gi{suffix}").exists():
        pytest.skip(f"no PyGObject for this Python ({suffix}) in {PACKAGES}")
    spec = importlib.util.spec_from_file_location(
        "gi", PACKAGES / "gi" / "__init__.py", submodule_search_locations=[str(PACKAGES / "gi")]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gi"] = module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its importer is of an old kind
        spec.loader.exec_module(module)
        module.require_version("Gst", "1.0")
        importlib.import_module("gi.repository.Gst")
