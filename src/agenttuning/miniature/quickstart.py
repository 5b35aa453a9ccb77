"""The miniature's verbs `base`, `ablation` and `quickstart`. Their parts exist; the runs that join them do not yet."""

from __future__ import annotations

from agenttuning.errors import UserError


def _unfinished(verb: str) -> UserError:
    return UserError(
        f"`{verb}` is not finished in this version: the miniature does not yet reach the scores it is meant "
        "to show, so nothing would be worth reporting; docs/notes/miniature.md says what is known; "
        "`make test` and `make plan-13b` work"
    )


def base(path: str) -> None:
    """Would make the tiny base model of the recipe folder `path`. Raises UserError: not finished."""
    raise _unfinished("base")


def ablation(path: str) -> None:
    """Would train and judge agent-only, general-only and mixed. Raises UserError: not finished."""
    raise _unfinished("ablation")


def quickstart(path: str) -> None:
    """Would run the whole method. Raises UserError: not finished."""
    raise _unfinished("quickstart")
