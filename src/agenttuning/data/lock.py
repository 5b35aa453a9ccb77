"""The lock file of the data cards: the commit that a branch or tag of a Hub source was resolved to."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from agenttuning.data.reach import reach_hub
from agenttuning.data.sources import SourceCard, local_path
from agenttuning.errors import UserError

LOCK = "lock.json"  # beside the cards


def pin(
    card: SourceCard,
    path: str | Path | None = None,
    known: str | None = None,
    lock: Path | None = None,
    repo_type: str = "dataset",
) -> SourceCard:
    """The card with its revision resolved to a commit, so that what is recorded is what is read.

    `lock` is a lock file: what it says of this Hub id and revision is used without asking the Hub, and a commit that
    the Hub gives is written to it. `repo_type` is dataset, space or model. `known` is the commit of an earlier
    preparation, kept when the Hub cannot be asked.
    """
    if local_path(card, path) is not None:
        return card
    if is_commit(revision := locked_revision(card, lock)):
        return replace(card, revision=revision)
    from huggingface_hub import HfApi

    try:
        asked = {"dataset": HfApi().dataset_info, "space": HfApi().space_info, "model": HfApi().model_info}[repo_type]
        commit = reach_hub(card, lambda hub_id: asked(hub_id, revision=card.revision).sha)
        if lock:
            _write_lock(lock, card, commit)
    except UserError:
        if known is None:
            raise
        print(
            f"the Hub was not asked about {card.hub_id}: keeping commit {known} of the earlier preparation",
            file=sys.stderr,
        )
        commit = known
    return replace(card, revision=commit)


def locked_revision(card: SourceCard, lock: Path | None) -> str:
    """The revision that is read of a Hub source: its commit in the lock file, else what the card says. Raises UserError
    for a damaged lock file, which is not read where the card names a commit itself.
    """
    if lock is None or is_commit(card.revision):
        return card.revision
    entry = read_lock(lock).get(card.name, {})
    same = (entry.get("hub_id"), entry.get("revision")) == (card.hub_id, card.revision)
    return entry["commit"] if same else card.revision


def read_lock(lock: Path) -> dict:
    """The content of a lock file, {card: {"hub_id", "revision", "commit"}}; {} where there is none. Raises UserError
    for a damaged one, which would let the data change unseen.
    """
    if not lock.exists():
        return {}
    try:
        content = json.loads(lock.read_text(encoding="utf-8"))
        if all(is_commit(entry["commit"]) for entry in content.values()):
            return content
        raise ValueError("an entry has no full commit hash")
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"{lock} cannot be read: {error}; the sources could be read at other commits than before; restore it, or "
            f"delete it to resolve the revisions anew"
        ) from error


def _write_lock(lock: Path, card: SourceCard, commit: str) -> None:
    entry = {"hub_id": card.hub_id, "revision": card.revision, "commit": commit}
    content = dict(sorted({**read_lock(lock), card.name: entry}.items()))
    partial = lock.with_name(f"{lock.name}.{os.getpid()}.tmp")
    try:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        partial.replace(lock)
    except OSError as error:
        print(f"{lock} was not written ({error}); the next build may read another commit", file=sys.stderr)
        return
    print(
        f"{card.name}: revision {card.revision} of {card.hub_id} is commit {commit}; written to {lock}, which later "
        f"builds use; delete its entry to ask the Hub again",
        file=sys.stderr,
    )


def is_commit(revision: str) -> bool:
    """Whether a revision is a full commit hash, which names one state of a repository for ever."""
    return len(revision) == 40 and set(revision) <= set("0123456789abcdef")
