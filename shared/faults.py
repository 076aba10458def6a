"""The three ways in which work fails here: poison, transient fault, and (everything else) a bug.

A miner's failure is none of them: it is an ordinary outcome, a `Failure` code in an event.
"""

from enum import StrEnum


class PoisonMessage(Exception):
    """This message can never be handled, however often it is delivered. It is dead-lettered at once."""


class TransientFault(Exception):
    """Something of ours is gone or busy (server, engine, disk). The message is delivered again later."""


class Conflict(Exception):
    """Another writer decided first. Load the aggregate again and decide again."""


class Superseded(Exception):
    """Another replica has taken the message in hand over. It is left unanswered: the server would take whatever is said
    about it, even an ack, for the word of its new holder.
    """


class UnknownEvent(Exception):
    """The stream holds a type or version that this code does not know; a newer release wrote it."""


class Failure(StrEnum):
    """Why a submission failed. Stable codes, part of the contract with miners.

    The validator's own faults are not among them: those are retried, then given up as `EvaluationAbandoned`.
    """

    INVALID_SUBMISSION = "invalid_submission"
    CRASHED = "crashed"
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    RESOURCE_LIMIT = "resource_limit"
    TOKEN_COUNT_MISMATCH = "token_count_mismatch"
    OUTPUT_MISMATCH = "output_mismatch"
    NON_FINITE_OUTPUT = "non_finite_output"
    MALFORMED_OUTPUT = "malformed_output"
    TRAINING_MISMATCH = "training_mismatch"
    PROTOCOL_VIOLATION = "protocol_violation"


class Refusal(StrEnum):
    """Why a payment buys no submission. Stable codes, part of the contract with miners.

    A payment that cannot be checked yet is not refused: it waits.
    """

    NOT_FOUND = "payment_not_found"
    ORPHANED = "payment_orphaned"
    FAILED = "payment_failed"
    NOT_A_TRANSFER = "payment_not_a_transfer"
    WRONG_RECIPIENT = "payment_wrong_recipient"
    TOO_SMALL = "payment_too_small"
    TOO_OLD = "payment_too_old"
    WRONG_PAYER = "payment_wrong_payer"
    ALREADY_USED = "payment_already_used"
    HOTKEY_NOT_REGISTERED = "hotkey_not_registered"
    NO_SUCH_CREDIT = "credit_not_found"
