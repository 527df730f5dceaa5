"""`calib` runs where torch is not: numpy, ONNX Runtime and the runtime are all it knows."""

from __future__ import annotations

import pytest

from tests.test_layering import in_fresh_interpreter

IMPORT_ALL = """
import importlib, json, pkgutil, sys
import calib
names = [module.name for module in pkgutil.walk_packages(calib.__path__, "calib.")]
for name in names:
    importlib.import_module(name)
print(json.dumps([names, sorted(sys.modules)]))
"""


@pytest.fixture(scope="module")
def loaded():
    names, modules = in_fresh_interpreter(IMPORT_ALL)
    assert {"calib.record", "calib.thresholds"} <= set(names)
    return {name.split(".")[0] for name in modules}


@pytest.mark.parametrize("name", ["torch", "train", "export", "onnx", "av", "tests"])
def test_calibration_knows_no_training_and_no_export(loaded, name):
    assert name not in loaded
