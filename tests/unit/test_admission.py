"""What is refused before anything is started for it, and what odd but honest files must get through."""

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.admission import InvalidSubmission, check_source

MAX_BYTES = 2_000

HONEST: dict[str, bytes] = {
    "plain": b"def inner_steps(model, data, optimizer, steps, device): ...",
    "byte order mark": codecs.BOM_UTF8 + b"def inner_steps(): ...",
    "CRLF": b"import torch\r\n\r\ndef inner_steps():\r\n    return 1\r\n",
    "old Mac line ends": b"import torch\rdef inner_steps():\r    return 1\r",
    "unicode names": "def größe(): ...\ndef inner_steps(): ...".encode(),
    "unicode spelling of the same name": "def inner_step\N{MATHEMATICAL ITALIC SMALL S}(): ...".encode(),
    "coding line": b"# -*- coding: utf-8 -*-\ndef inner_steps(): ...",
    "decorated": b"import torch\n@torch.compile\ndef inner_steps(): ...",
    "assigned": b"import torch\ndef f(): ...\ninner_steps = torch.compile(f)",
    "assigned with a type": b"from typing import Any\ninner_steps: Any = print",
    "assigned among others": b"a, (inner_steps, *b) = 1, (2, 3)",
    "lambda": b"inner_steps = lambda *a: None",
    "imported as": b"from functools import partial as inner_steps",
    "imported with a star": b"from torch import *",
    "class": b"class inner_steps: ...",
    "async, which fails later with a reason": b"async def inner_steps(): ...",
    "under a condition": b"import torch\nif torch.cuda.is_available():\n    def inner_steps(): ...\n",
    "in a try": b"try:\n    import triton\nexcept ImportError:\n    def inner_steps(): ...\n",
    "in a with": b"import contextlib\nwith contextlib.nullcontext() as inner_steps: ...",
    "by a walrus": b"print(inner_steps := print)",
    "in a loop": b"for inner_steps in [print]: ...",
    "in a match": b"match 1:\n    case _:\n        def inner_steps(): ...\n",
    "by a match's capture": b"match print:\n    case inner_steps: ...\n",
    "by a match's alias": b"match print:\n    case object() as inner_steps: ...\n",
    "hasattr, super, print, exec": b"print(hasattr(1, 'a'), super)\nexec('1')\ndef inner_steps(): ...",
    "an invalid escape, which only warns": b"x = '\\d'\ndef inner_steps(): ...",
    "exactly as large as allowed": b"def inner_steps(): ...".ljust(MAX_BYTES, b"#"),
}

REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the file is empty"),
    "blank": (b" \n\t\r\n", "the file is empty"),
    "only a byte order mark": (codecs.BOM_UTF8, "the file is empty"),
    "too large": (b"#" * (MAX_BYTES + 1), "the file has 2,001 bytes; at most 2,000"),
    "Latin-1": (b"x = '\xe9'\ndef inner_steps(): ...", "not UTF-8: byte 5"),
    "UTF-16": ("def inner_steps(): ...".encode("utf-16"), "not UTF-8: byte 0"),
    "a NUL byte": (b"def inner_steps(): ...\0", "NUL byte"),
    "a syntax error": (b"x = 1\ndef inner_steps(:\n", "syntax error in line 2"),
    "an indentation error": (b"def inner_steps():\nreturn 1", "syntax error in line 2"),
    "no inner_steps": (b"def outer_steps(): ...", "no top-level inner_steps"),
    "inner_steps within a function": (b"def f():\n    def inner_steps(): ...\n", "no top-level inner_steps"),
    "inner_steps within a class": (b"class A:\n    def inner_steps(self): ...\n", "no top-level inner_steps"),
    "inner_steps only used": (b"print(inner_steps)", "no top-level inner_steps"),
    "inner_steps only as an attribute": (b"import torch\ntorch.inner_steps = 1", "no top-level inner_steps"),
    "another name for inner_steps": (b"from a import inner_steps as f", "no top-level inner_steps"),
    "inner_steps within a lambda": (b"f = lambda: (inner_steps := 1)", "no top-level inner_steps"),
    "nested too deeply": (b"x = " + b"(" * 900 + b")" * 900, "nested|too many"),
    "a long chain": (b"x = " + b"-" * 1900 + b"1", "no top-level inner_steps"),
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_files_are_accepted(name: str) -> None:
    check_source(HONEST[name], max_bytes=MAX_BYTES)


@pytest.mark.parametrize("name", REFUSED)
def test_unusable_files_are_refused_with_the_reason(name: str) -> None:
    source, reason = REFUSED[name]
    with pytest.raises(InvalidSubmission, match=reason):
        check_source(source, max_bytes=MAX_BYTES)


@given(source=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_whatever_comes_is_accepted_or_refused(source: bytes) -> None:
    try:
        check_source(source, max_bytes=100)
    except InvalidSubmission:
        return
    assert b"inner_steps" in source or b"*" in source


@pytest.mark.parametrize(
    "link", [b"-", b"[", b"not ", b"lambda:", b"1+", b"f(", b"a.", b"{1:", b"if 1:\n ", b"x=", b"@f\n"]
)
def test_no_chain_however_long_ends_this_process(link: bytes) -> None:
    with pytest.raises(InvalidSubmission):
        check_source(link * (2**18 // len(link)) + b"1", max_bytes=2**19)


def test_nothing_of_the_file_is_run() -> None:
    check_source(b"raise SystemExit('run')\ndef inner_steps(): ...", max_bytes=MAX_BYTES)
