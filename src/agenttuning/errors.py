"""The exceptions that a person is meant to see, and the word that may have been meant."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """What was seen; what it would have done to you; what to do. The CLI prints it without a traceback and exits 2."""


class Stopped(Exception):
    """A signal ended a run that saved first and can go on. The CLI exits with 128 + its number, as shells have it."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}")
        self.status = 128 + number


def nearest(word: str, known: Iterable[str]) -> str:
    """The closest known word, as a clause for an error message."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean `{close[0]}`?" if close else f"known: {', '.join(known[:40])}"
