import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import DataError
from runtime.preprocess import PictureRule, fit_picture
from train.data import arrow_of_time, arrow_pixels, arrow_tape
from train.data.arrow_of_time import LABELS, PAIRS, Sizes, build, load_arrays, main, train_arrays
from train.data.arrow_pixels import PHOTOS, SPLITS, digit_indices, photo_region
from train.data.arrow_render import FRAME_PX, render, reversed_scene
from train.data.arrow_scene import FORWARD, make_scene
from train.data.arrow_tape import FPS, tape_order, write_clips, write_tape
from train.data.truth import read_truth
from train.data.video_file import read_video

PICTURE = PictureRule(height_px=48, width_px=48)
SMALL = Sizes(
    train_scenes=13,
    frames_per_clip=4,
    validation_clips=1,
    calibration_clips=1,
    tape_actions=3,
    tape_validation_actions=2,
)


def frames_of(scene, num_frames=8):
    return np.stack(arrow_of_time.clip_frames(scene, num_frames, PICTURE))


def read_rgb(path):
    picture = cv2.imread(str(path))
    assert picture is not None
    return picture[..., ::-1]


# ---- classes and pairs


def test_thirteen_classes_of_which_six_pairs_and_still():
    assert len(LABELS) == len(set(LABELS)) == 13
    assert set(PAIRS) == set(LABELS)
    assert all(PAIRS[PAIRS[label]] == label for label in LABELS)
    assert [label for label in LABELS if PAIRS[label] == label] == ["still"]


@pytest.mark.parametrize("label", LABELS)
def test_partner_is_the_same_frames_in_reverse_order(label):
    scene = make_scene(label, 3, "train", 7)
    partner = frames_of(reversed_scene(scene, PAIRS[label]))
    assert np.array_equal(partner, frames_of(scene)[::-1])


@pytest.mark.parametrize("label", [label for label in LABELS if label not in FORWARD])
def test_backward_class_is_drawn_as_its_forward_class_reversed(label):
    backward = make_scene(label, 3, "tape", 7)
    forward = make_scene(PAIRS[label], 3, "tape", 7)
    assert backward.label == label
    assert np.array_equal(frames_of(backward), frames_of(forward)[::-1])


@pytest.mark.parametrize("label", FORWARD[:-1])
def test_mean_frame_says_nothing_about_the_direction(label):
    forward, backward = (make_scene(name, 5, "train", 1) for name in (label, PAIRS[label]))
    sums = [frames_of(scene, 8).sum(0, dtype=np.int64) for scene in (forward, backward)]
    assert np.array_equal(*sums)
    assert not np.array_equal(frames_of(forward), frames_of(backward))


def test_background_pans_in_all_directions_whatever_the_class():
    for label in ("slide_left", "rise"):
        pans = np.array([make_scene(label, 0, "train", i).pan_px_s for i in range(120)])
        assert np.all(np.abs((pans > 0).mean(0) - 0.5) < 0.15)


@pytest.mark.parametrize(("label", "axis", "sign"), [("slide_left", 0, -1), ("rise", 1, -1)])
def test_objects_travel_at_least_two_fifths_of_the_frame(label, axis, sign):
    for index in range(40):
        actor = make_scene(label, 0, "train", index).actors[0]
        moved = (actor.end.x_px - actor.start.x_px, actor.end.y_px - actor.start.y_px)
        assert sign * moved[axis] >= 0.4 * FRAME_PX
        assert abs(moved[1 - axis]) < 0.1 * FRAME_PX


@pytest.mark.parametrize("label", LABELS)
def test_actions_change_the_picture_and_still_does_not(label):
    # one moment of the background, so that only the objects can differ
    for index in range(20):
        scene = make_scene(label, 2, "validation", index)
        first, last = (fit_picture(render(scene, u, 0.0), PICTURE).astype(int) for u in (0, 1))
        changed = (np.abs(first - last).max(2) > 40).mean()
        assert changed == 0 if label == "still" else changed > 0.02


def test_objects_rest_before_and_after_the_action():
    scene = make_scene("slide_left", 0, "train", 0)
    assert np.array_equal(render(scene, -0.5, 0.0), render(scene, 0.0, 0.0))
    assert np.array_equal(render(scene, 1.5, 0.0), render(scene, 1.0, 0.0))
    assert not np.array_equal(render(scene, 0.0, 0.0), render(scene, 0.0, 1.0))


