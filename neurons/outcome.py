"""How the miner's commands end: the exit codes, and the exceptions that carry what the person has to do. No I/O."""

PASSED, FAILED, UNUSABLE, PAID_NOT_SUBMITTED = 0, 1, 2, 3


class Unusable(Exception):
    """The command cannot do what it was asked; no money has moved because of it. The message says what to do."""


class NotSubmitted(Exception):
    """There is a payment, and no submission for it yet. The message says why and how to go on."""

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


class Spent(Exception):
    """The validator will never take the payment. The message has its reason."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code
