import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.preprocess import CENTER_SHARE, PAD_RGB, PictureRule, Region, fit_picture
from train.data.augment import PAIRS, PLACES, SCALES, AugmentRule, crop_window, cut, light_table

CENTER = PictureRule(height_px=224, width_px=224, crop="center")
FULL = PictureRule(height_px=64, width_px=64, crop="full")
ROI = PictureRule(height_px=64, width_px=64, crop="roi", roi=(0.25, 0.25, 0.75, 1.0))
MIDDLE = (2, 2)
TEST_SCALE = (0.875, 0.875)
CROPS = AugmentRule(multi_scale_crop=True)


def noise(height_px=60, width_px=100, frames=None, seed=0):
    shape = (height_px, width_px, 3) if frames is None else (frames, height_px, width_px, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


# ---- geometry


def reference_windows(width, height, size):
    """TSN's windows of a picture whose short side is 256/224 of the input: (x, y, w, h)."""
    base = min(width, height)
    sides = [int(round(base * scale)) for scale in SCALES]
    windows = set()
    for i, h in enumerate(sides):
        for j, w in enumerate(sides):
            if abs(i - j) <= 1:
                dx, dy = (width - w) // 4, (height - h) // 4
                for x, y in (
                    (0, 0), (4, 0), (0, 4), (4, 4), (2, 2), (0, 2), (4, 2), (2, 4), (2, 0),
                    (1, 1), (3, 1), (1, 3), (3, 3),
                ):  # fmt: skip
                    windows.add((x * dx, y * dy, w, h))
    return windows


@pytest.mark.parametrize(("width", "height"), [(340, 256), (256, 256), (256, 456)])
def test_windows_are_multi_scale_crops_within_a_pixel_or_three(width, height):
    """The reference cuts fractions of the steps off; here the last place touches the edge."""
    ours = {
        (w.x_px, w.y_px, w.width_px, w.height_px)
        for pair in PAIRS
        for place in PLACES
        for w in [crop_window(height, width, CENTER, pair, place)]
    }
    reference = reference_windows(width, height, 224)
    for one in reference:
        near = np.abs(np.array(sorted(ours)) - one)
        assert near[:, :2].max(1)[near[:, 2:].max(1) <= 1].min() <= 3, one
    assert len(ours) == len(reference)


def test_there_are_ten_scale_pairs_and_thirteen_places():
    assert len(set(PAIRS)) == len(PAIRS) == 10
    assert {(h, w) for h in SCALES for w in SCALES if (h, w) not in PAIRS} == {
        (1.0, 0.75), (1.0, 0.66), (0.875, 0.66), (0.75, 1.0), (0.66, 1.0), (0.66, 0.875),
    }  # fmt: skip
    assert len(set(PLACES)) == len(PLACES) == 13
    assert {(4 - y, x) for y, x in PLACES} == set(PLACES) == {(x, y) for y, x in PLACES}


def test_the_thirteen_places_of_a_window():
    tops_lefts = {
        (w.y_px, w.x_px)
        for place in PLACES
        for w in [crop_window(240, 400, CENTER, (0.66, 0.66), place)]
    }
    side = round(240 * 0.66)
    rows = [(240 - side) * quarter // 4 for quarter in range(5)]
    columns = [(400 - side) * quarter // 4 for quarter in range(5)]
    expected = {(rows[y], columns[x]) for y in (0, 2, 4) for x in (0, 2, 4)}
    expected |= {(rows[y], columns[x]) for y in (1, 3) for x in (1, 3)}
    assert tops_lefts == expected
    assert (0, 0) in tops_lefts
    assert (240 - side, 400 - side) in tops_lefts


@pytest.mark.parametrize("rule", [CENTER, FULL, ROI], ids=lambda rule: rule.crop)
@given(height=st.integers(24, 700), width=st.integers(24, 700))
def test_the_middle_at_the_tests_scale_is_the_tests_picture(rule, height, width):
    frame = noise(height, width)
    assert np.array_equal(cut(frame, rule, TEST_SCALE, MIDDLE), fit_picture(frame, rule))


@given(
    height=st.integers(8, 500),
    width=st.integers(8, 500),
    sides=st.tuples(st.integers(8, 96), st.integers(8, 96)),
    crop=st.sampled_from(["center", "full"]),
    pair=st.sampled_from(PAIRS),
    place=st.sampled_from(PLACES),
)
def test_every_window_makes_a_picture(height, width, sides, crop, pair, place):
    rule = PictureRule(height_px=sides[0], width_px=sides[1], crop=crop)
    picture = cut(np.zeros((height, width, 3), np.uint8), rule, pair, place)
    assert picture.shape == (*sides, 3)
    assert picture.dtype == np.uint8
    window = crop_window(height, width, rule, pair, place)
    if crop == "center":
        assert 0 <= window.x_px <= window.x_px + window.width_px <= width
        assert 0 <= window.y_px <= window.y_px + window.height_px <= height
        assert picture.max() == 0, "no bars"


def test_center_cuts_the_window_and_nothing_else():
    frame = noise(256, 340)
    window = crop_window(256, 340, CENTER, (0.75, 0.875), (1, 3))
    assert window == Region(x_px=87, y_px=16, width_px=224, height_px=192)
    part = frame[16:208, 87:311]
    expected = cv2.resize(part, (224, 224), interpolation=cv2.INTER_LINEAR_EXACT)
    assert np.array_equal(cut(frame, CENTER, (0.75, 0.875), (1, 3)), expected)


def slow_full(frame, pair, place, size):
    """The letterboxed view of a frame with wide bars, pixel by pixel, nearest neighbour."""
    height, width = frame.shape[:2]
    fit = size / max(height, width)
    inner = [round(fit * side) for side in (height, width)]
    bars = [(size - side) // 2 for side in inner]
    picture = np.empty((size, size, 3), np.uint8)
    picture[:] = PAD_RGB
    spans = []
    for side, scale, quarter in zip((height, width), pair, place, strict=True):
        large = side / CENTER_SHARE
        start = -(large - side) / 2 + (large - large * scale) * quarter / 4
        spans.append((start, large * scale))
    for y in range(inner[0]):
        for x in range(inner[1]):
            row = spans[0][0] + (y + 0.5) / inner[0] * spans[0][1]
            column = spans[1][0] + (x + 0.5) / inner[1] * spans[1][1]
            if 0 <= row < height and 0 <= column < width:
                picture[bars[0] + y, bars[1] + x] = frame[int(row), int(column)]
    return picture


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("pair", [(1.0, 1.0), (0.875, 1.0), (0.66, 0.75)])
def test_full_moves_and_scales_what_the_letterbox_shows(pair, place):
    ramp = np.linspace(20, 90, 60)[:, None, None] + np.linspace(0, 150, 100)[None, :, None]
    frame = np.repeat(ramp, 3, 2).astype(np.uint8)
    ours, slow = cut(frame, FULL, pair, place), slow_full(frame, pair, place, 64)
    differs = np.abs(ours.astype(int) - slow).max(2) > 6
    assert differs.mean() < 0.035, "but for one row or column at an edge"
    for axis in (0, 1):
        assert (differs.mean(axis) > 0.3).sum() <= 1


def test_full_may_show_less_than_everything_and_more():
    white = np.full((60, 100, 3), 255, np.uint8)
    whole = (fit_picture(white, FULL) == 255).sum()
    assert (cut(white, FULL, (1.0, 1.0), MIDDLE) == 255).sum() < 0.85 * whole
    assert (cut(white, FULL, (0.66, 0.66), MIDDLE) == 255).sum() == whole


def test_a_region_shows_the_frame_around_it_before_bars():
    frame = noise(120, 120)
    picture = cut(frame, ROI, (1.0, 1.0), MIDDLE)
    window = crop_window(120, 120, ROI, (1.0, 1.0), MIDDLE)
    assert (window.x_px, window.width_px) == (26, 69), "a quarter before and after is 30..90"
    assert window.y_px + window.height_px > 120, "below there is nothing"
    # the region is upright, 64 px high; bars left and right of 43 columns
    assert np.all(picture[:, :10] == PAD_RGB)
    assert np.all(picture[-4:] == PAD_RGB)
    assert not np.all(picture[:4, 11:53] == PAD_RGB)


# ---- draws


def drawn(rule, key, frames=None, label=3, picture=FULL):
    return rule.apply(list(noise(frames=4) if frames is None else frames), label, picture, key)


def test_a_clips_frames_are_varied_alike():
    frames = [noise()] * 5
    rule = AugmentRule(multi_scale_crop=True, flip=True, flip_map={3: 3}, jitter=0.3)
    for item in range(20):
        pictures, _ = drawn(rule, (0, item), frames)
        assert all(np.array_equal(one, pictures[0]) for one in pictures)


def test_a_clip_depends_on_seed_epoch_and_item_alone():
    def draws(seed):
        rule = AugmentRule(multi_scale_crop=True, flip=True, flip_map={3: 3}, seed=seed, jitter=0.2)
        return {key: np.stack(drawn(rule, key)[0]).tobytes() for key in keys}

    keys = [(epoch, item) for epoch in range(5) for item in range(5)]
    first = draws(0)
    keys.reverse()
    assert draws(0) == first
    assert len(set(first.values())) == 25
    assert draws(1) != first


def test_all_pairs_and_places_are_drawn_about_equally():
    grid = np.mgrid[0:240, 0:240].astype(np.uint8)
    frame = np.stack([*grid, grid[0]], 2)
    rule = PictureRule(height_px=24, width_px=24, crop="center")
    known = {cut(frame, rule, pair, place).tobytes() for pair in PAIRS for place in PLACES}
    pictures = [drawn(CROPS, (0, i), [frame], picture=rule)[0][0].tobytes() for i in range(3000)]
    _, counts = np.unique(pictures, return_counts=True)
    assert set(pictures) == known
    # 23 a view; a window as large as the frame has one place
    assert counts.min() >= 5


def test_one_switch_does_not_change_the_others_draws():
    both = AugmentRule(multi_scale_crop=True, flip=True, flip_map={3: 3})
    for item in range(20):
        plain, flipped = drawn(CROPS, (1, item))[0], drawn(both, (1, item))[0]
        mirrored = [one[:, ::-1] for one in plain]
        assert np.array_equal(flipped, plain) or np.array_equal(flipped, mirrored)


def test_the_draws_are_not_those_of_the_frames():
    """The sampling of frames has the same seed, epoch and item; its first numbers are others."""
    rule = AugmentRule(flip=True, flip_map={3: 4})
    flips = [drawn(rule, (0, item))[1] == 4 for item in range(200)]
    numbers = [np.random.default_rng((0, 0, item)).random(8) < 0.5 for item in range(200)]
    agreement = np.mean(np.array(numbers) == np.array(flips)[:, None], 0)
    assert np.all(np.abs(agreement - 0.5) < 0.15)


def test_without_switches_it_is_the_tests_picture():
    frames = noise(frames=4)
    pictures, label = drawn(AugmentRule(flip_map={3: 4}), (0, 1), frames)
    assert np.array_equal(pictures, [fit_picture(frame, FULL) for frame in frames])
    assert label == 3


# ---- flips


def test_half_of_the_clips_are_mirrored_and_change_their_class():
    rule = AugmentRule(flip=True, flip_map={3: 4, 4: 3})
    frames = noise(frames=2)
    straight = np.stack([fit_picture(frame, FULL) for frame in frames])
    count = 0
    for item in range(200):
        pictures, label = drawn(rule, (0, item), frames)
        assert label in (3, 4)
        expected = straight[:, :, ::-1] if label == 4 else straight
        assert np.array_equal(pictures, expected)
        count += label == 4
    assert 75 < count < 125


def test_a_class_may_keep_its_name_in_the_mirror():
    rule = AugmentRule(flip=True, flip_map={3: 3})
    clips = [drawn(rule, (0, item)) for item in range(30)]
    assert {label for _, label in clips} == {3}
    assert len({np.stack(pictures).tobytes() for pictures, _ in clips}) == 2


def test_a_class_that_the_map_does_not_name_is_never_mirrored():
    rule = AugmentRule(flip=True, flip_map={1: 2, 2: 1})
    clips = [drawn(rule, (0, item)) for item in range(30)]
    assert len({np.stack(pictures).tobytes() for pictures, _ in clips}) == 1


# ---- light


def test_jitter_stays_mild_and_reaches_both_sides():
    tables = np.stack([light_table(np.random.default_rng(i), 0.2)[0] for i in range(300)])
    assert tables.dtype == np.uint8
    assert tables.shape == (300, 256, 3)
    middle = tables[:, 128].astype(float) / 128
    assert 0.7 < middle.min() < 0.85
    assert 1.15 < middle.max() < 1.35
    assert np.all(np.diff(tables.astype(int), axis=1) >= 0), "no colour turns round"
    assert np.abs(middle - middle.mean(1, keepdims=True)).max() > 0.05, "colours differ"


def test_no_jitter_keeps_every_level():
    assert np.array_equal(light_table(np.random.default_rng(0), 0.0)[0, :, 1], np.arange(256))


@pytest.mark.parametrize("jitter", [-0.1, 1.0])
def test_too_much_jitter_is_refused(jitter):
    with pytest.raises(ValueError, match=r"jitter must be in \[0, 1\), got"):
        AugmentRule(jitter=jitter)


# ---- low light


def test_low_light_darkens_its_share_of_the_clips_and_nothing_else():
    rule = AugmentRule(low_light=0.4, seed=3)
    frames = [np.full((20, 20, 3), 112, np.uint8)] * 2
    picture = PictureRule(height_px=20, width_px=20)
    levels = []
    for item in range(300):
        pictures, _ = rule.apply(frames, 0, picture, (0, item))
        assert np.array_equal(pictures[0], pictures[1]), "one light a clip"
        levels.append(int(pictures[0][0, 0, 0]))
    dark = [level for level in levels if level != 112]
    assert 0.3 < len(dark) / 300 < 0.5
    assert min(dark) >= 112 / 32 - 1
    assert max(dark) <= 56
    assert sum(level < 20 for level in dark) > 0.3 * len(dark), "log-uniform: the dark is dark"


def test_half_of_a_pairs_clips_are_played_backwards_and_become_the_partner():
    rule = AugmentRule(reverse_map={0: 1, 1: 0, 2: 2}, seed=3)
    frames = [np.full((32, 32, 3), 10 * i, np.uint8) for i in range(4)]
    picture = PictureRule(height_px=32, width_px=32)
    turned = dict.fromkeys(range(4), 0)
    for label in range(4):
        for item in range(200):
            pictures, shown = rule.apply(frames, label, picture, (0, item))
            levels = [int(one[0, 0, 0]) for one in pictures]
            is_reversed = levels == [30, 20, 10, 0]
            assert is_reversed or levels == [0, 10, 20, 30]
            assert shown == (rule.reverse_map[label] if is_reversed else label)
            turned[label] += is_reversed
    assert turned.pop(3) == 0, "a class in no pair is never reversed"
    assert all(70 < count < 130 for count in turned.values())


def test_low_light_leaves_the_other_draws_alone():
    frames = [np.arange(40 * 40 * 3, dtype=np.uint32).reshape(40, 40, 3).astype(np.uint8)]
    picture = PictureRule(height_px=32, width_px=32)
    plain = AugmentRule(multi_scale_crop=True, flip=True, flip_map={0: 1, 1: 0}, seed=1)
    dark = AugmentRule(
        multi_scale_crop=True, flip=True, flip_map={0: 1, 1: 0}, seed=1, low_light=0.5
    )
    same = 0
    for item in range(40):
        (one,), label = plain.apply(frames, 0, picture, (0, item))
        (other,), other_label = dark.apply(frames, 0, picture, (0, item))
        assert label == other_label
        same += np.array_equal(one, other)
    assert 5 < same < 35


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_of_dark_clips_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match=r"low_light must be in \[0, 1\], got"):
        AugmentRule(low_light=share)
