"""Recognise actions in a camera's pictures, live.

Works from any directory, installed or not: `python runtime/stream.py --camera 0`.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file: its folder is on the path, the repository is not
    sys.path[:1] = [str(Path(__file__).resolve().parent.parent)]

from runtime import __version__
from runtime.artifacts import default_bundle
from runtime.command import run_command

EXAMPLES = """\
examples:
  python runtime/stream.py --camera 0
  python runtime/stream.py --camera /dev/v4l/by-id/usb-cam-index0 --headless --events log.jsonl
  python runtime/stream.py --source video.mp4 --headless --output annotated.mp4
  python runtime/stream.py --source rtsp://user:password@10.0.0.7/stream --headless

The status is 0 when the source ended or was stopped by Ctrl-C, SIGTERM, q or --max-seconds;
1 after an error; 130 or 143 when Ctrl-C or SIGTERM came before the first step.
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
    options = build_parser().parse_args(argv)
    logging.basicConfig(
        level=options.log_level.upper(), format="%(levelname)s %(message)s", stream=sys.stderr
    )
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    try:  # here, so that --help needs no OpenCV and its absence is one line
        from runtime.app import RunFailedError, StreamOptions, run_stream
    except ImportError as err:
        raise ImportError(
            f"{err}; pip install 'tdrl-edge[cpu]', on a Jetson: apt install python3-opencv"
        ) from err
    fields = vars(options) | {"source": options.source or options.camera}
    wanted = {name: fields[name] for name in StreamOptions.__dataclass_fields__}
    try:
        status, last_line = run_stream(StreamOptions(**wanted))
    except RunFailedError as err:
        print(err.last_line, flush=True)
        raise
    print(last_line, flush=True)
    return status


def _add_input(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("input")
    source = group.add_mutually_exclusive_group(required=True)
    source.add_argument("--camera", metavar="N", type=_camera, help="number or /dev path")
    source.add_argument(
        "--source", metavar="URI", help="video file, rtsp://, http:// or a camera's path"
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
        "--backend", choices=("auto", "ort", "tensorrt", "tensorrt_rtx"), default="auto"
    )
    group.add_argument("--precision", choices=("auto", "float32", "int8"), default="auto")
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
    group.add_argument("--threads", metavar="N", type=_count, help="threads of ONNX Runtime")
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


def _add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("--headless", action="store_true", help="show no window")
    group.add_argument("--output", metavar="FILE", type=Path, help="write annotated video")
    group.add_argument("--events", metavar="FILE", type=Path, help="append events as JSON lines")


def _camera(text: str) -> str:
    if not (text.isdecimal() or text.startswith("/dev/")):
        raise argparse.ArgumentTypeError("a camera is a number or a /dev path; see --source")
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number >= 1, got {text}")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number > 0, got {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())
