"""What every submitted file must be before anything is started for it. Static: the code is parsed, never run.

This is no security check. It only spares the miner a paid run that cannot succeed.
"""

import ast
import codecs
import warnings


class InvalidSubmission(Exception):
    """The file cannot be a submission. The message says what is wrong and what to do."""


def check_source(source: bytes, *, max_bytes: int) -> None:
    """Accept a file that is UTF-8 Python with a top-level `inner_steps`; BOM and CRLF are fine.

    Raises:
        InvalidSubmission: empty, too large, not UTF-8, a NUL byte, a syntax error, or no `inner_steps`.
    """
    if len(source) > max_bytes:
        raise InvalidSubmission(f"the file has {len(source):,} bytes; at most {max_bytes:,} are accepted")
    try:
        text = source.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidSubmission(
            f"the file is not UTF-8: byte {error.start} cannot be decoded; save it as UTF-8"
        ) from None
    if not text.strip():
        raise InvalidSubmission(
            "the file is empty; it must define inner_steps(model, data_iterator, optimizer, num_steps, device)"
        )
    if "\0" in text:
        raise InvalidSubmission("the file contains a NUL byte; it must be plain Python text")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except SyntaxError as error:
        raise InvalidSubmission(f"syntax error in line {error.lineno}: {error.msg}") from None
    except (RecursionError, MemoryError, ValueError):
        raise InvalidSubmission("the file is nested too deeply to be parsed") from None
    if not any(_binds(statement, "inner_steps") for statement in tree.body):
        raise InvalidSubmission(
            "the file has no top-level inner_steps; define inner_steps(model, data_iterator, optimizer, num_steps, device)"
        )


def _binds(statement: ast.AST, name: str) -> bool:
    """Whether running the statement at module level can bind the name (without looking into functions and classes)."""
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return statement.name == name
        case ast.Import() | ast.ImportFrom():
            return any((alias.asname or alias.name) in (name, "*") for alias in statement.names)
        case ast.Name(ctx=ast.Store()):
            return statement.id == name
        case ast.Lambda():
            return False
        case _:
            return any(_binds(child, name) for child in ast.iter_child_nodes(statement))
