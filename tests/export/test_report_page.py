"""The page: whole, safe against any name, drawn from report.json alone, whatever is missing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

import export.report.nvidia
from export.bundle_folder import changed_bundle, write_manifest
from export.engines.build_log import BuildCheck
from export.report.verdict import PAGE, REPORT, verdict_of
from export.report_page import main, page_of, update_report, write_report
from runtime.bundle import load_bundle
from runtime.command import run_command
from runtime.errors import BundleError
from tests.export.report_example import HOSTILE, report_example, stream_example
from tests.mini_bundle import write_mini_bundle

OPTIONAL = ("changed", "drift", "quantisation", "calibration", "cost", "nvidia", "training")
VOID = {"meta", "img", "source", "br"}


class Reader(HTMLParser):
    """Collects tags and text, and fails on tags that do not fit together."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)


def read(page):
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def judged(report):
    return {**report, "verdict": verdict_of(report).to_json()}


@pytest.fixture(scope="module")
def page():
    """The page of the whole example."""
    return page_of(judged(report_example()))


def test_the_verdict_comes_first(page):
    reader = read(page)
    told = " ".join("".join(reader.text).split())
    head = told.index("Ships: INT8 loses 0.20 points on 500 held-out clips")
    assert head < told.index("a remark") < told.index("Accuracy")


def test_names_are_text_everywhere(page):
    reader = read(page)
    assert "script" not in {tag for tag, _ in reader.seen}
    assert "<script" not in page
    # title, heading, labels, layers, recipe, versions, ...
    assert sum(HOSTILE in part for part in reader.text) >= 12


def test_the_page_asks_nobody_for_anything(page):
    reader = read(page)
    for _tag, attributes in reader.seen:
        for name in ("src", "srcset", "href", "data", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith("data:image/png;base64,")
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"url\(|@import|https?:", page)


def test_both_grounds_and_phones_are_thought_of(page):
    reader = read(page)
    assert "prefers-color-scheme: dark" in page
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in (
        reader.seen
    )
    pictures = [attributes for tag, attributes in reader.seen if tag == "img"]
    assert len(pictures) == 2  # drift and sensitivity
    assert all(picture["alt"] for picture in pictures)
    darker = [attributes for tag, attributes in reader.seen if tag == "source"]
    for light, dark in zip(pictures, darker, strict=True):
        assert light["src"] != dark["srcset"]


@pytest.mark.parametrize("missing", [(name,) for name in OPTIONAL] + [OPTIONAL])
def test_parts_that_were_not_measured_are_left_out(missing):
    report = {key: value for key, value in report_example().items() if key not in missing}
    read(page_of(judged(report)))


@pytest.mark.parametrize("change", [None, {}, {"layers": [], "kept_float": []}])
def test_without_sensitivity_a_line_says_how_to_get_it(change):
    report = report_example()
    report["quantisation"]["sensitivity"] = change
    assert "python -m export.bundle" in page_of(judged(report))


def test_a_graph_without_states_and_without_a_tape():
    report = report_example()
    report["drift"].update(states=[], kinds={}, state_math=None, onnx_model=None)
    report["gate"]["live"] = None
    told = "".join(read(page_of(judged(report))).text)
    assert "not measured" in told
    assert "top-1 on 100 validation clips" in told


def test_what_is_in_the_numbers_is_on_the_page():
    report = {**report_example(), "long_drift": stream_example(grows=True, steps=11_000)}
    told = "".join(read(page_of(judged(report))).text)
    for part in ("A stream of 1,100 steps", "A stream of 11,000 steps", "11 of 12 meant to be"):
        assert part in told
    for part in ("0.53", "90.00 %", "500,000", "mse (kept)", "140.0", "46.0", "no. 8"):
        assert part in told
    assert "does not grow" in told
    assert "grows" in told.replace("does not grow", "")
    assert "Do not ship: INT8's distance to float grows along a stream" in told


def test_fewer_steps_than_wanted_are_said():
    report = report_example()
    report["drift"] = {**stream_example(steps=220), "wanted_steps": 1000}
    told = "".join(read(page_of(judged(report))).text)
    assert "220 steps of a long stream ran instead of 1,000" in told
    assert "too few to show a drift" in told


