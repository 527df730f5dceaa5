"""The report as one page that someone can decide by: drawn from report.json alone.

python -m export.report_page artifacts/demo/bundle                  draws report.html again
python -m export.report_page artifacts/demo/bundle --nvidia SM86    asks NVIDIA's builder first
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from export.bundle_folder import changed_bundle
from export.report.plots import drift_plot
from export.report.quantisation import quantisation_sections
from export.report.table import facts_table, table
from export.report.verdict import (
    PAGE,
    REPORT,
    STREAMS,
    is_short,
    megabytes,
    points,
    read_report,
    verdict_of,
)
from runtime.bundle import load_bundle
from runtime.command import run_command, say
from runtime.files import whole_file, write_json
from train.page import html_page, number_cards, picture_pair

STYLE = """
.verdict { border-left: .4rem solid var(--yes); background: var(--card); padding: .7rem 1rem;
  border-radius: 0 .4rem .4rem 0; font-size: 1.1rem; margin: .8rem 0; }
.verdict.no { border-color: var(--error); }
.verdict b { color: var(--yes); } .verdict.no b { color: var(--error); }
:root { --yes: #1a7f45; } @media (prefers-color-scheme: dark) { :root { --yes: #6fce93; } }
.numbers b { white-space: nowrap; } .wide + .wide { margin-top: 1rem; }
picture img { max-width: 40rem; width: 100%; margin: .5rem 0; }
td.text, th.text { text-align: left; white-space: normal; }
@media (max-width: 30rem) { th, td { padding: .25rem .35rem; } }
td.text { min-width: 6rem; } td.text:first-child { min-width: 10rem; }
.soft + .wide { margin-top: .5rem; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--note); }
"""
PRECISION_NAMES = {"float32": "float", "float16": "FP16", "int8": "INT8"}
GRAPH_NAMES = {
    "step": "step, float",
    "step_fp16": "step, FP16",
    "step_int8": "step, INT8",
    "clip": "clip, float",
}
STATE_MATH_AIM_DB = 40.0


def page_of(report: Mapping[str, Any]) -> str:
    """The page as text; every name is escaped, every picture is in it.

    Args:
        report: What `report.json` holds; parts that were not measured may be missing.
    """
    name = escape(str(report["name"]))
    return html_page(f"{name}: ship it?", _body(name, report), style=STYLE)


def write_report(folder: Path, report: dict[str, Any], *, refused: str = "") -> dict[str, Any]:
    """Judge a report, and write it and its page into a folder.

    Args:
        folder: The bundle's folder, before its manifest.
        report: The report; its verdict is made anew.
        refused: What limit was exceeded, if one was.

    Returns:
        The report with its verdict.
    """
    judged = {**report, "verdict": verdict_of(report, refused).to_json()}
    write_json(folder / REPORT, judged)
    with whole_file(folder / PAGE) as part:
        part.write_text(page_of(judged), encoding="utf-8")
    return judged


def update_report(folder: Path, **parts: Any) -> dict[str, Any]:
    """Put further parts into a finished bundle's report; all of the bundle or nothing changes.

    Args:
        folder: The bundle.
        parts: By name; they replace what is there.

    Returns:
        The new report.

    Raises:
        BundleError: The bundle is not whole.
        ExportError: Its report cannot be read.
    """
    bundle = load_bundle(folder)
    report = read_report(folder)
    with changed_bundle(bundle) as copy:
        return write_report(copy, {**report, **parts})


def _body(name: str, report: Mapping[str, Any]) -> Iterator[str]:
    verdict = report["verdict"]
    head, _, rest = str(verdict["line"]).partition(":")
    yield f"<h1>{name}</h1>"
    yield (
        f'<p class="verdict{"" if verdict["ships"] else " no"}">'
        f"<b>{escape(head)}:</b>{escape(rest)}</p>"
    )
    yield from _remarks(report)
    yield number_cards(_cards(report))
    yield from _accuracy(report)
    yield from _changed(report.get("changed"))
    for key in STREAMS:
        if report.get(key) is not None:
            yield from _stream(report[key])
    yield from quantisation_sections(report)
    yield from _cost(report)
    yield from _nvidia(report.get("nvidia"))
    yield from _origin(report)


def _remarks(report: Mapping[str, Any]) -> Iterator[str]:
    remarks = [*report["gate"].get("remarks", ())]
    for key in STREAMS:
        stream = report.get(key)
        if stream is not None and stream["steps"] < stream["wanted_steps"]:
            few = ", too few to show a drift" if is_short(stream) else ""
            remarks.append(
                f"{stream['steps']:,} steps of a long stream ran instead of "
                f"{stream['wanted_steps']:,}, to save time{few}; --long-stream runs all"
            )
    if remarks:
        rows = "\n".join(f'<li class="warning">{escape(text)}</li>' for text in remarks)
        yield f'<ul class="findings">\n{rows}\n</ul>'


def _cards(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for row in report["accuracy"]:
        if row["precision"] in ("float32", "int8"):
            kind = "live" if "live" in row["what"] else "clip"
            yield f"{100 * row['value']:.1f} %", f"{kind}, {PRECISION_NAMES[row['precision']]}"
    yield f"{100 * report['gate']['agreement']:.1f} %", "INT8 answers as float"
    for file in report["files"]:
        if file["kind"] == "step_int8":
            yield megabytes(file["bytes"]), "INT8 step graph"
    cost = report.get("cost")
    if cost is not None and cost["step_macs"] is not None:
        yield f"{cost['step_macs'] / 1e9:.2g}", "GMACs a step"


def _accuracy(report: Mapping[str, Any]) -> Iterator[str]:
    gate = report["gate"]
    yield "<h2>Accuracy</h2>"
    yield facts_table(
        [
            (
                f"{row['what']}, {PRECISION_NAMES[row['precision']]}",
                f"{100 * row['value']:.2f} % ({100 * row['low']:.1f} – {100 * row['high']:.1f}), "
                f"n = {row['count']:,}",
            )
            for row in report["accuracy"]
        ]
    )
    yield '<p class="soft">In brackets the 95 % interval of so few examples.</p>'
    yield "<h2>What INT8 loses</h2>"
    yield (
        '<p class="soft">Counted pair by pair on the same examples: most are right or wrong in '
        "both, so the bound (95 %, one-sided) is tighter than the intervals above.</p>"
    )
    pairs = [("clips", gate["clips"]), ("live actions", gate["live"])]
    yield table(
        ("", "lost", "gained", "of", "points", "bound"),
        [
            (
                what,
                found["lost"],
                found["gained"],
                f"{found['count']:,}",
                f"{100 * found['loss']:.2f}",
                f"{100 * found['bound']:.2f}",
            )
            for what, found in pairs
            if found is not None
        ],
    )
    rows = [
        ("INT8 answers as float (clips)", f"{100 * gate['agreement']:.2f} %"),
        ("logits' SQNR on clips", f"{gate['sqnr_db']:.1f} dB"),
        ("divergence of the probabilities", f"{gate['divergence']:.2g} nats"),
        ("loss that the export allows", points(gate["allowed_loss"])),
    ]
    half = report.get("float16")
    if half is not None:
        rows += [
            ("FP16 answers as float (clips)", f"{100 * half['agreement']:.2f} %"),
            ("FP16 logits' SQNR on clips", f"{half['sqnr_db']:.1f} dB"),
        ]
    yield facts_table(rows)


def _changed(changed: Mapping[str, Any] | None) -> Iterator[str]:
    if changed is None:
        return
    yield "<h2>Where INT8 answers differently</h2>"
    yield f"<p>{changed['changed']:,} of {changed['count']:,} clips get another answer.</p>"
    if changed["moves"]:
        yield table(
            ("float says", "INT8 says", "clips"),
            [(move["float"], move["int8"], move["count"]) for move in changed["moves"]],
            text_columns=2,
        )
    yield "<details><summary>The clips that move most</summary>"
    yield table(
        ("true class", "float", "INT8", "validation clip"),
        [
            (
                clip["label"],
                f"{clip['float']} {100 * clip['prob_float']:.0f} %",
                f"{clip['int8']} {100 * clip['prob_int8']:.0f} %",
                f"no. {clip['number']}",
            )
            for clip in changed["clips"]
        ],
        text_columns=3,
    )
    yield "</details>"


def _stream(stream: Mapping[str, Any]) -> Iterator[str]:
    found = stream["int8"]
    kept = stream["steps"] - stream["block_steps"]
    yield f"<h2>A stream of {stream['steps']:,} steps without a reset</h2>"
    judged = "grows" if found["grows"] else "does not grow"
    if is_short(stream):
        judged = "was not judged, the stream is too short"
    yield (
        f"<p>INT8's distance to float <b>{judged}</b>: "
        f"the line through the blocks ends at {found['growth']:.2f} times its start "
        f"(t = {found['t_value']:.1f}), the last two blocks are {found['ratio']:.2f} times "
        "those before.</p>"
    )
    yield picture_pair(
        drift_plot(stream, dark=False),
        drift_plot(stream, dark=True),
        "Line: distance of INT8 to float along the stream",
    )
    yield (
        f'<p class="soft">{stream["clips"]} clips in random order, each once a round; all '
        "blocks hold the same clips, so they differ in time alone. The first block warms up and "
        f"is left out: {kept:,} steps count. It counts as growth where the line rises surely "
        "(t > 3.4) and by more than half, or the last two blocks are surely above twice the "
        "others.</p>"
    )
    yield table(("SQNR against float, dB", "all", "first", "last"), list(_sqnr_rows(stream)))
    yield (
        '<p class="soft">All, and in the first and the last block. State math alone: the vectors\' '
        "recurrence in the INT8 graph against float64, both fed by the same INT8 backbone; aim "
        f"{STATE_MATH_AIM_DB:.0f} dB.</p>"
    )
    yield facts_table(
        [
            ("INT8 answers as float, step by step", f"{100 * stream['same_top1']:.2f} %"),
            _against_model(stream),
        ]
    )
    yield from _states(stream)


def _sqnr_rows(stream: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    yield "logits", f"{stream['logits_sqnr_db']:.1f}", "", ""
    for kind, found in stream["kinds"].items():
        yield f"states of {kind}", *_decibels(found)
    found = stream["state_math"]
    yield "state math alone", *(("not measured", "", "") if found is None else _decibels(found))


def _decibels(found: Mapping[str, Any]) -> tuple[str, str, str]:
    values = (found["sqnr_db"], found["by_block"][0], found["by_block"][-1])
    first, second, third = (f"{value:.1f}" for value in values)
    return first, second, third


def _against_model(stream: Mapping[str, Any]) -> tuple[str, str]:
    what = "float graph against PyTorch, largest distance of the logits' range"
    found = stream["onnx_model"]
    if found is None:
        return what, "not measured: no time at the export, or a finished bundle"
    return what, f"{found['largest']:.1e}, {'grows' if found['grows'] else 'does not grow'}"


def _states(stream: Mapping[str, Any]) -> Iterator[str]:
    if not stream["states"]:
        return
    blocks: dict[int, dict[str, float]] = {}
    for part in stream["states"]:
        blocks.setdefault(part["block"], {})[part["kind"]] = part["sqnr_db"]
    kinds = list(stream["kinds"])
    yield "<details><summary>SQNR of every state</summary>"
    yield table(
        ("block", *(f"{kind}, dB" for kind in kinds)),
        [
            (number, *(f"{found[kind]:.1f}" if kind in found else "" for kind in kinds))
            for number, found in sorted(blocks.items())
        ],
    )
    yield "</details>"


def _cost(report: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2>Size and cost</h2>"
    yield table(
        ("graph", "size", "bytes"),
        [
            (
                GRAPH_NAMES.get(file["kind"], file["kind"]),
                megabytes(file["bytes"]),
                f"{file['bytes']:,}",
            )
            for file in report["files"]
        ],
    )
    cost = report.get("cost")
    if cost is None:
        return
    rows = [
        ("parameters", f"{cost['parameters']:,}"),
        ("GMACs of a clip of all frames", f"{cost['clip_macs'] / 1e9:.4g}"),
    ]
    if cost["step_macs"] is not None:
        rows += [
            ("GMACs of one step", f"{cost['step_macs'] / 1e9:.4g}"),
            ("numbers a stream keeps between steps", f"{cost['state_size']:,}"),
        ]
    yield facts_table(rows)


def _nvidia(check: Mapping[str, Any] | None) -> Iterator[str]:
    yield "<h2>NVIDIA's builder</h2>"
    if check is None:
        yield (
            "<p>Not run on this bundle. With tensorrt_rtx installed: "
            "<code>python -m export.report_page BUNDLE --nvidia SM86</code></p>"
        )
        return
    slow = ", ".join(check["float"]) or "none"
    yield facts_table(
        [
            ("built for", check["compute_capability"]),
            ("convolutions on INT8", f"{check['int8']} of {check['meant']} meant to be"),
            ("convolutions in float", slow),
            ("kernels a step", f"{check['kernels']:,}"),
            ("engine", megabytes(check["plan_bytes"])),
        ]
    )


def _origin(report: Mapping[str, Any]) -> Iterator[str]:
    model, picture = report["model"], report["picture"]
    training, sampling = report.get("training"), report["sampling"]
    yield "<h2>Where it comes from</h2>"
    rows = [
        (
            "model",
            f"{model['backbone']}, {model['temporal']}, PEM {'yes' if model['pem'] else 'no'}",
        ),
        ("classes", f"{len(model['labels'])}"),
        ("picture", f"{picture['width_px']} × {picture['height_px']}, crop {picture['crop']}"),
        ("window", f"{sampling['num_segments']} frames over {sampling['window_s']:g} s"),
    ]
    if training is not None:
        rows += [("data set", training["data"]), ("run", training["run"])]
        rows += [(name, f"{value:.4g}") for name, value in training["metrics"].items()]
    parity = report.get("parity")
    if parity is not None:
        rows.append(
            (
                f"float graph against PyTorch, {parity['steps']} steps",
                f"{parity['relative']:.1e} of the logits' range",
            )
        )
    rows += [("made", report["created_utc"]), ("made on", report["made_on"])]
    yield facts_table(rows)
    if training is not None and training["recipe"]:
        yield "<details><summary>Recipe</summary>"
        yield facts_table([(name, str(value)) for name, value in training["recipe"].items()])
        yield "</details>"
    yield "<details><summary>Versions</summary>"
    yield facts_table(list(report["versions"].items()))
    yield "</details>"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.report_page",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", type=Path, help="bundle folder")
    parser.add_argument(
        "--nvidia",
        metavar="SM",
        help="build the INT8 graph for this compute capability too (needs tensorrt_rtx, no GPU)",
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    """Entry point of `python -m export.report_page`."""
    options = _parser().parse_args(argv)
    parts = {}
    if options.nvidia:
        from export.report.nvidia import nvidia_part_of

        parts["nvidia"] = nvidia_part_of(options.bundle, options.nvidia)
    report = update_report(options.bundle, **parts)
    say(report["verdict"]["line"])
    say(f"page {options.bundle / PAGE}")


if __name__ == "__main__":
    sys.exit(run_command(main))