def test_unknown_label_and_split_are_refused():
    with pytest.raises(ValueError, match="label must be one of slide_left.*got 'jump'"):
        make_scene("jump", 0, "train", 0)
    with pytest.raises(ValueError, match="split must be one of train.*got 'test'"):
        make_scene("rise", 0, "test", 0)
    with pytest.raises(ValueError, match="seed and index must be >= 0, got seed -1"):
        make_scene("rise", -1, "train", 0)


# ---- splits share nothing


def test_splits_share_no_digit_and_use_all():
    everything = np.concatenate([digit_indices(split) for split in SPLITS])
    assert sorted(everything) == list(range(arrow_pixels.NUM_DIGITS))
    assert all(len(digit_indices(split)) > 150 for split in SPLITS)


@given(height=st.integers(100, 900), width=st.integers(100, 900))
def test_splits_share_no_pixel_of_a_photograph(height, width):
    owners = np.zeros((height, width), np.int64)
    for split in SPLITS:
        region = photo_region(height, width, split)
        rows = slice(region.y_px, region.y_px + region.height_px)
        owners[rows, region.x_px : region.x_px + region.width_px] += 1
    assert owners.min() == owners.max() == 1


def test_photo_parts_are_the_regions_of_the_photographs():
    photo = read_rgb(arrow_pixels.photo_folder() / PHOTOS[0])
    for split in SPLITS:
        region = photo_region(photo.shape[0], photo.shape[1], split)
        rows = slice(region.y_px, region.y_px + region.height_px)
        expected = photo[rows, region.x_px : region.x_px + region.width_px]
        parts = arrow_pixels.photo_parts(split)
        assert len(parts) == len(PHOTOS)
        assert np.array_equal(parts[0], expected)


@pytest.mark.parametrize("split", SPLITS)
def test_a_scene_asks_only_for_its_own_splits_pixels(split, monkeypatch):
    asked = set()

    def spy(name):
        original = getattr(arrow_pixels, name)

        def asking(of):
            asked.add((name, of))
            return original(of)

        monkeypatch.setattr(arrow_pixels, name, asking)

    spy("digit_indices")
    spy("photo_parts")
    make_scene("meet", 0, split, 0)
    assert asked == {("digit_indices", split), ("photo_parts", split)}


def test_splits_share_no_randomness():
    pans = [make_scene("rise", 0, split, index).pan_px_s for split in SPLITS for index in range(3)]
    assert len(set(pans)) == len(pans)


def test_missing_photographs_are_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(arrow_pixels, "photo_folder", lambda: tmp_path)
    with pytest.raises(DataError, match=r"astronaut\.png is missing or unreadable; reinstall"):
        arrow_pixels.photo_parts.__wrapped__("train")


# ---- training arrays


def test_same_seed_same_bytes_and_another_seed_another_set():
    first, again = (train_arrays(4, 13, PICTURE, frames_per_clip=4) for _ in range(2))
    other = train_arrays(5, 13, PICTURE, frames_per_clip=4)
    assert np.array_equal(first.frames, again.frames)
    assert np.array_equal(first.duration_s, again.duration_s)
    assert not np.array_equal(first.frames, other.frames)


def test_a_longer_set_begins_with_the_shorter_one():
    short, long = (train_arrays(4, count, PICTURE, frames_per_clip=2) for count in (5, 9))
    assert np.array_equal(short.frames, long.frames[:5])


def test_training_arrays_are_forward_and_balanced_once_reversed():
    clips = train_arrays(0, 26, PICTURE, frames_per_clip=3)
    assert clips.frames.shape == (26, 3, 48, 48, 3)
    assert clips.frames.dtype == np.uint8
    forward = [LABELS[i] for i in clips.label]
    assert set(forward) == set(FORWARD)
    counts = Counter(forward + [PAIRS[label] for label in forward])
    assert set(counts.values()) == {4}
    assert np.all((clips.duration_s >= 1.5) & (clips.duration_s <= 3.0))


