"""Recognise actions in a camera's pictures, live.

Works from any directory, installed or not: `python runtime/stream.py --camera 0`.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file: its folder is on the path, the repository is not
    sys.path[:1] = [str(Path(__file__).resolve().parent.parent)]

from runtime import __version__
from runtime.artifacts import default_bundle
from runtime.command import run_command
from runtime.sources.several import SourceText, split_sources
from runtime.sources.uri import parse_source
from runtime.web.address import WebAddress

STATS_EVERY_S = 60.0

MOST = 1e9  # no timer counts further
MOST_LEVEL = 255.0
EXAMPLES = """\
examples:
  python runtime/stream.py --camera 0
  python runtime/stream.py --camera /dev/v4l/by-id/usb-cam-index0 --headless --events log.jsonl
  python runtime/stream.py --camera '0?width=1280&height=720&fps=30&format=MJPG'
  python runtime/stream.py --camera 'csi://0?width=1280&height=720&fps=30'
  python runtime/stream.py --source video.mp4 --headless --output annotated.mp4
  python runtime/stream.py --source 'frames/?fps=12' --headless --events log.jsonl
  python runtime/stream.py --source rtsp://user:password@10.0.0.7/stream --headless
  python runtime/stream.py --camera 0 --headless --web 8080
  python runtime/stream.py --camera 0 --headless --record recordings
  python runtime/stream.py --camera 0 --source rtsp://10.0.0.7/stream --headless --web 8080
  TDRL_SOURCE=rtsp://user:password@10.0.0.7/stream \\
    python runtime/stream.py --source-env TDRL_SOURCE --wait-for-source --headless

