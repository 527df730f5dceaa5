"""The page in a real Chromium."""

from __future__ import annotations

import json
import time

import pytest

from runtime.web.connection import Connection
from runtime.web.guard import Token
from tests.browser import chromium_page
from tests.mjpeg_server import free_port
from tests.runtime.web.serving import HOME, running, wait_until

pytestmark = [pytest.mark.browser]

TOKEN = "a-token-of-20-chars!"
LIVE = "document.getElementById('status')?.textContent === 'live'"
PICTURE = "document.getElementById('picture')?.naturalWidth"
# one number that changes with the picture's pixels
PIXELS = """(() => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 48;
  const pen = canvas.getContext("2d");
  pen.drawImage(document.getElementById("picture"), 0, 0, 48, 48);
  const pixels = pen.getImageData(0, 0, 48, 48).data;
  return pixels.reduce((sum, value) => (sum * 31 + value) % 1e9, 0);
})()"""


@pytest.fixture(scope="module")
def page():
    with chromium_page() as page:
        yield page


@pytest.fixture(autouse=True)
def fresh(page):
    page.complaints.clear()
    page.resize(1280, 900, dark=False)
    yield
    page.open("about:blank")


def rows(page):
    return page.value("[...document.querySelectorAll('#events tr')].map((row) => row.innerText)")


def set_value(page, field, value):
    page.value(
        f"(() => {{ const field = document.getElementById({field!r}); "
        f"field.value = {json.dumps(value)}; "
        "field.dispatchEvent(new Event('input', { bubbles: true })); })()"
    )


def note_action(run, label, *, start_s=0.5, end_s=1.0, peak_prob=0.9):
    run.outputs.note(
        "action", label=label, start_s=start_s, end_s=end_s, peak_prob=peak_prob, decisions=2
    )


def test_the_picture_moves_and_bars_and_charts_fill(bundle, page):
    with running(bundle) as run:
        page.open(f"http://{HOME}:{run.port}/")
        page.wait(LIVE)
        assert page.wait(PICTURE) == 96
        first = page.value(PIXELS)
        page.wait(f"{PIXELS} !== {first}")
        assert page.wait("document.querySelectorAll('#bars li').length") == 3
        page.wait("document.querySelector('#latency path.first').getAttribute('d').includes('L')")
        page.wait("document.querySelector('#rate path.first').getAttribute('d').includes('L')")
        assert page.complaints == []


def test_views_change_and_off_encodes_nothing(bundle, page):
    with running(bundle) as run:
        page.open(f"http://{HOME}:{run.port}/")
        page.wait(f"{PICTURE} === 96")
        page.value("document.querySelector('[data-view=model]').click()")
        page.wait(f"{PICTURE} === 32")
        page.value("document.querySelector('[data-view=overlay]').click()")
        page.wait(f"{PICTURE} >= 480")
        page.value("document.querySelector('[data-view=\"\"]').click()")
        wait_until(lambda: not any(each.watchers for each in run.server.site.feeds.values()))
        assert page.value("document.getElementById('no-picture').textContent") == "picture is off"


def test_a_hidden_page_reads_nothing(bundle, page):
    hide = "Object.defineProperty(document, 'hidden', { value: %s, configurable: true }); "
    hide += "document.dispatchEvent(new Event('visibilitychange'))"
    with running(bundle) as run:
        page.open(f"http://{HOME}:{run.port}/")
        page.wait(PICTURE)
        site = run.server.site
        wait_until(lambda: site.listeners == 1)
        page.value(hide % "true")
        wait_until(lambda: site.listeners == 0)
        wait_until(lambda: not any(each.watchers for each in site.feeds.values()))
        time.sleep(1.0)
        assert site.listeners == 0
        note_action(run, "meanwhile")
        page.value(hide % "false")
        wait_until(lambda: site.listeners == 1)
        page.wait("document.getElementById('events').innerText.includes('meanwhile')")
        page.wait(f"{PICTURE} === 96")


def test_labels_are_text_and_never_markup(bundle, page):
    label = bundle.labels[1]
    assert "<script>" in label
    with running(bundle, name="<img src=x onerror=document.title='owned'>") as run:
        page.open(f"http://{HOME}:{run.port}/")
        page.wait(LIVE)
        note_action(run, label)
        note_action(run, "<b>bold</b>")
        run.outputs.note("failed", message="</script><script>document.title='owned'</script>")
        page.wait("document.querySelectorAll('#events tr').length === 2")
        assert label in rows(page)[1]
        set_value(page, "kind", "all")
        assert any("</script><script>" in row for row in rows(page))
        assert page.value("document.getElementById('bars').innerText.includes('<script>')")
        assert page.value("document.getElementById('tabs').innerText").startswith("<img src=x")
        assert page.value("document.querySelectorAll('main script, nav img, main b').length") == 0
        assert page.value("document.title") == "TDRL Edge"
        # and were one to slip through, the policy stops it
        page.value(
            "(() => { const made = document.createElement('img'); made.src = 'x:'; "
            "made.setAttribute('onerror', \"document.title = 'owned'\"); "
            "document.body.append(made) })()"
        )
        time.sleep(0.3)
        assert page.value("document.title") == "TDRL Edge"
        assert any("Content Security Policy" in each for each in page.complaints)


