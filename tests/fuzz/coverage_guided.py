"""Coverage-guided fuzzing of the controller's end of the protocol: `just fuzz`. atheris is not in the lock.

An input says how much of an honest session comes before its own bytes, so that late frames are reached.
A crash is any exception that is not a declared outcome; atheris writes the input that caused it.
"""

import sys

import atheris

with atheris.instrument_imports(include=["sandbox.protocol", "services.evaluator.controller"]):
    from tests.fuzz.exchange import HONEST, scripted


def one(data: bytes) -> None:
    """The first byte says how much of an honest session comes before the rest."""
    honest = data[0] % len(HONEST) if data else 0
    scripted(b"".join(HONEST[:honest]) + data[1:])


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
