"""Several sources on the command line: one engine, one event file, and an end for each."""

from __future__ import annotations

import re
import signal
import subprocess

import pytest

from runtime.sources.several import SourceText, parse_sources, split_sources
from runtime.video import find_ffmpeg
from tests.mini_bundle import write_mini_bundle
from tests.mjpeg_server import free_port, mjpeg_camera
from tests.runtime.test_stream import (
    command,
    counts_of,
    environment,
    records_of,
    refused,
    stream,
    wait_for,
    without_wall_clock,
)
from tests.runtime.web.serving import ask, wait_until
from tests.videos import drifting_pattern, moving_bar, read_video, write_video
from tests.webhook_server import webhook_server

INDEPENDENT = ("streams", "session")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_mini_bundle(tmp_path_factory.mktemp("mini"), num_segments=4, window_s=1.0)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    return [
        write_video(folder / "bar.mp4", moving_bar(60)),
        write_video(folder / "pattern.mp4", drifting_pattern(75), fps=30),
        write_video(folder / "slow.mp4", moving_bar(40), fps=10),
    ]


def sources(*films):
    return [argument for film in films for argument in ("--source", film)]


def of_source(records, name):
    return [record for record in records if record["source"] == str(name)]


def plain(records):
    """What does not depend on how many streams there are, and the probabilities apart."""
    probs = [
        [value for name, value in record.items() if name.endswith("prob")]
        + [prob for _, prob in sorted(record.get("top", []))]
        for record in records
    ]
    rest = [
        {name: record[name] for name in record if not name.endswith("prob")}
        | {"top": sorted(label for label, _ in record.get("top", []))}
        for record in without_wall_clock(records)
    ]
    return [
        {name: value for name, value in record.items() if name not in INDEPENDENT}
        for record in rest
    ], [prob for each in probs for prob in each]


