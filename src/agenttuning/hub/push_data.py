"""push-data: a built dataset to the Hub, in one commit or none, after everything that can be checked here was.

Nothing is sent before the card is complete, every licence allows it, and no row holds what looks like a secret. The
upload is one commit on top of the state that was seen, so that a failure leaves the repository as it was; files that
arrived already are not sent again, and where nothing changed there is no commit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning.errors import UserError
from agenttuning.hub import card, check, folder, secrets
from agenttuning.hub.staged import Staged, check_ids
from agenttuning.hub.upload import upload

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from agenttuning.data.prepare import Prepared
    from agenttuning.recipe import Recipe

STAGED = "hub/data"


def push_data(
    recipe: Recipe, data_paths: Mapping[str, str | Path], reviewed: str | Path | None = None, dry: bool = False
) -> str | None:
    """Upload the mixture of `recipe` to the dataset repository `publish.hub_dataset_id` and return its commit; None
    with `dry`, which writes <run_dir>/hub/data and stops.

    The mixture is prepared in <run_dir>/data if it is not there yet. `reviewed` is a file of findings (lines of the
    secrets.jsonl that a refusal writes) that you looked at and want to publish. Raises UserError for whatever keeps the
    data from being pushed, and what `data.prepare.prepare` raises.
    """
    staged = stage(recipe, data_paths, secrets.reviewed(reviewed))
    if dry:
        print(f"written, not sent: {staged.folder} (for {staged.repository})", flush=True)
        return None
    done = send(staged, recipe.publish.private)
    return done.commit


def send(staged: Staged, private: bool):
    """Upload what was staged and say where it is. Raises what `upload` raises."""
    done = upload(
        staged.folder, staged.repository, private, staged.message,
        repo_type=staged.repo_type, owned=staged.owned, tag=staged.tag, move_tag=staged.tag is not None,
    )  # fmt: skip
    what = f"commit {done.commit}" if done.changed else f"nothing changed, no commit (it is at {done.commit})"
    print(f"{done.url} ({'private' if private else 'public'}): {what}", flush=True)
    return done


def stage(recipe: Recipe, data_paths: Mapping[str, str | Path], cleared: set[secrets.Finding]) -> Staged:
    """The folder <run_dir>/hub/data, checked and ready to be sent. Raises UserError as `push_data` does."""
    from agenttuning.chat import load_for
    from agenttuning.data.prepare import prepare

    sources = checked(recipe)
    tokenizer = load_for(recipe)
    prepared = prepare(recipe, tokenizer, recipe.run_dir / "data", data_paths)
    text = _searched(recipe, prepared, tokenizer, sources, set(data_paths), cleared)
    staged = folder.stage(prepared, text, recipe.run_dir / STAGED)
    check.folder(staged, check.DATA_FILES)
    message = f"Data of {recipe.name}, key {prepared.key[:16]}"
    owns = f"{folder.ROWS_PATTERN}, {', '.join(folder.RECORDS)}"
    return Staged("data", staged, recipe.publish.hub_dataset_id, "dataset", message, folder.owned, owns)


def checked(recipe: Recipe) -> dict[str, card.Described]:
    """The sources, described. Raises UserError with everything that is missing, at once."""
    found = check_ids([("publish.hub_dataset_id", recipe.publish.hub_dataset_id)])
    sources = card.describe(recipe)
    found += card.problems(recipe, sources)
    if found:
        lines = "".join(f"\n  - {line}" for line in found)
        raise UserError(f"the data of {recipe.name} is not ready to be pushed; nothing was sent to the Hub:{lines}")
    return sources


def _searched(
    recipe: Recipe,
    prepared: Prepared,
    tokenizer: PreTrainedTokenizerFast,
    sources: dict[str, card.Described],
    local: set[str],
    cleared: set[secrets.Finding],
) -> str:
    """The text of the card, once neither the rows nor the files hold a finding that was not cleared."""
    known = secrets.of_this_process()
    in_rows = list(secrets.in_rows(prepared.load(), tokenizer, known))
    text = card.write(recipe, prepared, sources, local, sum(finding in cleared for finding in in_rows))
    files = [*folder.records(prepared), (folder.CARD, text)]
    secrets.refuse([*in_rows, *secrets.in_files(files, known)], cleared, recipe.run_dir / secrets.FOUND)
    check.card(text, "dataset")
    return text