def test_training_pictures_are_the_runtimes_pictures():
    clips = train_arrays(0, 1, PICTURE, frames_per_clip=2)
    scene = make_scene(LABELS[clips.label[0]], 0, "train", 0)
    expected = fit_picture(render(scene, 0.75, 0.25 * scene.duration_s), PICTURE)
    assert np.array_equal(clips.frames[0, 1], expected)


@pytest.mark.parametrize("name", ["num_scenes", "frames_per_clip"])
def test_sizes_below_one_are_refused(name):
    sizes = {"num_scenes": 1, "frames_per_clip": 1, name: 0}
    with pytest.raises(ValueError, match=f"{name} must be >= 1, got 0"):
        train_arrays(0, sizes["num_scenes"], PICTURE, frames_per_clip=sizes["frames_per_clip"])


# ---- clips


def test_clips_are_balanced_and_as_long_as_the_truth_says(tmp_path):
    write_clips(tmp_path, 0, "calibration", 1)
    segments = read_truth(tmp_path / "segments.csv", LABELS)
    assert Counter(segment.label for segment in segments) == Counter(LABELS)
    for segment in segments:
        frames, times_s = read_video(tmp_path / segment.path)
        assert len(frames) == pytest.approx(segment.end_s * FPS)
        assert segment.start_s == times_s[0] == 0
        assert 1.5 <= segment.end_s <= 3.0


