"""What arrives over HTTP: exactly the fields that belong there, never more bytes than allowed, never for ever."""

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Message

from services.ingest import upload
from services.ingest.upload import Upload
from shared.http import Problem
from tests.support.stories import ALICE

MAX_CODE_BYTES = 4096
LIMIT = MAX_CODE_BYTES + upload.ENVELOPE_BYTES
POLKADOT = "15oF4uVJwmo4TdGW7VfQxNLavjCXviqxT9S1MgbjMNHr6Sp5"

Parts = Sequence[tuple[str, Any]]


class Client:
    """Sends a body in pieces, then stalls or goes away, and remembers how many were taken."""

    def __init__(self, headers: dict[str, str], pieces: list[bytes], *, end: str = "ends") -> None:
        self.headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        self.pieces = pieces
        self.end = end
        self.taken = 0

    def request(self) -> Request:
        scope = {"type": "http", "method": "POST", "path": "/submissions", "headers": self.headers, "app": None}
        return Request(scope, self._receive)

    async def _receive(self) -> Message:
        if self.taken == len(self.pieces):
            if self.end == "disconnects":
                return {"type": "http.disconnect"}
            await asyncio.Event().wait()
        self.taken += 1
        more = self.taken < len(self.pieces) or self.end != "ends"
        return {"type": "http.request", "body": self.pieces[self.taken - 1], "more_body": more}


def form(parts: Parts) -> httpx.Request:
    return httpx.Request("POST", "http://ingest/submissions", files=list(parts))


def sent(parts: Parts) -> Client:
    request = form(parts)
    return Client({"content-type": request.headers["content-type"]}, [request.read()])


async def read(client: Client, *, paid: bool = False) -> Upload:
    return await upload.read(client.request(), max_code_bytes=MAX_CODE_BYTES, paid=paid)


async def refusal(client: Client, *, paid: bool = False) -> Problem:
    with pytest.raises(Problem) as caught:
        await read(client, paid=paid)
    return caught.value


FILE = ("file", ("train.py", b"def inner_steps(): ..."))
HOTKEY = ("miner_hotkey", (None, ALICE))


async def test_both_orders() -> None:
    expected = Upload(source=b"def inner_steps(): ...", miner_hotkey=ALICE)
    assert await read(sent([FILE, HOTKEY])) == expected
    assert await read(sent([HOTKEY, FILE])) == expected


@given(source=st.binary(max_size=2000), cuts=st.lists(st.integers(0, 2500), max_size=20))
async def test_the_file_arrives_byte_for_byte_however_it_is_cut(source: bytes, cuts: list[int]) -> None:
    request = form([("file", ("t.py", source)), HOTKEY])
    body = request.read()
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    pieces = [body[start:end] for start, end in itertools.pairwise(edges)]
    received = await read(Client({"content-type": request.headers["content-type"]}, pieces))
    assert received == Upload(source=source, miner_hotkey=ALICE)


@given(
    body=st.binary(max_size=500),
    head=st.sampled_from([b"", b"--b\r\n", b"--b\r\nContent-Disposition: form-data; name="]),
)
async def test_any_other_body_is_an_invalid_request(body: bytes, head: bytes) -> None:
    problem = await refusal(Client({"content-type": "multipart/form-data; boundary=b"}, [head + body]))
    assert (problem.status, problem.code) == (422, "invalid_request")


INVALID: list[tuple[str, Parts, str]] = [
    ("nothing", [("x", (None, "1"))], "received: x"),
    ("no file", [HOTKEY], "received: miner_hotkey"),
    ("no hotkey", [FILE], "received: file"),
    ("two files", [FILE, FILE, HOTKEY], "received: file, file, miner_hotkey"),
    ("two files of different names", [FILE, ("file2", FILE[1]), HOTKEY], "nothing else; received: file, file2"),
    ("two hotkeys", [FILE, HOTKEY, HOTKEY], "received: file, miner_hotkey, miner_hotkey"),
    ("a field too many", [FILE, HOTKEY, ("signature", (None, "x"))], "received: file, miner_hotkey, signature"),
    ("a hundred files", [FILE] * 100, "Too many files"),
    ("the file as text", [("file", (None, "def inner_steps(): ...")), HOTKEY], "curl -F file=@train.py"),
    ("a long file as text", [("file", (None, "#" * MAX_CODE_BYTES)), HOTKEY], "curl -F file=@train.py"),
    ("the hotkey as a file", [FILE, ("miner_hotkey", ("h", ALICE))], "miner_hotkey must be sent as text"),
    ("an empty hotkey", [FILE, ("miner_hotkey", (None, ""))], "for an SS58 address"),
    ("a mistyped hotkey", [FILE, ("miner_hotkey", (None, ALICE[:-1] + "Z"))], "its checksum is wrong"),
    ("another network's address", [FILE, ("miner_hotkey", (None, POLKADOT))], r"another network \(prefix 0\)"),
]


