"""A BGR frame is what an RGB frame is, to the model and to everybody else, byte for byte."""

from __future__ import annotations

import threading
from dataclasses import FrozenInstanceError, replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.live import Stream
from runtime.preprocess import CROPS, PAD_RGB, PictureRule, fit_picture, resize
from runtime.sessions.ort import OrtStepSession
from runtime.sources import bgr_frame
from runtime.sources.bgr_frame import BgrFrame, fit_frame, frame_from_bgr
from runtime.sources.capture import rgb_from_bgr
from runtime.sources.file import FileSource
from runtime.sources.frame import Frame
from runtime.web.board import Board
from tests.mini_bundle import write_mini_bundle
from tests.videos import bikes_path

FRAME_SIZES = [(720, 1280), (1080, 1920), (480, 640), (272, 640), (97, 61), (48, 48), (9, 200)]
RULE_SIZES = [(224, 224), (48, 48), (112, 112), (64, 96)]
ROI = (0.1, 0.2, 0.75, 0.9)
INTERPOLATIONS = (
    cv2.INTER_NEAREST,
    cv2.INTER_LINEAR,
    cv2.INTER_LINEAR_EXACT,
    cv2.INTER_CUBIC,
    cv2.INTER_AREA,
)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def rule_of(crop, height=48, width=48):
    roi = ROI if crop == "roi" else None
    return PictureRule(height_px=height, width_px=width, crop=crop, roi=roi)


def as_before(image_bgr, rule):
    """The whole frame to RGB, then crop and resize: what training sees."""
    return fit_picture(rgb_from_bgr(image_bgr), rule)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("size", FRAME_SIZES)
def test_opencv_resizes_each_channel_alone(size, interpolation):
    image = noise(*size)
    for height, width in [*RULE_SIZES, (300, 400)]:
        straight = cv2.resize(rgb_from_bgr(image), (width, height), interpolation=interpolation)
        swapped = rgb_from_bgr(cv2.resize(image, (width, height), interpolation=interpolation))
        assert np.array_equal(straight, swapped)


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("size", FRAME_SIZES)
def test_the_model_sees_the_same_bytes(size, crop):
    image = noise(*size)
    for height, width in RULE_SIZES:
        rule = rule_of(crop, height, width)
        seen = fit_picture(image, rule, "BGR")
        assert np.array_equal(seen, as_before(image, rule))
        assert seen.flags.c_contiguous
        assert seen.shape == (height, width, 3)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 400),
    st.integers(1, 400),
    st.integers(8, 128),
    st.integers(8, 128),
    st.sampled_from(CROPS),
)
def test_any_size_gives_the_same_bytes(height, width, rule_height, rule_width, crop):
    image, rule = noise(height, width), rule_of(crop, rule_height, rule_width)
    assert np.array_equal(fit_picture(image, rule, "BGR"), as_before(image, rule))


@pytest.mark.parametrize("size", FRAME_SIZES)
def test_the_resize_of_training_keeps_channels_apart(size):
    image = noise(*size)
    assert np.array_equal(resize(rgb_from_bgr(image), 40, 56), rgb_from_bgr(resize(image, 40, 56)))


def test_bars_stay_rgb():
    picture = fit_picture(noise(30, 200), rule_of("full"), "BGR")
    assert tuple(picture[0, 0]) == PAD_RGB


def test_a_decoded_frame_fits_as_its_rgb_picture_does():
    rule = rule_of("center", 112, 112)
    with FileSource(bikes_path()) as source:
        frame = next(iter(source))
    assert isinstance(frame, BgrFrame)
    before = fit_frame(frame, rule)
    assert np.array_equal(before, fit_picture(frame.image_rgb, rule))
    assert np.array_equal(before, fit_frame(frame, rule)), "once it is RGB it still fits the same"


def test_recognition_makes_no_large_rgb_picture(tmp_path, monkeypatch):
    """A file through the whole loop with a board that nobody watches, and the same decisions."""
    made = []

    def counted(image):
        made.append(image)
        return rgb_from_bgr(image)

    monkeypatch.setattr(bgr_frame, "rgb_from_bgr", counted)
    bundle = write_mini_bundle(tmp_path, num_segments=4, window_s=1.0)
    probs = []
    for is_watched in (False, True):
        with FileSource(bikes_path()) as source, OrtStepSession(bundle) as session:
            stream = Stream(bundle, source, session)
            board = Board().add(bundle, stream)
            found = []
            for moment in stream.moments():
                if is_watched:
                    assert moment.frame.image_rgb.shape == (272, 640, 3)
                board.see(moment)
                if moment.decision is not None:
                    found.append(moment.decision.probs)
            probs.append(np.stack(found))
        assert len(made) == (250 if is_watched else 0)
    assert np.array_equal(probs[0], probs[1])


def test_rgb_is_made_once_for_all_readers(monkeypatch):
    """A slow conversion and readers that all begin before it ends."""
    made, start = [], threading.Barrier(8)

    def slow(image):
        made.append(image)
        threading.Event().wait(0.05)
        return rgb_from_bgr(image)

    monkeypatch.setattr(bgr_frame, "rgb_from_bgr", slow)
    image = noise(48, 64)
    frame = frame_from_bgr(image, 0, 0.0, 0)
    fit_frame(frame, rule_of("full"))
    assert not made, "the model needs no large RGB picture"
    found = []

    def read():
        start.wait()
        found.append(frame.image_rgb)

    readers = [threading.Thread(target=read) for _ in range(8)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert len(made) == 1
    assert len(found) == 8
    assert all(each is found[0] for each in found)
    assert np.array_equal(found[0], image[..., ::-1])


def test_it_is_a_frame_like_others():
    image = noise(48, 64)
    frame = frame_from_bgr(image, 3, 1.5, 7, 2)
    assert (frame.index, frame.stream_time_s, frame.grabbed_ns, frame.connection) == (3, 1.5, 7, 2)
    rgb = noise(8, 8, seed=1)
    other = replace(frame, image_rgb=rgb)
    assert other.image_rgb is rgb
    assert np.array_equal(fit_frame(other, rule_of("full", 8, 8)), rgb)
    moved = replace(frame, index=4)
    assert np.array_equal(moved.image_rgb, image[..., ::-1])
    with pytest.raises(FrozenInstanceError):
        frame.image_rgb = rgb  # type: ignore[misc]
    assert np.array_equal(frame.image_rgb, image[..., ::-1])


def test_grey_pictures_become_rgb():
    grey = noise(48, 64)[..., 0]
    frame = frame_from_bgr(grey, 0, 0.0, 0)
    assert type(frame) is Frame
    assert np.array_equal(frame.image_rgb, np.stack([grey] * 3, axis=2))
