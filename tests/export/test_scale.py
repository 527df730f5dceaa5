"""The sums and the simulation of docs/scale.md."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from export.bench.run import Report, write
from export.bench.values import Table, Value
from export.marked_page import END, write_between_marks
from export.roofline.table import read_prediction
from export.scale.__main__ import BEGIN, PAGE, main, predicted_batch_ms, predicted_step, served_by
from export.scale.boxes import Kind, cpu_box, device_box
from export.scale.pieces import Pieces, Wish, camera
from export.scale.queueing import aligned, before_batcher, fullest_server
from export.scale.tables import aligned_table, site_row
from export.scale.triton import DRAWS, Served, Site, sending_camera, triton_site
from runtime.command import run_command
from runtime.errors import ExportError

MODEL = "resnet18 at 224"
PIECES = Pieces(
    model=MODEL,
    step_ms={1: 10.0, 4: 24.0, 8: 40.0},
    own_ms=1.0,
    frame_ms=0.4,
    base_mb=200.0,
    stream_mb=20.0,
    line_bytes=500.0,
)
WISH = Wish(ticks_per_s=4, fps=25, busy=0.5)


def measured(**changes):
    """A bench's numbers with round values."""
    medians = {
        f"streams/{MODEL}/1": 10.0,
        f"streams/{MODEL}/4": 0.6,
        f"streams/{MODEL}/8": 0.5,
        f"stages/{MODEL}/own": 9.0,
        f"stages/{MODEL}/resize": 1.6,
        f"stages/{MODEL}/decide": 0.3,
        f"stages/{MODEL}/events": 0.2,
        f"stages/{MODEL}/web": 0.1,
        f"stages/{MODEL}/line": 500.0,
        "decode/640x360": 0.4,
        "decode/640x360/memory": 5.0,
        f"memory/{MODEL}/1": 195.0,
        f"memory/{MODEL}/per stream": 15.0,
    }
    return {key: Value(v, v, v, "", 2) for key, v in (medians | changes).items()}


def test_pieces_are_read_from_a_run():
    """Ratios of the streams are to N times one; resizing shrinks with the picture."""
    pieces = Pieces.of(measured(), MODEL, "640x360")
    assert pieces.step_ms == pytest.approx({1: 10.0, 4: 24.0, 8: 40.0})
    assert pieces.own_ms == pytest.approx(1.6 / 4 + 0.6)
    assert (pieces.base_mb, pieces.stream_mb) == (200.0, 20.0)


def test_a_run_without_a_table_says_which():
    values = measured()
    del values["decode/640x360"]
    with pytest.raises(ExportError, match=r"no number 'decode/640x360'; run .* without --only"):
        Pieces.of(values, MODEL, "640x360")


def test_a_camera_is_the_sum_of_its_pieces():
    alone, shared = camera(PIECES, WISH, 1), camera(PIECES, WISH, 8)
    assert alone.decode_cores == pytest.approx(25 * 0.4 / 1000)
    assert alone.step_cores == pytest.approx(4 * 10 / 1000)
    assert shared.step_cores == pytest.approx(4 * 5 / 1000)
    assert shared.cores == pytest.approx(0.010 + 0.020 + 0.004)
    assert shared.events_mb_per_day == pytest.approx(4 * 500 * 86400 / 1e6)
    assert (alone.memory_mb, shared.memory_mb) == (200, 20)


def test_between_two_measured_batches_the_smaller_counts():
    assert PIECES.row_ms(7) == 6.0
    assert PIECES.row_ms(100) == 5.0
    assert PIECES.best_batch == 8


@pytest.mark.parametrize(
    ("cores", "memory_gb", "cameras", "limit"),
    [(2, 8, 29, "steps"), (16, 32, 235, "steps"), (16, 1, 40, "memory")],
)
def test_a_box_takes_what_its_cores_or_memory_take(cores, memory_gb, cameras, limit):
    kind = cpu_box(PIECES, WISH, cores=cores, memory_gb=memory_gb)
    assert (kind.cameras, kind.limit) == (cameras, limit)


