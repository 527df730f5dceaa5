"""Parts that not every machine has: their tests skip by name, with the reason."""

import importlib.util
import os
import signal

import pytest
from hypothesis import HealthCheck, settings

from tests.browser import CHROMIUM

# a job in the background ignores Ctrl-C, and so would the processes that tests start and stop
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# what no CI can promise
EXCUSED = ("gpu", "soak", "shared", "namespaces")
# other programs may stop this one: time says nothing about an example
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")
# runs under the system's Python, which has GObject
collect_ignore = ["rtsp_server.py"]


def pytest_collection_modifyitems(items):
    # `make test-all` promises the real parts: there a missing one is a failure, not a skip
    if _marked(items, "rtx") and not os.environ.get("TDRL_ALL_PARTS") and _lacks("tensorrt_rtx"):
        _skip(_marked(items, "rtx"), "tensorrt_rtx is not installed")
    if _marked(items, "browser") and not os.environ.get("TDRL_ALL_PARTS") and CHROMIUM is None:
        _skip(_marked(items, "browser"), "chromium is not installed")
    if _marked(items, "gpu") and _lacks_gpu():
        _skip(_marked(items, "gpu"), "torch sees no NVIDIA GPU")


def _marked(items, name):
    return [item for item in items if item.get_closest_marker(name)]


def _skip(items, reason):
    for item in items:
        item.add_marker(pytest.mark.skip(reason=reason))


def _lacks(module):
    return importlib.util.find_spec(module) is None


def _lacks_gpu():
    if _lacks("torch"):
        return True
    import torch

    return not torch.cuda.is_available()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    # `make test-all` promises the real parts: a skipped test there is a failure
    report = yield
    excused = any(item.get_closest_marker(name) for name in EXCUSED)
    if report.skipped and os.environ.get("TDRL_ALL_PARTS") and not excused:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped where every part must be: {report.longrepr}"
    return report