@pytest.mark.parametrize("phases", [1, 2])
def test_three_files_give_the_events_of_each_alone(bundle, films, tmp_path, phases):
    together = tmp_path / "together.jsonl"
    options = ("--headless", "--phases", phases)
    done = stream(bundle, *sources(*films), *options, "--events", together, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    records = records_of(together)
    for number, film in enumerate(films):
        events = tmp_path / f"{number}.jsonl"
        alone = stream(bundle, *sources(film), *options, "--events", events, cwd=tmp_path)
        (got, got_probs), (want, want_probs) = (
            plain(each) for each in (of_source(records, film), records_of(events))
        )
        assert got == want
        assert got_probs == pytest.approx(want_probs, abs=1e-5)
        line = done.stdout.splitlines()[number]
        assert line.startswith(f"{film}: frames captured")
        assert counts_of(line.removeprefix(f"{film}: ")) == counts_of(alone.stdout)
    *each, total = [counts_of(line[line.index("frames") :]) for line in done.stdout.splitlines()]
    assert len(each) == 3
    for name in ("captured", "used", "missed"):
        assert total[name] == sum(one[name] for one in each)
    assert records[0]["streams"] == 3


@pytest.mark.skipif(find_ffmpeg() is None, reason="no ffmpeg with libx264 on PATH")
def test_each_stream_has_a_video_of_its_own(bundle, films, tmp_path):
    options = ("--headless", "--output", tmp_path / "out.mp4")
    done = stream(bundle, *sources(*films[:2]), *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out-1.mp4", "out-2.mp4"]
    assert [len(read_video(tmp_path / f"out-{n}.mp4")[1]) for n in (1, 2)] == [60, 75]


def test_one_cut_file_fails_the_run_and_ends_no_other(bundle, films, tmp_path):
    cut = write_video(tmp_path / "cut.mp4", moving_bar(60), front_header=True)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 3 // 4])
    events = tmp_path / "events.jsonl"
    done = stream(
        bundle, *sources(cut, films[1]), "--headless", "--events", events, cwd=tmp_path
    )  # fmt: skip
    assert done.returncode == 1
    assert re.fullmatch(r"error: .*cut\.mp4 is cut off: .*", done.stderr.splitlines()[-1])
    assert "copy the file again; 1 stream(s) go on" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stdout.splitlines()) == 3
    records = records_of(events)
    assert [r["type"] for r in of_source(records, cut)][-2:] == ["source_lost", "end"]
    whole = [record["type"] for record in of_source(records, films[1])]
    assert whole.count("decision") == 10
    assert "source_lost" not in whole
    assert whole[-1] == "end"


def test_all_actions_go_to_one_webhook_under_their_names(bundle, films, tmp_path):
    events = tmp_path / "events.jsonl"
    with webhook_server() as server:
        options = ("--headless", "--events", events, "--webhook", server.url)
        done = stream(bundle, *sources(*films), *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        posted = [(got["source"], got["type"], got["label"]) for got in server.got]
    written = [
        (record["source"], record["type"], record["label"])
        for record in records_of(events)
        if record["type"] in ("action", "action_start")
    ]
    assert posted == written
    assert {name for name, _, _ in posted} >= {str(films[0]), str(films[1])}


def test_a_paced_file_and_a_camera_run_side_by_side(bundle, films, tmp_path):
    events = tmp_path / "events.jsonl"
    port = free_port()
    with mjpeg_camera(free_port()) as url:
        process = subprocess.Popen(
            command(
                bundle, "--source", films[0], "--realtime", "--source", url, "--headless",
                "--events", events, "--web", port, "--stats-every", "0.5",
            ),
            cwd=tmp_path, env=environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        wait_for(lambda: events.exists() and '"action"' in events.read_text(), process)
        shown = ask(port, "/api/state").text
        wait_until(lambda: _decisions(events, url) >= 24, 30)  # long after the file's end
        health = ask(port, "/healthz").text
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 0, stderr
    assert health == "ok\n"
    assert str(films[0]) in shown
    assert url in shown
    assert f"INFO {films[0]} ended; 1 stream(s) go on" in stderr
    assert re.search(rf"INFO {re.escape(url)}: \d+\.\d fps, steps \d+", stderr)
    assert [record["type"] for record in records_of(events)][-2:] == ["end", "end"]
    assert _decisions(events, films[0]) >= 8
    assert len(stdout.splitlines()) == 3


def _decisions(events, name):
    return sum(r["type"] == "decision" for r in of_source(records_of(events), name))


def test_sources_stand_in_the_environment_one_a_line(bundle, films, tmp_path, monkeypatch):
    monkeypatch.setenv("TDRL_SOURCE", f"{films[0]}\n  {films[1]}\n")
    monkeypatch.setenv("TDRL_MORE", str(films[2]))
    names = ("--source-env", "TDRL_SOURCE", "--source-env", "TDRL_MORE")
    done = stream(bundle, *names, "--headless", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line.split(": frames")[0] for line in done.stdout.splitlines()[:3]] == [
        *map(str, films)
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bar.mp4", "./bar.mp4"), r"\./bar\.mp4 is given twice; give each source once"),
        (("0", "/dev/video0"), r"/dev/video0 is given twice; give each source once"),
        (("bar.mp4", "rtsp://127.0.0.1:1/x"), r"bar\.mp4 is a recording beside .* pass --realtime"),
        (("bar.mp4", "missing.mp4"), r"missing\.mp4 cannot be opened: no such file"),
        (("bar.mp4", "ftp://host/x"), r"ftp:// is not known"),
    ],
)
def test_bad_groups_are_one_line(bundle, tmp_path, arguments, message):
    write_video(tmp_path / "bar.mp4", moving_bar(5))
    done = stream(
        bundle, *sources(*arguments), "--headless", "--events", "events.jsonl", cwd=tmp_path
    )
    refused(done, message, tmp_path)


def test_a_pipeline_from_the_environment_is_refused_beside_one_that_was_typed(
    bundle, tmp_path, monkeypatch
):
    monkeypatch.setenv("TDRL_SOURCE", "gst:videotestsrc ! filesink location=secret")
    typed = ("--source", "gst:videotestsrc num-buffers=5")
    done = stream(bundle, *typed, "--source-env", "TDRL_SOURCE", "--headless", cwd=tmp_path)
    refused(done, "gst: pipelines are accepted from the command line only")


def test_names_tell_apart_what_hides_its_query():
    wanted = [SourceText(f"rtsp://me:secret@cam/live?channel={n}") for n in (1, 2, 3)]
    names = [uri.name for uri in parse_sources(wanted)]
    assert names == [
        "rtsp://***@cam/live?***", "rtsp://***@cam/live?*** (2)", "rtsp://***@cam/live?*** (3)"
    ]  # fmt: skip
    assert "secret" not in repr(wanted)


def test_a_path_with_spaces_is_one_source():
    assert split_sources("/videos/my cat.mp4") == ["/videos/my cat.mp4"]
    assert split_sources("rtsp://a/1\n rtsp://b/2 rtsp://c") == [
        "rtsp://a/1",
        "rtsp://b/2",
        "rtsp://c",
    ]
    assert split_sources("0\n\n2\n") == ["0", "2"]
