"""What a validator can answer to harm a miner's machine or its person: the command stays in one piece, and honest."""

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
import pytest

from neurons import render, validator_client
from neurons.validator_client import Away, Refused, Row, Validator

HOTKEY = "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty"
ESCAPES = "\x1b[2J\x1b]0;paid\x07 \x9b31m \u202egnp.exe"


class Server(ThreadingHTTPServer):
    """It says what a test gives it, byte for byte, and says nothing more once it is being stopped."""

    status, headers, body = 200, {"Content-Type": "application/json"}, b""
    endless = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.stopping = threading.Event()
        self.sent_bytes = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def _any(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.server.body)
        try:
            while self.server.endless and not self.server.stopping.wait(0.01):
                self.server.sent_bytes += self.wfile.write(b" " * 2**20)
        except OSError:
            return  # it has hung up, which is what is wanted

    do_GET = do_POST = _any  # noqa: N815

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        """Quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield made
    finally:
        made.stopping.set()
        made.shutdown()
        made.server_close()
        thread.join()


@pytest.fixture
def validator(server: Server) -> Iterator[Validator]:
    with Validator(server.url) as made:
        yield made


BROKEN: list[tuple[str, bytes, str]] = [
    ("nested too deeply", b'{"netuid": ' + b"[" * 200_000, "application/json"),
    ("not UTF-8", b'{"code": "\xff", "detail": "\xff"}', "application/json"),
    ("half a character", b'{"code": "\\ud800", "detail": ""}', "application/json"),
    ("an encoding that is none of text", b"zz", "text/plain; charset=base64"),
    ("an encoding of names", b"zz..", "text/plain; charset=idna"),
    ("nothing", b"", "application/json"),
]


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize(("body", "kind"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_an_answer_that_cannot_be_read_is_told(
    server: Server, validator: Validator, body: bytes, kind: str, status: int
) -> None:
    server.status, server.body, server.headers = status, body, {"Content-Type": kind}
    with pytest.raises(Refused) as refused:
        validator.info()
    assert refused.value.code == "unknown_answer"


@pytest.mark.parametrize("status", [200, 400, 503])
def test_an_answer_without_an_end_is_left(
    server: Server, validator: Validator, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(validator_client, "MOST_ANSWER_BYTES", 2**21)
    server.status, server.endless = status, True
    with pytest.raises(Away, match="more than 2,097,152 bytes"):
        validator.info()


def test_an_answer_that_trickles_is_left(server: Server, validator: Validator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validator_client, "MOST_ANSWER_BYTES", 2**40)
    monkeypatch.setattr(validator_client, "REQUEST_SECONDS", 0.2)
    server.endless = True
    begun = time.monotonic()
    with pytest.raises(Away, match="did not end"):
        validator.info()
    assert time.monotonic() - begun < 5.0


@pytest.mark.parametrize("url", [f"http://{'a' * 70}", "http://a..b", "http://xn--a", "file:///etc/passwd"])
def test_an_address_that_is_none_is_told(validator: Validator, url: str) -> None:
    with pytest.raises(Away, match="does not answer"):
        validator.leaderboard(url)


def legible(text: str) -> bool:
    return text.replace("\n", "").isprintable()


def submission(**changes: str) -> dict[str, Any]:
    return {
        "submission_id": "s",
        "miner_hotkey": HOTKEY,
        "code_hash": "c",
        "status": "error",
        "created_at": "2026-01-02T03:04:05Z",
    } | changes


def test_no_answer_reaches_the_terminal_as_a_command(server: Server, validator: Validator) -> None:
    """It could hide what is asked, or type for the person. The text may be another miner's: an exception's."""
    server.body = msgspec.json.encode(submission(error_message=f"crashed: {ESCAPES}\nsecond line"))
    found = validator.submission(server.url, "s")
    assert found.error_message is not None
    assert legible(found.error_message)
    assert found.error_message.endswith("\nsecond line")
    server.status, server.body = 402, msgspec.json.encode({"code": ESCAPES, "detail": ESCAPES * 1000})
    with pytest.raises(Refused) as refused:
        validator.info()
    assert legible(refused.value.code + refused.value.detail)
    assert len(refused.value.code + refused.value.detail) < 5000
    server.body = ESCAPES.encode()
    with pytest.raises(Refused) as refused:
        validator.info()
    assert legible(refused.value.detail)


def test_no_answer_is_markup(capsys: pytest.CaptureFixture[str]) -> None:
    """An unopened tag ended the command with a traceback; an opened one made links."""
    name = "[/red][link=https://elsewhere]:smile:"
    row = Row(rank=1, submission_id=name, miner_hotkey=name, final_score=1.0, num_evaluations=1, created_at=name)
    render.leaderboard([row])
    assert capsys.readouterr().out.count(name) == 2
    found = msgspec.convert(submission(submission_id=name), validator_client.Submission)
    render.submissions([found])
    assert name in capsys.readouterr().out


FORGED: list[tuple[str, Callable[[Validator], object], Any]] = [
    (
        "a submission's id that is a shell command",
        lambda validator: validator.submit_unpaid(b"", miner_hotkey=HOTKEY),
        {"submission_id": "; rm -r ~", "status_url": "http://x"},
    ),
    (
        "a credit that is somebody's transfer",
        lambda validator: validator.credits(validator.url, miner_hotkey=HOTKEY),
        [{"credit_id": "c", "reference": f"0x{'a' * 64}-2", "miner_hotkey": HOTKEY, "submission_id": "s"}],
    ),
    (
        "a credit that nobody can sign",
        lambda validator: validator.credits(validator.url, miner_hotkey=HOTKEY),
        [{"credit_id": "c", "reference": "credit:é", "miner_hotkey": HOTKEY, "submission_id": "s"}],
    ),
]


@pytest.mark.parametrize(("ask", "answer"), [row[1:] for row in FORGED], ids=[row[0] for row in FORGED])
def test_what_cannot_be_is_not_gone_on_with(
    server: Server, validator: Validator, ask: Callable[[Validator], object], answer: Any
) -> None:
    server.body = msgspec.json.encode(answer)
    with pytest.raises(Refused, match="no validator of this release"):
        ask(validator)