def test_hardware_decoding_leaves_the_cores_to_the_steps():
    soft = cpu_box(PIECES, Wish(fps=100, busy=0.5), cores=16, memory_gb=32)
    hard = cpu_box(PIECES, Wish(fps=100, busy=0.5), cores=16, memory_gb=32, hardware_decode=True)
    assert soft.limit == "decoding"
    assert hard.limit == "steps"
    assert hard.cameras > 2 * soft.cameras


def test_a_device_is_limited_by_what_runs_out_first():

    def box(*, decoded_fps, host_ms):
        return device_box(
            "d", batch_ms=2.0, rows=8, decoded_fps=decoded_fps, wish=WISH, host_ms=host_ms
        )

    assert box(decoded_fps=1000, host_ms=5.0).cameras == 25  # half a core, 4 × 5 ms
    assert box(decoded_fps=1000, host_ms=0.1).limit == "decoding"
    assert box(decoded_fps=1000, host_ms=0.1).cameras == 40
    assert box(decoded_fps=1e6, host_ms=0.1).cameras == 500


def test_boxes_are_whole_and_prices_are_the_reader_s():
    kind = Kind("box", 30, "steps", price=300.0)
    assert [kind.boxes(n) for n in (1, 30, 31, 10_000)] == [1, 1, 2, 334]
    assert kind.per_camera(kind.price, 31) == pytest.approx(600 / 31)
    assert kind.per_camera(None, 31) is None
    with pytest.raises(ValueError, match="box cannot take one camera: memory runs out"):
        Kind("box", 0, "memory").boxes(1)


@pytest.mark.parametrize("field", ["ticks_per_s", "fps", "mbit_per_s", "busy"])
def test_a_wish_is_possible(field):
    with pytest.raises(ValueError, match=f"{field} must be > 0"):
        replace(Wish(), **{field: 0})  # type: ignore[arg-type]  # each is a number


def test_one_stream_waits_for_nothing():
    waits = aligned(1, 7.0, interval_ms=250, frame_ms=40)
    assert (waits.p50_ms, waits.p99_ms, waits.late, waits.rows) == (7, 7, 0, 1)


def test_streams_on_one_clock_step_together_and_wait_a_frame_at_most():
    waits = aligned(16, 10.0, interval_ms=250, frame_ms=40)
    assert waits.rows == 16
    assert 10 < waits.p50_ms < 45
    assert waits.p99_ms < 10 + 40 * 1.4
    assert waits.late == 0


def test_a_step_waits_half_a_tick_and_no_longer():
    """Frames that come 200 ms apart, ticks of 250 ms: the first is not kept for the last."""
    waits = aligned(8, 1.0, interval_ms=250, frame_ms=200)
    assert waits.p99_ms <= 1.0 + 125 + 1.0
    assert waits.rows < 8


def test_too_many_streams_are_late():
    assert aligned(4, 300.0, interval_ms=250, frame_ms=40).late > 0.9
    table = aligned_table(replace(PIECES, step_ms={1: 300.0}), WISH)
    assert "| 1 | 300.0 | 1.0 | – | – | cannot keep up |" in table


def test_a_batcher_fills_batches_as_it_gets_busy():

    def server(cameras):
        return before_batcher(cameras, lambda n: 1 + n, interval_ms=250, most_rows=8, delay_ms=5)

    idle, busy = server(4), server(200)
    assert idle.rows < 2 < busy.rows <= 8
    assert idle.late == busy.late == 0
    assert idle.p50_ms >= 2  # one row, one fixed
    assert server(300).late > 0.3


def test_a_batch_waits_no_longer_than_its_delay():
    waits = before_batcher(2, lambda n: 1.0, interval_ms=250, most_rows=8, delay_ms=20)
    assert waits.p99_ms <= 21 + 1e-9


