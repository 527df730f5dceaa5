"""Whatever stands in a bundle.json: it runs, or is refused in one clear line."""

from __future__ import annotations

import copy
import json
import shutil

import numpy as np
import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from runtime.bundle import load_bundle
from runtime.errors import BundleError, SessionError
from runtime.live import Stream
from runtime.sessions.ort import OrtStepSession
from runtime.sources.memory import MemorySource
from tests.mini_bundle import write_mini_bundle

PICTURES = np.zeros((6, 48, 64, 3), np.uint8)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


def places_in(value, place=()):
    """Every key and index of a JSON value, from the outside in."""
    pairs = []
    if isinstance(value, dict | list):
        pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
    found = [place] if place else []
    return found + [deeper for key, inner in pairs for deeper in places_in(inner, (*place, key))]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_mini_bundle(tmp_path_factory.mktemp("whole"), num_segments=2, window_s=0.4)


@pytest.fixture(scope="module")
def manifest(whole):
    return json.loads((whole.folder / "bundle.json").read_text())


@pytest.fixture(scope="module")
def folder(whole, tmp_path_factory):
    copied = tmp_path_factory.mktemp("fuzz") / "bundle"
    shutil.copytree(whole.folder, copied)
    return copied


def fate_of(folder, text):
    """What becomes of a manifest: the refusal's message, or "it ran"."""
    (folder / "bundle.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        bundle = load_bundle(folder)
        with OrtStepSession(bundle, "float32", 1) as session:
            stream = Stream(bundle, MemorySource.of_pictures(PICTURES, fps=10), session)
            assert len(list(stream)) >= 1
    except (BundleError, SessionError) as err:
        return str(err)
    return "it ran"


@given(data=st.data())
@settings(max_examples=200)
def test_any_field_with_any_value_is_refused_or_runs(folder, manifest, data):
    changed = copy.deepcopy(manifest)
    place = data.draw(st.sampled_from(places_in(manifest)))
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    if data.draw(st.booleans()):
        del inner[place[-1]]
    else:
        inner[place[-1]] = data.draw(json_values)
    fate = fate_of(folder, json.dumps(changed))
    event("ran" if fate == "it ran" else "refused")
    assert len(fate) < 1000


@given(st.text(max_size=200) | json_values.map(json.dumps))
@example("[" * 20_000)
def test_any_text_is_refused(folder, text):
    assert "bundle.json" in fate_of(folder, text)
