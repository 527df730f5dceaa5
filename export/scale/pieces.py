"""What a camera costs, from what the bench measured: the pieces of every sum on docs/scale.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from export.bench.values import Value
from runtime.errors import ExportError

MS_PER_S = 1000.0
SECONDS_PER_DAY = 86400
MEGA = 1e6
MEASURED_PX = 1280 * 720  # of the bench's stages


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a site wants; nothing of it is measured.

    Attributes:
        ticks_per_s: Steps a second for each camera.
        fps: Frames a second that a camera sends.
        picture: Its picture, as the bench names it: `640x360`, `1280x720`, `1920x1080`.
        mbit_per_s: Its bit rate.
        busy: Share of a core that may be used, 0..1; the rest is for bursts.
    """

    ticks_per_s: float = 4.0
    fps: float = 25.0
    picture: str = "640x360"
    mbit_per_s: float = 1.0
    busy: float = 0.7

    def __post_init__(self) -> None:
        for name in ("ticks_per_s", "fps", "mbit_per_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        if not 0 < self.busy <= 1:
            raise ValueError(f"busy must be > 0 and <= 1, got {self.busy}")


@dataclass(frozen=True)
class Pieces:
    """What was measured of one model on one core.

    Attributes:
        model: Its name.
        step_ms: A step by the streams in its batch.
        own_ms: The runtime's own cost of a tick; colour is in `frame_ms`.
        frame_ms: Decoding a frame and turning it to RGB.
        base_mb: A process with one stream.
        stream_mb: Each further stream: states, activations, its decoder.
        line_bytes: A decision's line in the event file.
    """

    model: str
    step_ms: Mapping[int, float]
    own_ms: float
    frame_ms: float
    base_mb: float
    stream_mb: float
    line_bytes: float

    @classmethod
    def of(cls, values: Mapping[str, Value], model: str, picture: str) -> Pieces:
        """The pieces of a model in a run of the bench.

        Args:
            values: The run's numbers.
            model: As the bench names it: `resnet18 at 224`.
            picture: `640x360` ...

        Raises:
            ExportError: The run has not all of it.
        """
        try:
            start = f"streams/{model}/"
            counts = sorted(int(key.removeprefix(start)) for key in values if key.startswith(start))
            one_ms = values[f"{start}1"].median
            steps = {
                n: one_ms * (1 if n == 1 else n * values[f"{start}{n}"].median) for n in counts
            }
            stage = f"stages/{_staged(values, model)}"
            # measured at 1280 × 720; resizing reads every pixel of the frame
            resize_ms = values[f"{stage}/resize"].median * _pixels(picture) / MEASURED_PX
            own_ms = resize_ms + sum(
                values[f"{stage}/{name}"].median for name in ("decide", "events", "web")
            )
            decoder_mb = values[f"decode/{picture}/memory"].median
            return cls(
                model=model,
                step_ms=steps,
                own_ms=own_ms,
                frame_ms=values[f"decode/{picture}"].median,
                base_mb=values[f"memory/{model}/1"].median + decoder_mb,
                stream_mb=values[f"memory/{model}/per stream"].median + decoder_mb,
                line_bytes=values[f"{stage}/line"].median,
            )
        except KeyError as err:
            raise ExportError(
                f"the bench's file has no number {err}; run python -m export.bench without --only"
            ) from err

    @property
    def size_px(self) -> int:
        """Height and width of the model's picture: the 224 of `resnet18 at 224`."""
        return int(self.model.rpartition(" ")[2])

    @property
    def best_batch(self) -> int:
        """The number of streams with the cheapest step for each."""
        return min(self.step_ms, key=lambda count: self.step_ms[count] / count)

    def row_ms(self, streams: int) -> float:
        """A stream's share of a step with so many of them: the measured one below that number."""
        known = max((n for n in self.step_ms if n <= streams), default=min(self.step_ms))
        return self.step_ms[known] / known


@dataclass(frozen=True)
class Camera:
    """What one camera takes.

    Attributes:
        decode_cores: Cores for decoding all its frames.
        step_cores: Cores for its steps.
        own_cores: Cores for the runtime's own work.
        memory_mb: Memory.
        events_mb_per_day: Event file.
        mbit_per_s: Network.
    """

    decode_cores: float
    step_cores: float
    own_cores: float
    memory_mb: float
    events_mb_per_day: float
    mbit_per_s: float

    @property
    def cores(self) -> float:
        """All of them."""
        return self.decode_cores + self.step_cores + self.own_cores


def camera(pieces: Pieces, wish: Wish, streams: int) -> Camera:
    """What a camera takes beside others in one batch.

    Args:
        pieces: What was measured.
        wish: What is wanted.
        streams: Cameras in the batch, >= 1.
    """
    return Camera(
        decode_cores=wish.fps * pieces.frame_ms / MS_PER_S,
        step_cores=wish.ticks_per_s * pieces.row_ms(streams) / MS_PER_S,
        own_cores=wish.ticks_per_s * pieces.own_ms / MS_PER_S,
        memory_mb=pieces.stream_mb if streams > 1 else pieces.base_mb,
        events_mb_per_day=wish.ticks_per_s * pieces.line_bytes * SECONDS_PER_DAY / MEGA,
        mbit_per_s=wish.mbit_per_s,
    )


def _pixels(picture: str) -> int:
    """Pixels of `640x360`."""
    width, _, height = picture.partition("x")
    return int(width) * int(height)


def _staged(values: Mapping[str, Value], model: str) -> str:
    """The bundle whose stages were measured: this one, or the tiny one with this one's step."""
    return model if f"stages/{model}/own" in values else "tiny at 48"
