from __future__ import annotations

import re
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import OutputError
from runtime.web.address import WebAddress
from tests.mjpeg_server import free_port


@pytest.mark.parametrize(
    ("text", "host", "port", "is_home"),
    [
        ("8080", "127.0.0.1", 8080, True),
        ("localhost:1", "localhost", 1, True),
        ("127.8.0.1:65535", "127.8.0.1", 65535, True),
        ("[::1]:80", "::1", 80, True),
        ("0.0.0.0:8080", "0.0.0.0", 8080, False),
        ("[::]:8080", "::", 8080, False),
        ("192.168.1.5:8080", "192.168.1.5", 8080, False),
        ("jetson.local:8080", "jetson.local", 8080, False),
        # a name may lead anywhere, whatever it looks like
        ("localhost.example:8080", "localhost.example", 8080, False),
    ],
)
def test_addresses(text, host, port, is_home):
    address = WebAddress.parse(text)
    assert (address.host, address.port, address.is_home) == (host, port, is_home)


@pytest.mark.parametrize(
    "text",
    ["", ":", "0", ":8080", "65536", "-1", "8080x", "٨٠", "host:", "::1:80", "a b:80",
     "http://host:80", "me@host:80", "[::1:80", "[]:80", "host:8 0"],
)  # fmt: skip
def test_others_are_refused(text):
    with pytest.raises(ValueError, match=re.escape("must be [HOST:]PORT")):
        WebAddress.parse(text)


@given(st.text() | st.from_regex(r"[\[\]:.a0-9]{1,12}", fullmatch=True))
def test_any_text_is_an_address_or_refused(text):
    try:
        address = WebAddress.parse(text)
    except ValueError:
        return
    assert 1 <= address.port <= 65535
    assert address.host
    assert WebAddress.parse(str(address)) == address


def test_a_port_in_use_is_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OutputError, match=f"^--web 127.0.0.1:{port}: the port is in use; "):
            WebAddress("127.0.0.1", port).listen()


@pytest.mark.parametrize("host", ["192.0.2.7", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_one_line(host):
    with pytest.raises(OutputError, match=f"^--web {host}:8080: this machine has no such address"):
        WebAddress(host, 8080).listen()


@pytest.mark.parametrize("host", ["a..b", "a" * 64, ".a"])
def test_what_is_no_name_is_one_line(host):
    with pytest.raises(OutputError, match=re.escape(f"--web {host}:80: this is no name")):
        WebAddress(host, 80).listen()


def test_a_browser_whose_machine_is_gone_is_noticed():
    with WebAddress("127.0.0.1", free_port()).listen() as listener:
        place = listener.getsockname()
        with socket.create_connection(place), listener.accept()[0] as accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            if hasattr(socket, "TCP_KEEPIDLE"):
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30


def test_a_wildcard_is_shown_as_something_that_a_browser_can_open():
    assert WebAddress("0.0.0.0", 80).url == f"http://{socket.gethostname()}:80/"
    assert WebAddress("::1", 80).url == "http://[::1]:80/"
