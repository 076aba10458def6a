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
    if not _binds(tree, "inner_steps"):
        raise InvalidSubmission(
            "the file has no top-level inner_steps; "
            "define inner_steps(model, data_iterator, optimizer, num_steps, device)"
        )


def _binds(tree: ast.Module, name: str) -> bool:
    """Whether running the module can bind the name at its top level (without looking into functions and classes).

    It does not recurse: a file may nest more deeply than this process may.
    """
    waiting: list[ast.AST] = [tree]
    while waiting:
        match node := waiting.pop():
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                bound = node.name == name
            case ast.Import() | ast.ImportFrom():
                bound = any((alias.asname or alias.name) in (name, "*") for alias in node.names)
            case ast.Name(ctx=ast.Store()):
                bound = node.id == name
            case ast.Lambda():
                bound = False
            case _:
                bound = isinstance(node, ast.MatchAs) and node.name == name
                waiting.extend(ast.iter_child_nodes(node))
        if bound:
            return True
    return False
