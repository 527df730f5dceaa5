"""The page of a data set: one file, without scripts, for light and dark screens and phones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path

from runtime.files import whole_file, write_json
from train.data.check import CheckedClip, Survey
from train.data.check_charts import MOST_CLASSES, Strip, class_chart, length_chart, strips
from train.data.check_summary import (
    ClassFacts,
    Spread,
    class_facts,
    facts_lines,
    most,
    summary_line,
    to_json,
)
from train.data.finding import Finding
from train.page import data_uri, html_page, number_cards, picture_pair

MOST_ROWS = 400  # of the table; prepare.json has all classes

STYLE = """
.samples { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr)); }
figure { margin: 0; } figcaption { font-weight: 600; margin-bottom: .2rem; }
figure img { border-radius: .3rem; margin-top: .3rem; width: 100%; }
"""


@dataclass(frozen=True, eq=False)
class Charts:
    """The charts by name of their file, on a light and a dark ground; PNG."""

    light: dict[str, bytes]
    dark: dict[str, bytes]


def write_page(seen: Survey, findings: Sequence[Finding], out: Path) -> Path:
    """Write `index.html`, `prepare.json`, the charts and, if there is any fault, `broken.txt`.

    Args:
        seen: What was seen of the data.
        findings: What was found.
        out: Folder; files of an earlier look are replaced.

    Returns:
        The page.

    Raises:
        OSError: The folder cannot be written.
    """
    charts = Charts(_charts(seen, dark=False), _charts(seen, dark=True))
    for name, png in charts.light.items():
        with whole_file(out / f"{name}.png") as part:
            part.write_bytes(png)
    _write_broken(seen, out / "broken.txt")
    write_json(out / "prepare.json", to_json(seen, findings))
    page = out / "index.html"
    with whole_file(page) as part:
        part.write_text(page_of(seen, findings, charts, strips(seen)), encoding="utf-8")
    return page


def page_of(
    seen: Survey, findings: Sequence[Finding], charts: Charts, samples: Sequence[Strip]
) -> str:
    """The page as text; all names are escaped and all pictures are in it."""
    name = escape(seen.spec.where.name or str(seen.spec.where))
    body = [
        f"<h1>{name}</h1>",
        f'<p class="soft">{escape(str(seen.spec.where))}</p>',
        '<p class="soft">This page contains frames of the data set. People may be seen in them: '
        "share it only as the recordings themselves may be shared.</p>",
        _numbers(seen),
        *(f"<p>{escape(line)}</p>" for line in facts_lines(seen)),
        "<h2>Findings</h2>",
        _findings(findings),
        "<h2>Clips of each class</h2>",
        _chart(charts, "clips", "Bar chart: clips of each class and split"),
        _more(len(seen.labels), MOST_CLASSES, "the chart shows"),
        "<h2>Lengths of the clips</h2>",
        _chart(charts, "lengths", "Histogram: lengths of the clips in seconds"),
        "<h2>Classes</h2>",
        _table(seen),
        "<h2>What the model sees</h2>",
        '<p class="soft">Four moments of two clips of each class, whole frames with bars, as '
        "crop: full gives them.</p>",
        _more(len(seen.labels), MOST_CLASSES, "samples are of"),
        _samples(samples),
    ]
    return html_page(f"{name}: what is in the data", body, style=STYLE)


def _charts(seen: Survey, *, dark: bool) -> dict[str, bytes]:
    return {"clips": class_chart(seen, dark=dark), "lengths": length_chart(seen, dark=dark)}


def _write_broken(seen: Survey, path: Path) -> None:
    """The list of what cannot be read, a line each; no file where there is nothing."""
    lines = list(dict.fromkeys(_broken(seen)))
    if not lines:
        path.unlink(missing_ok=True)
        return
    with whole_file(path) as part:
        part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _broken(seen: Survey) -> Iterator[str]:
    for split in seen.splits.values():
        yield from (f"{path} is not there" for path in split.skipped)
    for recording in seen.recordings:
        if recording.problem:
            yield recording.problem
    whole = {recording.path for recording in seen.recordings if recording.problem}
    yield from (clip.reason for clip in seen.clips if clip.problem and clip.path not in whole)
    yield from (tape.video.problem for tape in seen.tapes if tape.video.problem)


def _numbers(seen: Survey) -> str:
    numbers = [("classes", len(seen.labels)), ("recordings", len(seen.recordings))]
    numbers += [(f"clips of {name}", len(seen.clips_of(name))) for name in seen.splits]
    tapes = {tape.video.path for tape in seen.tapes}
    numbers += [("live tapes", len(tapes))] if tapes else []
    return number_cards((f"{number:,}", name) for name, number in numbers)


def _findings(findings: Sequence[Finding]) -> str:
    if not findings:
        return "<p>Nothing was found.</p>"
    rows = "\n".join(
        f'<li class="{found.severity}"><b>{found.severity}</b> {escape(found.text)}</li>'
        for found in findings
    )
    return f'<p>{summary_line(findings)}</p>\n<ul class="findings">\n{rows}\n</ul>'


def _chart(charts: Charts, name: str, alt: str) -> str:
    return picture_pair(charts.light[name], charts.dark[name], alt)


def _table(seen: Survey) -> str:
    facts = class_facts(seen)
    heads = [
        "class",
        *seen.splits,
        *("min s", "median s", "max s", "total s", "frames (median)", "pixels", "fps"),
    ]
    rows = [_row(one, seen) for one in facts[:MOST_ROWS]]
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    return (
        f'<div class="wide"><table>\n<tr>{head}</tr>\n'
        + "\n".join(rows)
        + "\n</table></div>"
        + _more(len(facts), MOST_ROWS, "the table shows")
    )


def _row(one: ClassFacts, seen: Survey) -> str:
    counts = [
        f"<td>{number}</td>" if (number := one.clips[name]) else '<td class="none">0</td>'
        for name in seen.splits
    ]
    frames = "" if one.frames is None else f"{one.frames.median:g}"
    cells = [*_spread(one.length_s), frames, most(one.sizes, 1), most(one.fps, 1)]
    texts = "".join(f"<td>{escape(text)}</td>" for text in cells)
    return f"<tr><td>{escape(one.label)}</td>{''.join(counts)}{texts}</tr>"


def _spread(found: Spread | None) -> list[str]:
    if found is None:
        return [""] * 4
    return [f"{value:.2f}" for value in (found.min, found.median, found.max, found.total)]


def _samples(samples: Sequence[Strip]) -> str:
    figures = []
    for label, group in groupby(samples, key=lambda strip: strip.clip.label):
        pictures = "\n".join(_picture(strip) for strip in group)
        figures.append(f"<figure><figcaption>{escape(label)}</figcaption>\n{pictures}\n</figure>")
    return '<div class="samples">\n' + "\n".join(figures) + "\n</div>"


def _picture(strip: Strip) -> str:
    said = escape(_caption(strip.clip))
    if not strip.jpeg:
        return f'<p class="soft">{said} cannot be read</p>'
    return f'<img alt="{said}" title="{said}" loading="lazy" src="{data_uri(strip.jpeg, "jpeg")}">'


def _caption(clip: CheckedClip) -> str:
    return f"{clip.split}: {clip.name}, {clip.length_s:.2f} s"


def _more(count: int, shown: int, what: str) -> str:
    if count <= shown:
        return ""
    return f'<p class="soft">{what} the first {shown} of {count} classes</p>'