# --- in a bundle


@pytest.fixture
def bundle(tmp_path):
    """A mini bundle with a report."""
    made = write_mini_bundle(tmp_path / "bundle")
    write_report(made.folder, report_example())
    write_manifest(made)
    return load_bundle(tmp_path / "bundle")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_both_files_are_hashed(bundle):
    assert {PAGE, REPORT} <= set(bundle.sha256)
    (bundle.folder / PAGE).write_text("forged")
    with pytest.raises(BundleError, match=r"report\.html does not match its hash"):
        load_bundle(bundle.folder)


def test_the_command_draws_the_page_again(bundle, capsys):
    before = contents(bundle.folder)
    assert run_command(lambda: main([str(bundle.folder)])) == 0
    assert contents(bundle.folder) == before  # the same report, the same page, byte for byte
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("Ships: INT8 loses")
    assert out[-1] == f"page {bundle.folder / PAGE}"


def test_further_parts_change_report_and_page_together(bundle):
    update_report(bundle.folder, long_drift=stream_example(grows=True, steps=11_000))
    load_bundle(bundle.folder)
    report = json.loads((bundle.folder / REPORT).read_text())
    assert not report["verdict"]["ships"]
    assert "11,000 steps" in (bundle.folder / PAGE).read_text()
    assert [path.name for path in bundle.folder.parent.iterdir()] == ["bundle"]


def test_a_link_to_a_bundle_stays_a_link(bundle, tmp_path):
    link = tmp_path / "latest"
    link.symlink_to(bundle.folder)
    update_report(link, long_drift=stream_example(steps=11_000))
    assert link.is_symlink()
    assert "11,000" in (bundle.folder / PAGE).read_text()


def test_a_change_that_fails_changes_nothing(bundle):
    before = contents(bundle.folder)

    def fail(folder):
        (folder / REPORT).unlink()
        raise OSError("full")

    with pytest.raises(OSError, match="full"), changed_bundle(bundle) as folder:
        fail(folder)
    assert contents(bundle.folder) == before
    assert [path.name for path in bundle.folder.parent.iterdir()] == ["bundle"]


def test_a_tampered_bundle_is_not_signed_anew(bundle, capsys):
    (bundle.folder / "step.onnx").write_bytes(b"forged")
    before = contents(bundle.folder)
    assert run_command(lambda: main([str(bundle.folder)])) == 1
    assert "step.onnx does not match its hash" in capsys.readouterr().err
    assert contents(bundle.folder) == before


def test_no_bundle_and_no_report(tmp_path, capsys):
    assert run_command(lambda: main([str(tmp_path / "none")])) == 1
    assert "no bundle at" in capsys.readouterr().err
    write_mini_bundle(tmp_path / "bundle")
    assert run_command(lambda: main([str(tmp_path / "bundle")])) == 1
    assert "report.json cannot be read" in capsys.readouterr().err


def test_nvidias_numbers_get_in(bundle, monkeypatch):
    check = BuildCheck(
        kernels=33, int8_convs=("a", "b"), float_convs=("c",), warnings=(), build_s=1.0,
        plan_bytes=1_234_567, layers=(),
    )  # fmt: skip
    asked = []

    def build(path, *, compute_capability):
        asked.append((path.name, compute_capability))
        return check

    monkeypatch.setattr(export.report.nvidia, "nvidia_build_check", build)
    assert run_command(lambda: main([str(bundle.folder), "--nvidia", "SM87"])) == 0
    assert asked == [("step.int8.onnx", "SM87")]
    told = "".join(read((bundle.folder / PAGE).read_text()).text)
    assert "2 of 12 meant to be" in told
    assert "1.23 MB" in told
    load_bundle(bundle.folder)


def test_the_page_needs_no_torch(bundle):
    """Whoever gets a bundle can draw its page: no torch, no onnxruntime."""
    code = (
        "import sys; from export.report_page import main; main(sys.argv[1:]); "
        "assert not {'torch', 'onnxruntime', 'onnx'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle.folder)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
