"""Frames by number: the same as a full decode, and the same as the runtime sees."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import DataError
from runtime.sources.file import FileSource
from tests.videos import (
    Coding,
    add_cover,
    bikes_path,
    drifting_pattern,
    encode,
    trim,
    turn,
    without_packets,
    write_sound,
)
from train.data import video_reader
from train.data.decode import open_frames, probe
from train.data.packet_index import VideoFacts, decoded, index_by_decoding, index_from_packets
from train.data.video_reader import VideoReader
from train.data.video_stream import Converter, VideoFile

NUM_FRAMES = 48
GOP_12 = {"g": "12", "bf": "2"}
FAST_VPX = {"cpu-used": "8", "deadline": "realtime", "b": "300k"}
OPEN_GOP = {"x264-params": "open-gop=1:bframes=3:keyint=12:min-keyint=12:scenecut=0"}
OPEN_GOP_HEVC = {"x265-params": "log-level=0:pools=1:open-gop=1:keyint=12:min-keyint=12:scenecut=0"}
HEVC = {"x265-params": "log-level=0:pools=1:keyint=12"}
UNEVEN_MS = np.cumsum(np.random.default_rng(3).integers(10, 120, NUM_FRAMES)).tolist()
LATE_MS = [500 + 40 * i for i in range(NUM_FRAMES)]
EARLY_MS = [-200 + 40 * i for i in range(NUM_FRAMES)]

CODINGS = {
    coding.name: coding
    for coding in (
        Coding("vp9.webm", "libvpx-vp9", options=FAST_VPX, fps=12),
        Coding("hidden.webm", "libvpx-vp9", options={"cpu-used": "8", "lag-in-frames": "16"}),
        Coding("vp8.webm", "libvpx", options={"cpu-used": "8", "auto-alt-ref": "1"}),
        Coding("long_gop.mp4", "libx264", options={"g": "250", "bf": "3"}, fps=30),
        Coding("b_frames.mp4", "libx264", options=GOP_12),
        Coding("b_frames.mkv", "libx264", options=GOP_12),
        Coding("short_gop.mp4", "libx264", options={"g": "2", "bf": "1", "sc_threshold": "0"}),
        Coding("open_gop.mp4", "libx264", options=OPEN_GOP),
        Coding("open_gop.mkv", "libx264", options=OPEN_GOP),
        Coding("refresh.mp4", "libx264", options={"x264-params": "intra-refresh=1:keyint=12"}),
        Coding("fragments.mp4", "libx264", options=GOP_12, mux={"movflags": "frag_keyframe"}),
        Coding("uneven.mp4", "libx264", options=GOP_12, stamps_ms=UNEVEN_MS),
        Coding("uneven.webm", "libvpx-vp9", options={"g": "12", **FAST_VPX}, stamps_ms=UNEVEN_MS),
        Coding("late.mp4", "libx264", options=GOP_12, stamps_ms=LATE_MS),
        Coding("late.mkv", "libx264", options=GOP_12, stamps_ms=LATE_MS),
        Coding("early.mkv", "libx264", options=GOP_12, stamps_ms=EARLY_MS),
        Coding("mpeg4.avi", "mpeg4", options={"g": "12"}),
        Coding("mpeg4_b_frames.avi", "mpeg4", options=GOP_12),
        Coding("msmpeg4v3.avi", "msmpeg4", options={"g": "12"}),
        Coding("h264_b_frames.avi", "libx264", options=GOP_12),
        Coding("mjpeg.avi", "mjpeg", "yuvj420p"),
        Coding("hevc.mp4", "libx265", options=HEVC),
        Coding("hevc_open_gop.mkv", "libx265", options=OPEN_GOP_HEVC),
        Coding("ten_bit.mp4", "libx264", "yuv420p10le", options=GOP_12),
        Coding("ten_bit_hevc.mp4", "libx265", "yuv420p10le", options=HEVC),
        Coding("chroma_444.mp4", "libx264", "yuv444p", options=GOP_12),
        Coding("bt709.mp4", "libx264", options=GOP_12, matrix=1),
        Coding("bt2020.mp4", "libx264", options=GOP_12, matrix=9),
        Coding("full_range.mp4", "libx264", options=GOP_12, matrix=1, full_range=True),
        Coding("stream.ts", "libx264", options=GOP_12),
        Coding("program.mpg", "mpeg2video", options=GOP_12),
        Coding("bare.h264", "libx264", options=GOP_12),
    )
}
# Their packets do not tell their frames' times: each is decoded once to know them.
WITHOUT_STAMPS = {"h264_b_frames.avi", "bare.h264"}
# Decoding starts anew only some frames after their keyframes: each is decoded from the start.
WITHOUT_CLEAN_KEYFRAMES = {"refresh.mp4"}
MADE = {
    "turned_90.mp4": lambda path: turn(path, 90),
    "turned_180.mp4": lambda path: turn(path, 180),
    "turned_270.mp4": lambda path: turn(path, 270),
    "trimmed.mp4": lambda path: trim(path, skip_frames=5, kept_share=0.5),
    "skipped_a_group.mp4": lambda path: trim(path, skip_frames=20, kept_share=1.0),
}


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A function from a name to a file of that kind, made once."""
    folder = tmp_path_factory.mktemp("films")

    def made(name):
        path = folder / name
        if path.exists():
            return path
        if name in CODINGS:
            return encode(folder, drifting_pattern(NUM_FRAMES), CODINGS[name])
        if name == "broken_start.mp4":
            return without_packets(made("b_frames.mp4"), path, lost=[0])
        if name == "with_cover.mp4":
            return add_cover(made("b_frames.mp4"), path)
        path.write_bytes(made("b_frames.mp4").read_bytes())
        MADE[name](path)
        return path

    return made


