"""Why a network stream cannot be opened. FFmpeg within OpenCV only says that it failed.

One question is asked the way the stream's own protocol asks it, after a failure: RTSP (RFC 7826,
RFC 2326) and HTTP share request line, headers, status codes and authentication (RFC 7616).
"""

from __future__ import annotations

import base64
import hashlib
import queue
import re
import secrets
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from runtime.errors import SourceError, SourceRefusedError
from runtime.sources.uri import SourceUri

PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
ANSWER_TIMEOUT_S = 2.0
LONGEST_ANSWER_BYTES = 16384
UNAUTHORISED, FORBIDDEN = 401, 403
_STATUS_LINE = re.compile(rb"(?:RTSP|HTTP)/\d\.\d (\d{3})[^\r\n]*\r?\n")
_CHALLENGE = re.compile(rb"^WWW-Authenticate:[ \t]*([\w-]+)([^\r\n]*)", re.I | re.M)
_PARAMETER = re.compile(r'(\w+)=(?:"([^"]*)"|([^\s,]+))')


@dataclass(frozen=True)
class _Answer:
    status: int | None
    head: bytes


def check_address(uri: SourceUri, timeout_s: float) -> None:
    """Refuse a host name that has no address, within a time limit that the resolver does not have.

    A resolver that hangs is left to its thread, which ends with it.

    Args:
        uri: A network stream.
        timeout_s: Longest wait.

    Raises:
        SourceError: The name is not known, or nobody answered.
    """
    parts = urlsplit(uri.target)
    host, port = parts.hostname or "", _port(parts)
    answers: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def resolve() -> None:
        try:
            socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as err:  # no such name; no possible name
            answers.put(err)
        else:
            answers.put(None)

    threading.Thread(target=resolve, name=f"resolve {host}", daemon=True).start()
    try:
        failure = answers.get(timeout=timeout_s)
    except queue.Empty:
        failure = TimeoutError(f"no answer within {timeout_s:g} s")
    if failure is not None:
        reason = getattr(failure, "strerror", None) or failure
        raise SourceError(
            f"{uri.name} cannot be opened: the name {host} has no address ({reason}); check its "
            "spelling and the DNS server, or use the camera's IP address"
        )


def explain_failure(uri: SourceUri) -> SourceError | None:
    """Ask a stream's server once, and say why the stream cannot be opened.

    Args:
        uri: A network stream that could not be opened.

    Returns:
        The error to raise; a SourceRefusedError where user or password are refused; None where
        the server has nothing against it.
    """
    parts = urlsplit(uri.target)
    start = f"{uri.name} cannot be opened: "
    try:
        answer = _ask(parts, None)
        if answer.status == UNAUTHORISED and parts.username is not None:
            authorization = _authorization(parts, answer.head)
            if authorization is None and _CHALLENGE.search(answer.head):
                return SourceError(
                    f"{start}the camera wants an authentication that is not known here; set it to "
                    "Digest with MD5, or to Basic"
                )
            answer = _ask(parts, authorization)
    except ConnectionRefusedError:
        return SourceError(f"{start}nobody listens on port {_port(parts)}; is the camera on?")
    except TimeoutError:
        return SourceError(
            f"{start}no answer within {ANSWER_TIMEOUT_S:g} s; check address, power and network"
        )
    except OSError as err:
        return SourceError(f"{start}{err.strerror or type(err).__name__}; check the network")
    return _error_of(uri, answer.status, has_login=parts.username is not None)


def _error_of(uri: SourceUri, status: int | None, *, has_login: bool) -> SourceError | None:
    start = f"{uri.name} cannot be opened: "
    scheme = urlsplit(uri.target).scheme.lower()
    if status is None:
        return SourceError(f"{start}what answers there does not speak {scheme.upper()}")
    if status in (UNAUTHORISED, FORBIDDEN) and has_login:
        return SourceRefusedError(
            f"{start}the camera refuses this user and password ({status}); in a URL write @ as "
            "%40, / as %2F, : as %3A"
        )
    if status in (UNAUTHORISED, FORBIDDEN):
        return SourceRefusedError(
            f"{start}the camera wants user and password ({status}); write "
            f"{scheme}://user:password@host/…"
        )
    if status >= 400:
        return SourceError(f"{start}the camera answers {status}; check the path after the host")
    return None