def test_a_clip_shows_its_scene(tmp_path):
    segments = write_clips(tmp_path, 0, "validation", 1)
    scene = make_scene(segments[5].label, 0, "validation", 5)
    frames, _ = read_video(tmp_path / segments[5].path)
    for at in (0, len(frames) // 2, len(frames) - 1):
        progress = (at + 0.5) / len(frames)
        drawn = render(scene, progress, (at + 0.5 - len(frames) / 2) / FPS)
        # 4:2:0 colour and the encoder cost some levels, a wrong moment costs many more
        assert np.abs(frames[at].astype(int) - drawn).mean() < 6


# ---- tape


@pytest.fixture(scope="module")
def tape(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tape")
    write_tape(folder, 0, "tape", 15)
    return folder


def test_tape_truth_fits_the_video_and_does_not_overlap(tape):
    truth = read_truth(tape / "tape.csv", LABELS)
    frames, times_s = read_video(tape / "tape.mp4")
    assert len(truth) == 15
    assert np.allclose(times_s, np.arange(len(frames)) / FPS, atol=1e-3)
    for before, after in zip(truth, truth[1:], strict=False):
        assert 0 <= after.start_s - before.end_s <= 2 + 1e-9
    assert truth[-1].end_s <= len(frames) / FPS <= truth[-1].end_s + 1 + 1e-9
    assert all(1.5 <= s.end_s - s.start_s <= 3.0 + 1e-9 for s in truth)
    rests = [b.start_s - a.end_s for a, b in zip(truth, truth[1:], strict=False)]
    assert any(rest < 1e-6 for rest in rests)
    assert any(rest > 0.2 for rest in rests)


def test_tape_shows_each_action_where_the_truth_says(tape):
    frames, _ = read_video(tape / "tape.mp4")
    for index, segment in enumerate(read_truth(tape / "tape.csv", LABELS)):
        scene = make_scene(segment.label, 0, "tape", index)
        start, end = (round(time_s * FPS) for time_s in (segment.start_s, segment.end_s))
        for at in (start, end - 1):
            half = (end - start) / 2
            drawn = render(
                scene, (at - start + 0.5) / (end - start), (at + 0.5 - start - half) / FPS
            )
            assert np.abs(frames[at].astype(int) - drawn).mean() < 7


def test_opencv_reads_as_many_frames_as_pyav(tape):
    frames, times_s = read_video(tape / "tape.mp4")
    capture = cv2.VideoCapture(str(tape / "tape.mp4"))
    seen = []
    while (grabbed := capture.read())[0]:
        seen.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
        last = grabbed[1]
    capture.release()
    assert len(seen) == len(frames)
    assert np.allclose(seen, times_s, atol=1e-3)
    assert np.abs(last[..., ::-1].astype(int) - frames[-1]).max() <= 4


def test_tape_is_deterministic(tape, tmp_path):
    write_tape(tmp_path, 0, "tape", 15)
    assert (tmp_path / "tape.mp4").read_bytes() == (tape / "tape.mp4").read_bytes()
    assert (tmp_path / "tape.csv").read_bytes() == (tape / "tape.csv").read_bytes()


@settings(max_examples=30)
@given(num_actions=st.integers(1, 80), seed=st.integers(0, 2**40))
def test_tape_order_is_balanced_and_shuffled_by_seed(num_actions, seed):
    order = tape_order(seed, "tape", num_actions)
    counts = Counter(dict.fromkeys(LABELS, 0))
    counts.update(order)
    assert len(order) == num_actions
    assert max(counts.values()) - min(counts.values()) <= 1
    assert order == tape_order(seed, "tape", num_actions)


def test_both_tapes_have_their_own_order():
    assert tape_order(0, "tape", 40) != tape_order(0, "tape_validation", 40)
    with pytest.raises(ValueError, match="num_actions must be >= 1, got 0"):
        write_tape(Path("unused"), 0, "tape", 0)


# ---- the whole set and its command


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "arrow"
    return out, build(out, 0, SMALL)


def test_build_writes_every_part(whole):
    out, seconds = whole
    assert list(seconds) == list(SPLITS)
    assert sorted(p.name for p in out.iterdir()) == sorted((*SPLITS, "labels.txt"))
    assert (out / "labels.txt").read_text().split() == list(LABELS)
    clips = load_arrays(out / "train")
    assert np.array_equal(clips.frames, train_arrays(0, 13, PICTURE, frames_per_clip=4).frames)
    assert json.loads((out / "train/data.json").read_text())["seed"] == 0


def test_build_keeps_what_is_there_and_remakes_what_differs(whole):
    out, _ = whole
    assert set(build(out, 0, SMALL).values()) == {0.0}
    changed = build(out, 0, Sizes(**{**vars(SMALL), "tape_validation_actions": 1}))
    assert [name for name, part_s in changed.items() if part_s] == ["tape_validation"]
    assert len(read_truth(out / "tape_validation/tape.csv", LABELS)) == 1


def test_an_interrupted_part_is_not_taken_as_finished(tmp_path, monkeypatch):
    def stop(_, __):
        raise KeyboardInterrupt

    monkeypatch.setattr(arrow_tape, "write_truth", stop)
    assert main(small_arguments(tmp_path / "out")) == 130
    assert not (tmp_path / "out/validation").exists()
    assert (tmp_path / "out/train/data.json").exists()
    monkeypatch.undo()
    assert main(small_arguments(tmp_path / "out")) == 0
    assert not list((tmp_path / "out").glob(".*"))


def test_a_folder_in_the_way_is_not_deleted(tmp_path, capsys):
    (tmp_path / "train").mkdir()
    (tmp_path / "train/holiday.jpg").write_bytes(b"mine")
    assert main(small_arguments(tmp_path)) == 1
    assert "train is in the way and was not made by this command" in capsys.readouterr().err
    assert (tmp_path / "train/holiday.jpg").read_bytes() == b"mine"


def test_command_without_anything_to_do_says_so(capsys):
    assert main([]) == 1
    assert capsys.readouterr().err == "error: nothing to do: give --out DIR, --sheet PNG or both\n"


def test_sheet_has_a_row_a_class(tmp_path, capsys):
    assert main(["--sheet", str(tmp_path / "sheet.png")]) == 0
    sheet = read_rgb(tmp_path / "sheet.png")
    assert sheet.shape[0] % len(LABELS) == 0
    assert sheet.shape[1] > 16 * FRAME_PX
    assert "sheet.png" in capsys.readouterr().out
    assert main(["--sheet", str(tmp_path / "sheet.gif")]) == 1


def test_unfinished_or_damaged_arrays_are_clear_errors(tmp_path):
    with pytest.raises(DataError, match="holds no finished data; run python -m"):
        load_arrays(tmp_path)
    (tmp_path / "data.json").write_text("{}")
    (tmp_path / "frames.npy").write_bytes(b"not numpy")
    with pytest.raises(DataError, match="is damaged: .*delete it and make it again"):
        load_arrays(tmp_path)


def small_arguments(out):
    sizes = [f"--{name.replace('_', '-')}={value}" for name, value in vars(SMALL).items()]
    return ["--out", str(out), *sizes]