def full_decode(path):
    """Every frame of a file, decoded from the first packet on."""
    video, converter = VideoFile(path), Converter()
    frames = [converter.picture(frame) for frame in decoded(video.packets())]
    video.close()
    return frames


@pytest.mark.parametrize("name", [*CODINGS, *MADE, "broken_start.mp4", "with_cover.mp4"])
def test_the_runtime_sees_the_same_pictures_at_the_same_times(film, name):
    with FileSource(film(name)) as source, open_frames(film(name)) as reader:
        seen = list(source)
        assert np.allclose(reader.times_s, [frame.stream_time_s for frame in seen], atol=1e-9)
        pictures = reader.frames(np.arange(len(seen)))
    for picture, frame in zip(pictures, seen, strict=True):
        assert picture.shape == frame.image_rgb.shape
        # equal to the bit with OpenCV 5.0 and PyAV 18; another matrix or rounding is over 1
        assert np.abs(picture.astype(int) - frame.image_rgb).mean() < 0.5


@pytest.mark.parametrize("name", [*CODINGS, *MADE])
def test_frames_by_number_are_those_of_a_full_decode(film, name, monkeypatch):
    frames = full_decode(film(name))
    if name not in WITHOUT_CLEAN_KEYFRAMES:
        monkeypatch.setattr(VideoReader, "_by_time", None)  # keyframes are enough
    last = len(frames) - 1
    with VideoReader(film(name)) as reader:
        assert reader.index.from_packets == (name not in WITHOUT_STAMPS)
        assert len(reader.times_s) == len(frames)
        for numbers in ([last], [0], [last // 2, 1], [13, 12, 11, 12], [], [0, last]):
            found = reader.frames(np.array(numbers, np.int64))
            assert all(np.array_equal(f, frames[n]) for f, n in zip(found, numbers, strict=True))


@pytest.mark.parametrize(
    "name", ["b_frames.mp4", "open_gop.mkv", "uneven.webm", "mpeg4_b_frames.avi", "trimmed.mp4"]
)
def test_any_frames_in_any_order_are_exact(film, name):
    frames = full_decode(film(name))
    with open_frames(film(name)) as reader:

        @settings(max_examples=25)
        @given(st.lists(st.integers(0, len(frames) - 1), max_size=10))
        def exact(numbers):
            found = reader.frames(np.array(numbers, np.int64))
            assert all(np.array_equal(f, frames[n]) for f, n in zip(found, numbers, strict=True))

        exact()


def test_real_footage_is_exact():
    frames = full_decode(bikes_path())
    with open_frames(bikes_path()) as reader:
        for numbers in (np.arange(200, 208), np.linspace(0, 249, 8).astype(int)):
            found = reader.frames(numbers)
            assert all(np.array_equal(f, frames[n]) for f, n in zip(found, numbers, strict=True))


def test_a_turned_film_is_upright_and_says_so(film):
    upright = full_decode(film("b_frames.mp4"))[7]
    for degrees in (90, 180, 270):
        path = film(f"turned_{degrees}.mp4")
        with open_frames(path) as reader:
            turned = reader.frames(np.array([7]))[0]
        assert np.array_equal(turned, np.rot90(upright, -degrees // 90))
        facts = probe(path)
        assert (facts.rotation, facts.height_px, facts.width_px) == (degrees, *turned.shape[:2])


def test_facts_of_a_film(film):
    facts = probe(film("vp9.webm"))
    assert facts.duration_s == pytest.approx(4.0, abs=0.01)
    assert facts == VideoFacts(
        num_frames=48,
        duration_s=facts.duration_s,
        fps=12.048,  # WebM rounds 83.3 ms to 83
        height_px=64,
        width_px=96,
        codec="vp9",
        pix_fmt="yuv420p",
        rotation=0,
    )
    with open_frames(film("uneven.mp4")) as reader:
        assert np.allclose(reader.times_s, (np.array(UNEVEN_MS) - UNEVEN_MS[0]) / 1000)
        assert reader.frame_s == pytest.approx(np.median(np.diff(UNEVEN_MS)) / 1000)
        assert reader.duration_s == pytest.approx(reader.times_s[-1] + reader.frame_s)


def test_the_first_second_cut_off_by_an_edit_list_is_not_there(film):
    frames, trimmed = full_decode(film("b_frames.mp4")), full_decode(film("trimmed.mp4"))
    assert len(trimmed) == NUM_FRAMES // 2
    assert np.array_equal(trimmed[0], frames[5])
    with open_frames(film("trimmed.mp4")) as reader:
        assert reader.times_s[0] == 0.0


def test_one_thread_decodes(film):
    assert VideoFile(film("b_frames.mp4")).stream.codec_context.thread_count == 1


def count_decoded(monkeypatch):
    """Frames that come out of the decoder, counted."""
    counts = [0]

    def counted(packets):
        for frame in decoded(packets):
            counts[0] += 1
            yield frame

    monkeypatch.setattr(video_reader, "decoded", counted)
    return counts


@pytest.mark.parametrize(
    ("numbers", "most"),
    [([26], 3), ([24, 25, 26, 27], 4), ([0, 47], 13), ([10, 13], 14), ([2, 13], 5), ([], 0)],
)
def test_no_more_is_decoded_than_the_way_from_the_keyframe(film, monkeypatch, numbers, most):
    counts = count_decoded(monkeypatch)
    with open_frames(film("b_frames.mp4")) as reader:
        reader.frames(np.array(numbers, np.int64))
    assert counts[0] == most


def test_only_wanted_frames_become_pictures(film, monkeypatch):
    made = []
    convert = Converter.picture

    def counted(self, frame):
        made.append(frame.pts)
        return convert(self, frame)

    monkeypatch.setattr(Converter, "picture", counted)
    with open_frames(film("long_gop.mp4")) as reader:
        reader.frames(np.array([40, 3, 3]))
    assert len(made) == 2


def test_an_index_is_made_once_a_file_and_again_when_it_changes(film, tmp_path, monkeypatch):
    path = tmp_path / "film.mp4"
    path.write_bytes(film("b_frames.mp4").read_bytes())
    with open_frames(path) as reader:
        expected = reader.times_s
    monkeypatch.setattr(video_reader, "index_from_packets", None)
    with open_frames(path) as reader:
        assert reader.times_s is expected
        assert len(reader.frames(np.array([3]))) == 1
    monkeypatch.setattr(video_reader, "index_from_packets", index_from_packets)
    path.write_bytes(film("late.mkv").read_bytes())
    with open_frames(path) as reader:
        assert reader.times_s is not expected


def test_the_oldest_index_is_forgotten(film, monkeypatch):
    monkeypatch.setattr(video_reader, "KEPT_INDICES", 2)
    monkeypatch.setattr(video_reader, "_kept", type(video_reader._kept)())
    for name in ("b_frames.mp4", "late.mkv", "b_frames.mp4", "mpeg4.avi"):
        open_frames(film(name)).close()
    assert [Path(key[0]).name for key in video_reader._kept] == ["b_frames.mp4", "mpeg4.avi"]


def test_a_broken_start_is_left_out(film):
    frames = full_decode(film("broken_start.mp4"))
    with VideoReader(film("broken_start.mp4")) as reader:
        assert not reader.index.from_packets
        assert len(reader.times_s) == len(frames) < NUM_FRAMES - 1
        found = reader.frames(np.array([0, len(frames) - 1]))
    assert np.array_equal(found[0], frames[0])
    assert np.array_equal(found[1], frames[-1])


def test_frames_that_do_not_decode_give_way_to_the_next_that_do(film, tmp_path, monkeypatch):
    path = without_packets(film("b_frames.mp4"), tmp_path / "hole.mp4", lost=[24])
    frames, frames_s = full_decode(path), index_by_decoding(VideoFile(path)).times_s
    numbers = np.array([46, 30, 24, 23, 22, 21, 0])
    with open_frames(path) as reader:
        assert len(reader.times_s) - len(frames) > 5
        assert frames_s[21] < reader.times_s[22] < reader.times_s[24] < frames_s[22]
        shown = np.searchsorted(frames_s, reader.times_s[numbers] - 1e-6)
        for _ in range(2):
            found = reader.frames(numbers)
            assert all(np.array_equal(f, frames[n]) for f, n in zip(found, shown, strict=True))
            monkeypatch.setattr(VideoReader, "_by_stamp", None)  # it is not tried again
    assert shown.tolist() == [38, 23, 22, 22, 22, 21, 0]


def test_a_damaged_film_is_refused(film, tmp_path):
    data = bytearray(film("b_frames.mp4").read_bytes())
    start, end = data.index(b"mdat") + 2000, data.index(b"moov")
    data[start:end] = bytes(end - start)
    path = tmp_path / "film.mp4"
    path.write_bytes(data)
    with (
        open_frames(path) as reader,
        pytest.raises(DataError, match=r"film\.mp4 is damaged: \d+ of 49 packets do not decode"),
    ):
        reader.frames(np.array([40]))


def test_a_number_that_is_not_there_is_refused(film):
    with open_frames(film("vp9.webm")) as reader:
        for numbers in ([-1], [3, 48]):
            with pytest.raises(ValueError, match=r"vp9\.webm has frames 0\.\.47, got"):
                reader.frames(np.array(numbers))


@pytest.mark.parametrize("name", ["vp9.webm", "b_frames.mkv", "mpeg4.avi", "fragments.mp4"])
def test_a_film_that_was_cut_off_is_refused(film, tmp_path, name):
    data = film(name).read_bytes()
    path = tmp_path / name
    for share in (0.6, 0.8):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(DataError, match=r"cut short.* decode, at least \d+ bytes are missing"):
            open_frames(path)


def test_a_film_without_promises_is_taken_for_what_it_holds(film, tmp_path):
    data = film("stream.ts").read_bytes()
    (tmp_path / "cut.ts").write_bytes(data[: len(data) // 2])
    facts = probe(tmp_path / "cut.ts")
    assert 10 < facts.num_frames < NUM_FRAMES


def test_a_lost_index_at_the_end_costs_no_frame(film, tmp_path):
    (tmp_path / "cut.avi").write_bytes(film("mpeg4.avi").read_bytes()[:-100])
    assert probe(tmp_path / "cut.avi").num_frames == NUM_FRAMES


def sound_with_cover(path, film):
    add_cover(write_sound(path.with_name("sound.mp4")), path)


def unknown_codec(path, film):
    path.write_bytes(film("b_frames.mp4").read_bytes().replace(b"avc1", b"zzz1"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path, film: None, r"x\.mp4 is not there"),
        (lambda path, film: path.write_bytes(b""), r"x\.mp4 is empty \(0 bytes\)"),
        (lambda path, film: path.write_text("no film " * 99), r"x\.mp4 is unreadable or cut short"),
        (lambda path, film: write_sound(path), r"x\.mp4 holds no film \(audio\)"),
        (sound_with_cover, r"x\.mp4 holds no film \(audio, video\)"),
        (unknown_codec, r"x\.mp4 has a codec that PyAV cannot decode"),
        (lambda path, film: path.mkdir(), r"x\.mp4 holds no numbered pictures"),
    ],
)
def test_what_is_no_film_is_refused_in_one_line(tmp_path, film, make, message, capfd):
    path = tmp_path / "x.mp4"
    make(path, film)
    with pytest.raises(DataError, match=message) as err:
        open_frames(path)
    assert "\n" not in str(err.value)
    assert capfd.readouterr().err == ""


def test_a_film_of_which_nothing_decodes_is_refused(film, tmp_path):
    path = without_packets(film("long_gop.mp4"), tmp_path / "lost.mp4", lost=[0])
    with pytest.raises(DataError, match=r"lost\.mp4 holds no video frame that decodes"):
        open_frames(path)
