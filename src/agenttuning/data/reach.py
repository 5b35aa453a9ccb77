"""One question to the Hub about a card's repository, and one message where it cannot be answered."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from agenttuning.errors import UserError
from agenttuning.hiding import first_line

if TYPE_CHECKING:
    from agenttuning.data.sources import SourceCard

Result = TypeVar("Result")


def reach_hub(card: SourceCard, action: Callable[[str], Result]) -> Result:
    """`action` with the card's Hub id, or where no repository has that name, with a former one. Raises UserError."""
    try:
        return action(card.hub_id)
    except Exception as error:
        for former in (card.former_hub_ids or []) if _is_missing(error) else []:
            try:
                result = action(former)
            except Exception:  # the error worth telling is that of the present name
                continue
            print(
                f"{card.hub_id} is not on this Hub; {card.name} is read as {former}, its former name", file=sys.stderr
            )
            return result
        # The Hub client lets its HTTP library's exceptions through, and which library that is changes between releases.
        first = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(
            f"the Hub dataset {card.hub_id} (revision {card.revision}) cannot be read: {first}; the source "
            f"{card.name} would be missing; "
            f"{_advice(card, error)}, or give a local copy with --data {card.name}=FOLDER"
        ) from error


def _is_gated(error: BaseException) -> bool:
    from huggingface_hub.errors import GatedRepoError

    return isinstance(error, GatedRepoError) or isinstance(error.__cause__, GatedRepoError)


def _is_missing(error: BaseException) -> bool:
    """Whether the Hub answered that there is no such repository. A gated one is there; so is one that is offline."""
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import RepositoryNotFoundError

    return isinstance(error, RepositoryNotFoundError | DatasetNotFoundError) and not _is_gated(error)


def _advice(card: SourceCard, error: BaseException) -> str:
    if _is_gated(error):
        page = f"https://huggingface.co/datasets/{card.hub_id}"
        return f"it is gated: accept its terms at {page} and run `hf auth login`"
    if _is_missing(error):
        return "no repository has this name: it was moved, removed or made private; correct the card's hub_id"
    return "connect"
