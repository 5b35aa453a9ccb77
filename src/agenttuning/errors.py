"""The exceptions that a person is meant to see."""


class UserError(Exception):
    """What was seen; what it would have done to you; what to do. The CLI prints it without a traceback and exits 2."""


class Stopped(Exception):
    """A signal ended a run that saved first and can go on. The CLI exits with 128 + its number, as shells have it."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}")
        self.status = 128 + number