The status is 0 when every source ended or was stopped by Ctrl-C, SIGTERM, q or --max-seconds;
1 after an error, also of one of several sources, while the others went on to their end, and when
the video, the last event lines or all recordings of a source were lost; 130 or 143 when Ctrl-C or
SIGTERM came before the first step. SIGHUP counts as SIGTERM where the standard input is a terminal,
and is ignored elsewhere.
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="runtime/stream.py",
        description="Recognise actions in a camera's pictures, live.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_input(parser)
    _add_engine(parser)
    _add_output(parser)
    levels = ("debug", "info", "warning", "error")
    parser.add_argument("--log-level", choices=levels, default="info", help="what to log")
    parser.add_argument("--version", action="version", version=f"tdrl-edge {__version__}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the status to exit with."""
    parser = build_parser()
    options = parser.parse_args(argv)
    if not options.sources and not options.list_cameras:
        parser.error("one of the arguments --camera --source --source-env --list-cameras is needed")
    logging.basicConfig(
        level=options.log_level.upper(), format="%(levelname)s %(message)s", stream=sys.stderr
    )
    return run_command(lambda: _list_cameras() if options.list_cameras else _run(options))


def _run(options: argparse.Namespace) -> int:
    try:  # here, so that --help needs no OpenCV and its absence is one line
        from runtime.app import RunFailedError, StreamOptions, run_stream
    except ImportError as err:
        raise ImportError(
            f"{err}; pip install 'tdrl-edge[cpu]', on a Jetson: apt install python3-opencv"
        ) from err
    fields = vars(options) | {"sources": _sources(options), "webhook": _webhook_text(options)}
    fields["web_token"] = _web_token_text(options)
    wanted = {name: fields[name] for name in StreamOptions.__dataclass_fields__}
    try:
        status, last_line = run_stream(StreamOptions(**wanted))
    except RunFailedError as err:
        print(err.last_line, flush=True)
        raise
    print(last_line, flush=True)
    return status


def _list_cameras() -> int:
    from runtime.sources.v4l2 import camera_table, list_cameras  # V4L2 is Linux's

    print(camera_table(list_cameras()), flush=True)
    return 0


def _sources(options: argparse.Namespace) -> tuple[SourceText, ...]:
    """What the user wrote, wherever it was written, in its order.

    Raises:
        ValueError: An environment variable is not set.
    """
    found: list[SourceText] = []
    for each in options.sources:
        if isinstance(each, SourceText):
            found.append(each)
        else:
            # a pipeline can read and write any file: only who types the command may say one
            texts = split_sources(_from_environment(each))
            found += [SourceText(text, is_typed=False) for text in texts]
    return tuple(found)


def _webhook_text(options: argparse.Namespace) -> str | None:
    if options.webhook_env is None:
        return None if options.webhook is None else str(options.webhook)
    return _from_environment(options.webhook_env)


def _web_token_text(options: argparse.Namespace) -> str | None:
    if options.web_token_env is None:
        return None
    if options.web is None:
        raise ValueError("--web-token-env is the token of --web: add --web [HOST:]PORT")
    return _from_environment(options.web_token_env)


def _from_environment(name: str) -> str:
    # taken out, so that a program that this one starts does not get the password
    text = os.environ.pop(name, "").strip()
    if not text:
        raise ValueError(f"the environment variable {name} is not set or empty")
    return text


def _add_input(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("input")
    # one list for all three, so that the order is the user's
    group.add_argument(
        "--camera",
        dest="sources",
        action="append",
        metavar="N",
        type=_camera,
        default=[],
        help="number, /dev path or csi://0; may be given again, also beside --source: they step "
        "together in one engine",
    )
    group.add_argument(
        "--source",
        dest="sources",
        action="append",
        metavar="URI",
        type=SourceText,
        help="video file, folder of pictures, camera, rtsp://, http://, gst:; may be given again",
    )
    group.add_argument(
        "--source-env",
        dest="sources",
        action="append",
        metavar="NAME",
        help="environment variable that holds a source, or several, one a line (URLs also by "
        "spaces): keeps passwords out of process lists",
    )
    group.add_argument(
        "--wait-for-source",
        action="store_true",
        help="a camera or stream that is not there at the start is tried again until it is",
    )
    group.add_argument(
        "--list-cameras", action="store_true", help="the cameras of this machine, by stable path"
    )
    group.add_argument(
        "--software-decode",
        action="store_true",
        help="decode RTSP and Motion-JPEG on the CPU where a Jetson's video hardware could",
    )
    group.add_argument("--realtime", action="store_true", help="play files at their own pace")
    group.add_argument("--max-seconds", metavar="S", type=_positive, help="stop after S seconds")


def _add_engine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model and engine")
    group.add_argument(
        "--bundle",
        metavar="DIR",
        type=Path,
        default=default_bundle(),
        help="bundle folder (default: artifacts/latest/bundle)",
    )
    group.add_argument(
        "--backend",
        choices=("auto", "ort", "openvino", "tensorrt", "tensorrt_rtx"),
        default="auto",
        help="auto: TensorRT where an NVIDIA GPU is, else OpenVINO where installed, else ort",
    )
    group.add_argument(
        "--precision",
        choices=("auto", "float32", "float16", "int8"),
        default="auto",
        help="auto: int8 where the bundle has it, float32 with ort; float16 is for NVIDIA GPUs",
    )
    group.add_argument(
        "--phases",
        metavar="P",
        type=_count,
        help="interleaved phases: more decide faster and cost more (default: 4 decisions a second)",
    )
    group.add_argument(
        "--window",
        dest="window_s",
        metavar="S",
        type=_positive,
        help="seconds that a window spans, instead of the trained ones",
    )
    group.add_argument("--threads", metavar="N", type=_count, help="threads of a step on the CPU")
    group.add_argument(
        "--engine-dir",
        metavar="DIR",
        type=Path,
        help="where TensorRT engines are kept (default: the user's cache folder)",
    )
    group.add_argument(
        "--no-self-test",
        dest="self_test",
        action="store_false",
        help="skip the start-up check against the bundle's golden frames",
    )
    group.add_argument(
        "--scene-cuts",
        metavar="LEVEL",
        type=_level,
        nargs="?",
        const=18.0,
        help="start from zero when the picture changes abruptly (another scene, lights switched): "
        "when half of it moved by LEVEL of 255 (default: off; without a number: 18)",
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("--headless", action="store_true", help="show no window")
    group.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        help="write annotated video; several sources: FILE-1, FILE-2, …",
    )
    group.add_argument("--events", metavar="FILE", type=Path, help="append events as JSON lines")
    group.add_argument(
        "--events-max-mb",
        metavar="MB",
        type=_positive,
        default=100.0,
        help="begin a new file at this size (default: 100)",
    )
    group.add_argument(
        "--events-keep",
        metavar="N",
        type=_whole,
        default=5,
        help="older event files to keep: FILE.1 to FILE.N (default: 5)",
    )
    group.add_argument(
        "--web",
        metavar="[HOST:]PORT",
        type=_web_address,
        help="page with picture, decisions, events, charts, /healthz and /metrics; only for this "
        "machine unless HOST says otherwise, and then a token is needed",
    )
    group.add_argument(
        "--web-token-env",
        metavar="NAME",
        help="environment variable that holds the page's token (default: a random one, shown on "
        "the terminal)",
    )
    webhook = group.add_mutually_exclusive_group()
    webhook.add_argument(
        "--webhook",
        metavar="URL",
        type=_webhook,
        help="POST the start and end of each action as JSON",
    )
    webhook.add_argument(
        "--webhook-env",
        metavar="NAME",
        help="environment variable that holds the webhook's URL",
    )
    group.add_argument(
        "--policy",
        metavar="FILE",
        type=Path,
        help="JSON file: thresholds, hysteresis, ignored classes (default: the bundle's)",
    )
    group.add_argument(
        "--record",
        metavar="DIR",
        type=Path,
        help="keep the frames around each action, for replay (--source DIR/NAME) and training "
        "(python -m train.add_clip); people are filmed: see docs/privacy.md",
    )
    group.add_argument(
        "--record-max-mb",
        metavar="MB",
        type=_positive,
        default=2000.0,
        help="all recordings together; the oldest go first (default: 2000)",
    )
    group.add_argument(
        "--record-before-s",
        metavar="S",
        type=_not_negative,
        help="seconds before an action (default: the window and 2 s)",
    )
    group.add_argument(
        "--record-after-s",
        metavar="S",
        type=_not_negative,
        default=1.0,
        help="seconds after its end was reported (default: 1)",
    )
    group.add_argument(
        "--stats-every",
        dest="stats_every_s",
        metavar="S",
        type=_not_negative,
        default=STATS_EVERY_S,
        help="log frame rate, drops, latency, clocks, temperature and power every S seconds; "
        "0: never (default: %(default)s)",
    )


def _camera(text: str) -> SourceText:
    try:
        kind = parse_source(text).kind
    except ValueError as err:
        raise argparse.ArgumentTypeError(str(err)) from None
    if kind not in ("camera", "csi"):
        raise argparse.ArgumentTypeError(
            "a camera is a number or a /dev path, on a Jetson also csi://0; see --source"
        )
    return SourceText(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number >= 1, got {text}")
    return int(text)


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number >= 0, got {text}")
    return int(text)


def _web_address(text: str) -> WebAddress:
    try:
        return WebAddress.parse(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(str(err)) from err


def _webhook(text: str) -> str:
    from runtime.webhook import WebhookUrl

    try:
        WebhookUrl.parse(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(str(err)) from err
    return text


def _positive(text: str, most: float = MOST) -> float:
    value = _number(text)
    if not 0 < value <= most:
        raise argparse.ArgumentTypeError(f"must be a number > 0 and <= {most:g}, got {text}")
    return value


def _level(text: str) -> float:
    return _positive(text, MOST_LEVEL)


def _not_negative(text: str) -> float:
    value = _number(text)
    if not 0 <= value <= MOST:
        raise argparse.ArgumentTypeError(f"must be a number in 0..{MOST:g}, got {text}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


if __name__ == "__main__":
    sys.exit(main())
