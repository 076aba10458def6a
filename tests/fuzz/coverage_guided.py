"""Coverage-guided fuzzing of the controller's end of the protocol: `just fuzz`. atheris is not in the lock.

An input says how much of an honest session comes first, so that late frames are reached, and then what frames follow:
well-formed ones, ones whose header lies about the length, and bytes.
A crash is any exception that is not a declared outcome; atheris writes the input that caused it.
"""

import sys

import atheris

with atheris.instrument_imports(include=["sandbox.protocol", "services.evaluator.controller"]):
    from sandbox.protocol import HEADER, MAGIC, RETURNED, VERSION, Kind
    from tests.fuzz.exchange import HONEST, scripted


def one(data: bytes) -> None:
    """Play one input."""
    choices = atheris.FuzzedDataProvider(data)
    sent = list(HONEST[: choices.ConsumeIntInRange(0, len(HONEST))])
    for _ in range(choices.ConsumeIntInRange(1, 4)):
        kind = choices.ConsumeIntInRange(0, 30)
        match choices.ConsumeIntInRange(0, 3):
            case 0:
                payload = choices.ConsumeBytes(choices.ConsumeIntInRange(0, 9000))
                sent.append(HEADER.pack(MAGIC, VERSION, kind, 0, len(payload)) + payload)
            case 1:
                sent.append(HEADER.pack(MAGIC, VERSION, kind, 0, choices.ConsumeInt(8) % 2**64))
            case 2:
                payload = choices.ConsumeBytes(RETURNED.size).ljust(RETURNED.size, b"\0")
                sent.append(HEADER.pack(MAGIC, VERSION, Kind.RETURNED, 0, len(payload)) + payload)
            case _:
                sent.append(choices.ConsumeBytes(200))
    scripted(b"".join(sent), chunk=choices.ConsumeIntInRange(1, 5000))


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