def test_events_are_filtered_and_the_timeline_shows_them(bundle, page):
    with running(bundle) as run:
        page.open(f"http://{HOME}:{run.port}/")
        page.wait(LIVE)
        note_action(run, "wave", peak_prob=0.4)
        note_action(run, "jump", peak_prob=0.9)
        run.outputs.note("action_start", label="jump", start_s=1.1, peak_prob=0.5, decisions=1)
        page.wait("document.querySelectorAll('#events tr').length === 3")
        assert page.wait("document.querySelectorAll('#timeline rect').length") == 3
        assert page.value("document.querySelectorAll('#timeline rect.ongoing').length") == 1
        set_value(page, "search", "JUMP")
        assert len(rows(page)) == 2
        set_value(page, "least", "60")
        (row,) = rows(page)
        assert row.split("\t")[1:] == ["jump", "90 %", "0.5 s"]
        set_value(page, "search", "")
        set_value(page, "kind", "others")
        assert any(row.split("\t")[1].startswith("reset") for row in rows(page))
        assert page.complaints == []


def test_tabs_switch_between_streams(bundle, page):
    with running(bundle, name="front door") as run:
        yard = run.server.board.add(bundle, run.stream)
        yard.name = "back yard"
        note_action(run, "wave")
        page.open(f"http://{HOME}:{run.port}/")
        page.wait(f"{PICTURE} === 96")
        page.wait("document.querySelectorAll('#events tr').length === 1")
        page.value("document.querySelectorAll('#tabs button')[1].click()")
        assert (
            page.value("document.querySelector('[aria-selected=true]').textContent") == "back yard"
        )
        assert rows(page) == []
        assert page.value("document.getElementById('no-picture').hidden") is False


def test_a_tab_leaves_out_the_folder_or_host_that_all_share(page, bundle):
    with running(bundle, name="/videos/door/monday.mp4") as run:
        names = "[...document.querySelectorAll('#tabs button')].map((tab) => tab.textContent)"
        page.open(f"http://{HOME}:{run.port}/")
        page.wait(LIVE)
        assert page.value(names) == ["/videos/door/monday.mp4"]
        yard = run.server.board.add(bundle, run.stream)
        yard.name = "/videos/yard/monday.mp4"
        page.open(f"http://{HOME}:{run.port}/")
        page.wait(LIVE)
        assert page.value(names) == ["door/monday.mp4", "yard/monday.mp4"]
        assert page.value("document.querySelector('#tabs button').title") == (
            "/videos/door/monday.mp4"
        )


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_scrolls_in_one_direction_only(bundle, page, dark):
    with running(bundle, name="rtsp://***@a-camera-with-a-very-long-name.example/stream1") as run:
        page.resize(360, 740, dark=dark, phone=True)
        note_action(run, "a_label_that_is_longer_than_any_sensible_label_would_ever_be")
        page.open(f"http://{HOME}:{run.port}/")
        page.wait(LIVE)
        page.wait("document.querySelectorAll('#events tr').length === 1")
        assert page.value("document.documentElement.scrollWidth") == 360
        ground = page.value("getComputedStyle(document.body).backgroundColor")
        brightness = sum(int(each) for each in ground[4:-1].split(",")) / 3
        assert (brightness < 60) is dark


def test_a_stall_a_restart_and_a_lost_server_are_shown(bundle, page):
    with running(bundle) as run:
        port = run.port
        page.open(f"http://{HOME}:{port}/")
        page.wait(LIVE)
        run.goes_on.clear()
        page.wait("document.getElementById('status').textContent.startsWith('no frame for')", 15)
        run.goes_on.set()
        page.wait(LIVE)
    page.wait("document.getElementById('status').textContent === 'disconnected'")
    with running(bundle, port=port, name="after") as run:
        page.wait("document.getElementById('tabs').textContent === 'after'", 20)
        page.wait(LIVE)
        page.wait(PICTURE)


def test_after_a_broken_connection_the_picture_is_asked_for_again(bundle, page):
    with running(bundle) as run:
        page.open(f"http://{HOME}:{run.port}/")
        page.wait(LIVE)
        page.wait(PICTURE)
        before = page.value("document.getElementById('picture').src")
        connections = run.server._server.server_state.connections
        (events,) = [
            each
            for each in connections
            if isinstance(each, Connection) and each.scope and each.scope["path"] == "/events"
        ]
        events.loop.call_soon_threadsafe(events.transport.abort)
        page.wait(f"document.getElementById('picture').src !== {before!r}", 10)
        page.wait(LIVE)
        page.wait(PICTURE)


def test_the_terminals_link_logs_in_and_leaves_no_token_behind(bundle, page):
    port = free_port()
    with running(bundle, token=TOKEN, port=port):
        page.open(f"http://{HOME}:{port}/")
        page.wait("document.getElementById('token') !== null")
        assert page.value("document.getElementById('status')") is None
        page.open("about:blank")
        page.open(f"http://{HOME}:{port}/#token={TOKEN}")
        page.wait(LIVE)
        page.wait(PICTURE)
        assert page.value("location.href") == f"http://{HOME}:{port}/"
        assert page.value("document.cookie") == ""  # HttpOnly
        (cookie,) = page.call("Network.getCookies")["cookies"]
        assert cookie["value"] == Token(TOKEN, port).cookie
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