def _ask(parts: SplitResult, authorization: str | None) -> _Answer:
    """Send one request and read the head of the answer.

    Raises:
        OSError: No connection, or nothing came in time.
    """
    host, port = parts.hostname or "", _port(parts)
    lines = [f"{_method(parts)} {_request_target(parts)} {_protocol(parts)}"]
    lines += ["CSeq: 1", "Accept: application/sdp"] if _is_rtsp(parts) else [f"Host: {host}"]
    lines += ["User-Agent: tdrl-edge", "Connection: close"]
    if authorization is not None:
        lines.append(f"Authorization: {authorization}")
    request = "".join(f"{line}\r\n" for line in [*lines, ""])
    with socket.create_connection((host, port), ANSWER_TIMEOUT_S) as plain:
        plain.settimeout(ANSWER_TIMEOUT_S)
        with _encrypted(plain, host) if parts.scheme.lower().endswith("s") else plain as line:
            try:
                line.sendall(request.encode("utf-8", "surrogateescape"))
                return _read_head(line)
            except (ConnectionResetError, BrokenPipeError):  # hung up on our words
                return _Answer(None, b"")


def _read_head(line: socket.socket) -> _Answer:
    """Read to the end of the headers, or what comes in time of an answer that has none."""
    head = b""
    until_s = time.monotonic() + ANSWER_TIMEOUT_S
    while b"\r\n\r\n" not in head and len(head) < LONGEST_ANSWER_BYTES:
        try:
            data = line.recv(4096)
        except TimeoutError:
            if not head:
                raise
            break
        if not data or time.monotonic() > until_s:
            break
        head += data
    match = _STATUS_LINE.match(head)
    return _Answer(int(match[1]) if match else None, head)


def _encrypted(plain: socket.socket, host: str) -> ssl.SSLSocket:
    """As FFmpeg does, without asking for a trusted certificate: cameras sign their own."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(plain, server_hostname=host)


def _authorization(parts: SplitResult, head: bytes) -> str | None:
    """The header that answers a server's challenge; None for one that we do not know."""
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    schemes = set()
    for match in _CHALLENGE.finditer(head):
        schemes.add(match[1].lower())
        text = match[2].decode("latin-1")
        given = {key.lower(): quoted or bare for key, quoted, bare in _PARAMETER.findall(text)}
        # a camera that knows more offers each algorithm as a challenge of its own
        if match[1].lower() == b"digest" and given.get("algorithm", "MD5").upper() == "MD5":
            return _digest(parts, user, password, given)
    if b"basic" in schemes:
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    return None


def _digest(parts: SplitResult, user: str, password: str, given: dict[str, str]) -> str:
    """Digest authentication, RFC 7616, with MD5 as cameras use it."""
    realm, nonce, target = given.get("realm", ""), given.get("nonce", ""), _request_target(parts)
    secret = _md5(f"{user}:{realm}:{password}")
    asked = _md5(f"{_method(parts)}:{target}")
    fields = {"username": user, "realm": realm, "nonce": nonce, "uri": target}
    bare = ""
    if "auth" in (word.strip() for word in given.get("qop", "").split(",")):
        fields["cnonce"] = secrets.token_hex(8)
        bare = ", qop=auth, nc=00000001"
        fields["response"] = _md5(f"{secret}:{nonce}:00000001:{fields['cnonce']}:auth:{asked}")
    else:
        fields["response"] = _md5(f"{secret}:{nonce}:{asked}")
    if "opaque" in given:
        fields["opaque"] = given["opaque"]
    return "Digest " + ", ".join(f'{key}="{value}"' for key, value in fields.items()) + bare


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _request_target(parts: SplitResult) -> str:
    if _is_rtsp(parts):
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))
    return urlunsplit(("", "", parts.path or "/", parts.query, ""))


def _is_rtsp(parts: SplitResult) -> bool:
    return parts.scheme.lower().startswith("rtsp")


def _method(parts: SplitResult) -> str:
    return "DESCRIBE" if _is_rtsp(parts) else "GET"


def _protocol(parts: SplitResult) -> str:
    return "RTSP/1.0" if _is_rtsp(parts) else "HTTP/1.1"


def _port(parts: SplitResult) -> int:
    return parts.port or PORTS[parts.scheme.lower()]
