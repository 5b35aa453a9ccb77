"""push-data: a built dataset to the Hub, in one commit or none, after everything that can be checked here was.

Nothing is sent before the card is complete, every licence allows it, and no row holds what looks like a secret. The
upload is one commit on top of the state that was seen, so that a failure leaves the repository as it was; files that
arrived already are not sent again, and where nothing changed there is no commit.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning.errors import UserError
from agenttuning.hub import card, folder, secrets
from agenttuning.hub.upload import upload

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from agenttuning.data.prepare import Prepared
    from agenttuning.recipe import Recipe

STAGED = "hub/data"
FOUND = "secrets.jsonl"
NAMED = 5  # findings in the message; the file has them all


def push_data(
    recipe: Recipe, data_paths: Mapping[str, str | Path], reviewed: str | Path | None = None, dry: bool = False
) -> str | None:
    """Upload the mixture of `recipe` to the dataset repository `publish.hub_dataset_id` and return its commit; None
    with `dry`, which writes <run_dir>/hub/data and stops.

    The mixture is prepared in <run_dir>/data if it is not there yet. `reviewed` is a file of findings (lines of the
    secrets.jsonl that a refusal writes) that you looked at and want to publish. Raises UserError for whatever keeps the
    data from being pushed, and what `data.prepare.prepare` raises.
    """
    from agenttuning.chat import load_for
    from agenttuning.data.prepare import prepare

    cleared = _reviewed(reviewed)
    sources = _checked(recipe)
    tokenizer = load_for(recipe)
    prepared = prepare(recipe, tokenizer, recipe.run_dir / "data", data_paths)
    text = _searched(recipe, prepared, tokenizer, sources, set(data_paths), cleared)
    staged = folder.stage(prepared, text, recipe.run_dir / STAGED)
    repository = recipe.publish.hub_dataset_id
    if dry:
        print(f"written, not sent: {staged} (for {repository})", flush=True)
        return None
    message = f"Data of {recipe.name}, key {prepared.key[:16]}"
    done = upload(staged, repository, recipe.publish.private, message, repo_type="dataset", owned=folder.owned)
    state = "private" if recipe.publish.private else "public"
    what = f"commit {done.commit}" if done.changed else f"nothing changed, no commit (it is at {done.commit})"
    print(f"{done.url} ({state}): {what}", flush=True)
    return done.commit


def _checked(recipe: Recipe) -> dict[str, card.Described]:
    """The sources, described. Raises UserError with everything that is missing, at once."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    repository, found = recipe.publish.hub_dataset_id, []
    try:
        validate_repo_id(repository or "")
        valid = "/" in (repository or "")
    except HFValidationError:
        valid = False
    if not valid:
        found.append(f"publish.hub_dataset_id is {repository!r}; it must name a repository: owner/name")
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
    in_rows = list(secrets.in_rows(prepared.load(), tokenizer))
    text = card.write(recipe, prepared, sources, local, sum(finding in cleared for finding in in_rows))
    files = [*folder.records(prepared), (folder.CARD, text)]
    left = sorted({*in_rows, *secrets.in_files(files)} - cleared)
    record = recipe.run_dir / FOUND
    if not left:
        record.unlink(missing_ok=True)
        return text
    record.write_text("".join(json.dumps(asdict(finding)) + "\n" for finding in left), encoding="ascii")
    kinds = ", ".join(f"{count} x {kind}" for kind, count in Counter(finding.kind for finding in left).most_common())
    named = "".join(f"\n  - {ascii(one.source)} {ascii(one.id)}: {one.kind}" for one in left[:NAMED])
    more = f"\n  - and {len(left) - NAMED} more" if len(left) > NAMED else ""
    raise UserError(
        f"what looks like a secret stands in {len(left)} place{'s' * (len(left) > 1)} ({kinds}); it would have been "
        f"published, and nothing was sent:"
        f"{named}{more}\nAll are in {record}. Take these rows out of their source; or, for those that you looked at "
        "and that are no secrets, keep their lines in a file and give it with --reviewed FILE"
    )


def _reviewed(path: str | Path | None) -> set[secrets.Finding]:
    if path is None:
        return set()
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        return {secrets.Finding(**json.loads(line)) for line in lines if line.strip()}
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"--reviewed {path} cannot be read ({type(error).__name__}); no finding would be cleared; give lines of "
            f"the {FOUND} that a refusal wrote"
        ) from error