@pytest.mark.parametrize(("why", "parts", "detail"), INVALID, ids=[row[0] for row in INVALID])
async def test_what_is_not_one_file_and_one_hotkey_is_refused(why: str, parts: Parts, detail: str) -> None:
    problem = await refusal(sent(parts))
    assert (problem.status, problem.code) == (422, "invalid_request"), why
    with pytest.raises(Problem, match=detail):
        raise problem


PROOF = [(name, (None, name.upper())) for name in ("payment", "signed_at", "signature")]


async def test_where_payments_are_taken_a_submission_has_three_more_fields() -> None:
    expected = Upload(
        source=b"def inner_steps(): ...",
        miner_hotkey=ALICE,
        payment="PAYMENT",
        signed_at="SIGNED_AT",
        signature="SIGNATURE",
    )
    assert await read(sent([FILE, HOTKEY, *PROOF]), paid=True) == expected
    assert await read(sent([*reversed(PROOF), HOTKEY, FILE]), paid=True) == expected


@pytest.mark.parametrize(
    ("why", "parts"),
    [
        ("unpaid", [FILE, HOTKEY]),
        *((f"no {name}", [FILE, HOTKEY, *(part for part in PROOF if part[0] != name)]) for name, _ in PROOF),
        *((f"two of {part[0]}", [FILE, HOTKEY, *PROOF, part]) for part in PROOF),
        ("a field too many", [FILE, HOTKEY, *PROOF, ("tip", (None, "1"))]),
    ],
)
async def test_where_payments_are_taken_it_has_each_of_them_once(why: str, parts: Parts) -> None:
    problem = await refusal(sent(parts), paid=True)
    assert (problem.status, problem.code) == (422, "invalid_request"), why
    assert "this validator takes payments: send one file, miner_hotkey, payment, signed_at" in problem.detail
    assert problem.detail.endswith(f"received: {', '.join(name for name, _ in parts)}")


@pytest.mark.parametrize("name", ["miner_hotkey", "payment", "signed_at", "signature"])
async def test_no_text_is_sent_as_a_file(name: str) -> None:
    parts = [FILE, *((part[0], (part[0], part[1][1]) if part[0] == name else part[1]) for part in [HOTKEY, *PROOF])]
    problem = await refusal(sent(parts), paid=True)
    assert (problem.status, problem.code) == (422, "invalid_request")
    assert f"{name} must be sent as text" in problem.detail


async def test_where_nothing_is_paid_no_payment_is_taken() -> None:
    problem = await refusal(sent([FILE, HOTKEY, *PROOF]))
    assert problem.detail.startswith("send one file and one miner_hotkey, nothing else; received: file, miner_hotkey, ")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "application/json"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "multipart/form-data"},
        {"content-type": "multipart/form-data; boundary="},
        {"content-type": "multipart/form-data; boundary=" + "b" * 300},
        {"content-type": "multipart/form-data; boundary=other"},
        {"content-type": "multipart/mixed; boundary=b"},
    ],
)
async def test_other_content_types_are_refused(headers: dict[str, str]) -> None:
    problem = await refusal(Client(headers, [form([FILE, HOTKEY]).read()]))
    assert (problem.status, problem.code) == (422, "invalid_request")


async def test_a_body_that_says_that_it_is_too_large_is_not_read() -> None:
    client = Client({"content-type": "multipart/form-data; boundary=b", "content-length": str(LIMIT + 1)}, [b"x"])
    problem = await refusal(client)
    assert (problem.status, problem.code, client.taken) == (413, "body_too_large", 0)


async def test_a_body_that_does_not_say_so_is_read_up_to_the_limit() -> None:
    client = Client({"content-type": "multipart/form-data; boundary=b"}, [b"x" * 1024] * 1000)
    problem = await refusal(client)
    assert (problem.status, problem.code) == (413, "body_too_large")
    assert client.taken == LIMIT // 1024 + 1


async def test_the_largest_file_fits_and_one_byte_more_is_left_to_the_check() -> None:
    for size in (MAX_CODE_BYTES, MAX_CODE_BYTES + 1):
        received = await read(sent([("file", ("train.py", b"#" * size)), HOTKEY]))
        assert len(received.source) == size


async def test_a_body_that_does_not_come_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "BODY_SECONDS", 0.05)
    problem = await refusal(Client({"content-type": "multipart/form-data; boundary=b"}, [b"--b"], end="stalls"))
    assert (problem.status, problem.code, problem.headers) == (408, "request_timeout", {"Connection": "close"})


async def test_a_client_that_goes_away_is_no_fault_of_the_server() -> None:
    problem = await refusal(Client({"content-type": "multipart/form-data; boundary=b"}, [b"--b"], end="disconnects"))
    assert (problem.status, problem.code) == (400, "bad_request")