def test_hashing_is_uneven_and_a_table_is_not():
    uneven = np.mean([fullest_server(100, 8, by_hash=True, seed=s) for s in range(50)])
    assert 1.3 < uneven < 1.8
    assert fullest_server(100, 8, by_hash=False) == pytest.approx(13 * 8 / 100)
    assert fullest_server(10_000, 8, by_hash=True) < 1.1


SERVED = Served(batch_ms=10.0, rows=8, source="mine", link_gbit_per_s=10.0)
SITE = Site("site", Kind("server", 30, "steps"), Kind("16 cores", 70, "decoding"))


def test_a_server_has_the_steps_and_a_box_the_rest():
    site = triton_site(PIECES, WISH, SERVED, cores=16)
    assert (site.server.cameras, site.server.limit) == (100, "steps")  # half of 800 rows a second
    # 16 cores half busy; 0.010 for 25 frames and 0.004 for four ticks
    assert (site.decoder.cameras, site.decoder.limit) == (571, "decoding")
    assert site.decoder.cameras > cpu_box(PIECES, WISH, cores=16, memory_gb=32).cameras


def test_a_server_s_network_runs_out_before_its_gpu():
    """224 × 224 × 3 bytes four times a second: 4.8 Mbit/s of half a Gbit/s."""
    site = triton_site(PIECES, WISH, replace(SERVED, batch_ms=1.0, link_gbit_per_s=1.0), cores=16)
    assert (site.server.cameras, site.server.limit) == (103, "network")


def test_a_box_that_sends_has_no_steps_and_more_network():
    one = sending_camera(PIECES, replace(WISH, mbit_per_s=2))
    assert one.cores == pytest.approx(0.010 + 0.004)
    assert one.mbit_per_s == pytest.approx(2 + 4 * 8 * 3 * 224**2 / 1e6)
    smaller = sending_camera(replace(PIECES, model="tiny at 48"), WISH)
    assert smaller.mbit_per_s == pytest.approx(1 + 4 * 8 * 3 * 48**2 / 1e6)


@pytest.mark.parametrize("cameras", [1, 30, 100, 1000, 3000])
def test_by_hash_the_fullest_server_still_takes_all_its_cameras(cameras):
    count, by_table = SITE.servers_by_hash(cameras), SITE.servers_by_table(cameras)
    assert by_table == -(-cameras // 30)
    assert count is not None
    assert count >= by_table
    for seed in range(DRAWS):
        fullest = fullest_server(cameras, count, by_hash=True, seed=seed) * cameras / count
        assert round(fullest) <= 30
    if cameras >= 100:
        draws = [fullest_server(cameras, by_table, by_hash=True, seed=n) for n in range(DRAWS)]
        assert max(draws) * cameras / by_table > 30.5  # so the table's count is not enough
        assert count > by_table


def test_small_servers_need_a_table():
    """Two cameras each: by hash some server always has three."""
    small = replace(SITE, server=Kind("server", 2, "steps"))
    assert small.servers_by_hash(1000) is None
    assert "| – / 500 + 15 |" in site_row(small, [1000])


def test_a_site_s_row_and_its_price():
    assert site_row(SITE, [30, 70]).startswith("| site | 30 + 70 | steps + decoding | 1 / 1 + 1 | ")
    count = SITE.servers_by_hash(1000)
    assert count is not None
    row = site_row(replace(SITE, price=100.0), [1000])
    assert row.endswith(f"| {count} / 34 + 15 ({100 * (count + 15) / 1000:.2f}) |")
    small = replace(SITE, server=Kind("server", 2, "steps"), price=100.0)
    assert "| – / 500 + 15 (51.50) |" in site_row(small, [1000])


def test_a_batch_that_takes_longer_than_a_tick_serves_nobody():
    late = triton_site(PIECES, WISH, replace(SERVED, batch_ms=251.0), cores=16)
    assert not late.possible
    assert site_row(late, [1, 10]).endswith("| 0 + 571 | steps + decoding | – | – |")
    assert triton_site(PIECES, WISH, replace(SERVED, batch_ms=250.0), cores=16).possible


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--server-batch-ms", "0"), "--server-batch-ms must be > 0, got 0.0"),
        (("--server-batch-ms", "nan"), "--server-batch-ms must be > 0, got nan"),
        (("--server-rows", "0"), "--server-rows must be >= 1, got 0"),
        (("--server-gbit", "-1"), "--server-gbit must be > 0, got -1.0"),
        (("--decoder-cores", "0"), "--decoder-cores must be >= 1, got 0"),
    ],
)
def test_an_impossible_server_is_one_line(bench, capsys, arguments, message):
    assert run_command(lambda: main(["--bench", str(bench), *arguments])) == 1
    assert capsys.readouterr().err == f"error: {message}\n"


