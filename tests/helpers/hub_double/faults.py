"""What can go wrong on the way, scripted and the same in each run."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong with one request.

    status, headers, body: answer this, and do nothing. cut: reset the connection after so many bytes of the request's
    body. hang: seconds without an answer, before the work. late: do the work, then close without an answer. truncate:
    do the work, send so many bytes of the answer's body, close. replace: headers of a good answer to change.
    """

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    cut: int | None = None
    hang: float = 0.0
    late: bool = False
    truncate: int | None = None
    replace: dict[str, str] = field(default_factory=dict)


def as_fault(failure: int | str | Fault | None) -> Fault:
    """The short forms: a status, "die" (closed before the work), "late" (closed after it)."""
    if isinstance(failure, Fault):
        return failure
    if isinstance(failure, int):
        return Fault(status=failure)
    return {None: Fault(), "die": Fault(cut=0), "late": Fault(late=True)}[failure]


def first(times: int, part: str, failure: int | str | Fault, method: str | None = None) -> Callable:
    """A `hub.fail`: the first `times` requests whose path contains `part` (and of that method) fail so."""
    return later(0, times, part, failure, method)


def later(skip: int, times: int, part: str, failure: int | str | Fault, method: str | None = None) -> Callable:
    """A `hub.fail`: of the requests whose path contains `part`, the first `skip` pass, `times` fail, the rest pass."""
    number = itertools.count()

    def fail(asked: str, path: str) -> int | str | Fault | None:
        if part not in path or method not in (None, asked):
            return None
        return failure if skip <= next(number) < skip + times else None

    return fail
