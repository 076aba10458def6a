"""Reads a multipart request into a file and the fields beside it. It never holds or parses more than the allowed bytes,
nor waits for ever for them.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from shared import ss58
from shared.http import Problem

ENVELOPE_BYTES = 16_384
"""What a body may have beside the file: boundaries, part headers, the other fields."""
BODY_SECONDS = 30.0
MAX_PARTS = 16
"""More are not even counted."""

FREE_FIELDS = ("file", "miner_hotkey")
PAID_FIELDS = (*FREE_FIELDS, "payment", "signed_at", "signature")


def _text(description: str, example: str) -> dict[str, Any]:
    return {"type": "string", "description": description, "examples": [example]}


SCHEMA = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": list(FREE_FIELDS),
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "The train.py: UTF-8 Python with a top-level `inner_steps`.",
                        },
                        "miner_hotkey": _text(
                            "The SS58 address of the hotkey that the reward goes to.",
                            "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY",
                        ),
                        "payment": _text(
                            "Where payments are taken, with the two below: `<block hash>-<extrinsic index>` of the "
                            "transfer, or `credit:<id>`.",
                            f"0x{'6f' * 32}-2",
                        ),
                        "signed_at": _text("Unix time of the signature, whole seconds.", "1767323045"),
                        "signature": _text(
                            "Of the hotkey, sr25519, over the message in docs/api.md: 0x and 128 hex digits.",
                            f"0x{'5e' * 64}",
                        ),
                    },
                }
            }
        },
    }
}
"""The body in OpenAPI: FastAPI cannot derive it, because it would have parsed the body before it was measured."""


class BodyTooLarge(Problem):
    """More than is accepted. The rest of the body is not read, so the connection cannot be used again."""

    def __init__(self, max_bytes: int) -> None:
        detail = f"the request has more than {max_bytes:,} bytes; send one train.py and the fields for it, nothing else"
        super().__init__(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_large", detail)


@dataclass(frozen=True, kw_only=True)
class Upload:
    """As it was sent; only the hotkey is checked. The last three are empty where no payments are taken."""

    source: bytes
    miner_hotkey: str
    payment: str = ""
    signed_at: str = ""
    signature: str = ""


async def read(request: Request, *, max_code_bytes: int, paid: bool) -> Upload:
    """The fields of a submission. What the file contains is not looked at.

    Raises:
        Problem: too large, too slow, or not exactly one of each field and a Bittensor address.
    """
    # The body is read to its end before anything is said about it: an answer in the middle of a body may get lost.
    body = await _body(request, max_bytes=max_code_bytes + ENVELOPE_BYTES)
    async with _form(request, body) as fields:
        names = [name for name, _ in fields]
        wanted = PAID_FIELDS if paid else FREE_FIELDS
        if sorted(names) != sorted(wanted):
            raise _invalid(_wanted(names, paid=paid))
        values = dict(fields)
        file = values.pop("file")
        if not isinstance(file, UploadFile):
            raise _invalid("file must be sent as a file, with a name: curl -F file=@train.py")
        texts = {name: value for name, value in values.items() if isinstance(value, str)}
        for name in values.keys() - texts.keys():
            raise _invalid(f"{name} must be sent as text: curl -F {name}=…")
        try:
            ss58.check(texts["miner_hotkey"])
        except ss58.InvalidAddress as error:
            raise _invalid(f"miner_hotkey cannot be used: {error}") from None
        return Upload(source=await file.read(), **texts)


def _wanted(names: list[str], *, paid: bool) -> str:
    received = f"received: {', '.join(names) or 'nothing'}"
    if paid:
        return (
            "this validator takes payments: send one file, miner_hotkey, payment, signed_at and signature, nothing "
            f"else; {received}"
        )
    return f"send one file and one miner_hotkey, nothing else; {received}"


async def _body(request: Request, *, max_bytes: int) -> bytes:
    if int(request.headers.get("content-length", "0")) > max_bytes:
        raise BodyTooLarge(max_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise BodyTooLarge(max_bytes)
    except TimeoutError:
        detail = f"the request did not arrive within {BODY_SECONDS:g} s; send it again over a faster connection"
        raise Problem(HTTPStatus.REQUEST_TIMEOUT, "request_timeout", detail, headers={"Connection": "close"}) from None
    except ClientDisconnect:
        raise Problem(HTTPStatus.BAD_REQUEST, "bad_request", "the request ended before its body") from None
    return bytes(body)


@contextlib.asynccontextmanager
async def _form(request: Request, body: bytes) -> AsyncIterator[list[tuple[str, UploadFile | str]]]:
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise _invalid("the content type must be multipart/form-data: curl -F file=@train.py -F miner_hotkey=5…")

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    measured = Request(request.scope, receive)
    try:
        async with measured.form(max_files=MAX_PARTS, max_fields=MAX_PARTS, max_part_size=len(body)) as form:
            yield form.multi_items()
    except HTTPException as error:
        raise _invalid(f"the body is no multipart form: {error.detail}") from None


def _invalid(detail: str) -> Problem:
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", detail)