def test_a_server_is_the_reader_s_or_the_predicted_one():
    step = predicted_step(MODEL)
    assert step is not None
    predicted = served_by(None, 8, step, 1.0)
    assert predicted is not None
    assert predicted.batch_ms == pytest.approx(step.eight_ms)
    assert predicted.source == "Orin Nano, predicted"
    assert predicted_batch_ms(step, 1) == pytest.approx(step.ms)
    assert step.ms < predicted_batch_ms(step, 4) < step.eight_ms
    own = Served(6.5, 32, "6.5 ms for 32 rows", 10.0)
    assert served_by(6.5, 32, step, 10.0) == served_by(6.5, 32, None, 10.0) == own
    assert served_by(None, 8, None, 1.0) is None


def test_the_command_has_a_row_for_servers(bench, capsys):
    row = "| Triton servers ("
    assert run_command(lambda: main(["--bench", str(bench)])) == 0
    assert f"{row}Orin Nano, predicted) + boxes of 16 cores | 145 + " in capsys.readouterr().out
    given = ["--server-batch-ms", "5.5", "--server-rows", "16", "--server-gbit", "10"]
    given += ["--decoder-cores", "8", "--busy", "0.71"]
    assert run_command(lambda: main(["--bench", str(bench), *given])) == 0
    printed = capsys.readouterr().out
    assert f"{row}5.5 ms for 16 rows) + boxes of 8 cores | 516 + 405 | steps + dec" in printed
    assert "| decoded here, stepped by Triton | 0.0100 | 0.0000 | 0.0040 | 0.014 |" in printed


def test_the_prediction_of_the_bench_s_model():
    step = predicted_step("tiny at 48")
    assert step in read_prediction().steps
    assert (step.device, step.precision, step.backbone) == ("Orin Nano", "int8", "tiny")
    assert predicted_step("mobilenet at 96") is None


@pytest.fixture
def bench(tmp_path):
    table = Table("t", "T", "text", ("a",), [], measured())
    write(Report("Measured", (0, 0), {}, (table,)), tmp_path)
    return tmp_path / "bench.json"


def test_the_command(bench, capsys):
    assert run_command(lambda: main(["--bench", str(bench), "--box-price", "500"])) == 0
    printed = capsys.readouterr().out
    assert "| alone | 0.0100 | 0.0400 | 0.0040 | 0.054 | 200.0 |" in printed
    assert "| 2 cores | 41 | steps | 1 (500.00) | 1 (62.50) |" in printed
    assert "| Orin Nano (predicted) |" in printed


def test_the_page_keeps_its_text_around_the_tables(tmp_path):
    page = tmp_path / "scale.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_between_marks("new", page, BEGIN)
    assert page.read_text() == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    page.write_text("no marks")
    with pytest.raises(ExportError, match="has no marks"):
        write_between_marks("new", page, BEGIN)


def test_the_project_s_page_has_the_marks():
    text = PAGE.read_text()
    assert text.index(BEGIN) < text.index(END)


def test_without_a_bench_the_way_to_one_is_named(tmp_path, capsys):
    assert run_command(lambda: main(["--bench", str(tmp_path / "none.json")])) == 1
    assert "is no run of `make bench`" in capsys.readouterr().err
