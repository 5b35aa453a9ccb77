"""The folder of a model that goes to the Hub: the export's files, the card with scores and mixture, the results."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agenttuning.errors import UserError
from agenttuning.export import base, card
from agenttuning.export.record import check_paths, public
from agenttuning.export.run import RECORD, TOKENIZER, export
from agenttuning.hub import check, eval_results, model_card, results, secrets
from agenttuning.hub.staged import CARD, Staged, new, walk

if TYPE_CHECKING:
    from agenttuning.export.base import Base
    from agenttuning.hub.results import Results
    from agenttuning.recipe import Recipe

STAGED = "hub/model"
TAG = "v-{digest}"  # of all that is sent, so that a card can name the state that it is part of
WEIGHTS = re.compile(r"(adapter_)?model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
RECORDS = ("train.json", "recipe.yaml", "mixture.json", RECORD)
# Licences of Meta's later models ask that a model made from them has this in front of its name (Llama 3, 1.b.i).
NAMED_LLAMA = re.compile(r"llama3|llama-3|llama4", re.IGNORECASE)


def stage(recipe: Recipe, model: str | Path | None, cleared: set[secrets.Finding], offline: bool = False) -> Staged:
    """Write <run_dir>/hub/model from the export `model`, or from the run's own, which is made if it is not there or of
    other weights. Weights are hard links where the file system has them. offline: nothing is asked of the Hub.

    Raises UserError for an export that is no longer what was checked, licences that are lacking, scores or a mixture of
    another model, files that must not be published, what looks like a secret, and a card that the Hub would not take.
    """
    place = Path(model) if model else _export(recipe, offline)
    said = _record(place)
    record = _train_record(place)
    origin = base.again(said["base"], place, recipe.publish)
    check.folder(place, check.MODEL_FILES)
    _refuse_lacking(recipe, origin)
    _check_weights(place, said)
    found = results.read(recipe.run_dir, record)
    repository = recipe.publish.hub_model_id
    with new(recipe.run_dir / STAGED) as partial:
        for name, path in walk(place):
            if name != CARD:
                _link(path, partial / name)
        _write_records(partial, recipe, origin, found, record)
        eval_results.write(partial, found, repository)

        told = model_card.told(recipe, record, found)
        index = eval_results.model_index(found, repository)
        text = card.write(recipe, origin, said["from"]["step"], record, said["adapter"], told, index)
        check.card(text, "model")
        tag = TAG.format(digest=_digest(partial, text))
        (partial / CARD).write_text(text.replace(model_card.TAG_HERE, tag), encoding="utf-8")
        check.folder(partial, check.MODEL_FILES)
        check_paths(partial, recipe)
        findings = list(check.secrets_in(partial, secrets.of_this_process()))
        secrets.refuse(findings, cleared, recipe.run_dir / secrets.FOUND)
    message = f"{recipe.name}, weights {_weights_digest(said)[:16]}"
    owns = "weights, tokenizer, results/*, records and cards of earlier pushes"
    return Staged("model", recipe.run_dir / STAGED, repository, "model", message, owned, owns, tag)


def owned(name: str) -> bool:
    """Whether a file of the repository is one that a push of a model writes."""
    return (
        bool(WEIGHTS.fullmatch(name))
        or name in TOKENIZER
        or name in RECORDS
        or (name.startswith("results/") and name.endswith(".json"))
        or eval_results.owned(name)
    )


def _export(recipe: Recipe, offline: bool) -> Path:
    """The run's own export, made anew where it is not of the trained weights."""
    folder = recipe.run_dir / "export"
    if not _fresh(folder, recipe):
        export(recipe, folder, offline=offline)
    return folder


def _fresh(folder: Path, recipe: Recipe) -> bool:
    try:
        said = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        theirs, ours = (json.loads((one / "train.json").read_text("utf-8")) for one in (folder, recipe.run_dir))
        keys = ("model", "recipe_hash", "data_key")
        return "base" in said and all(theirs.get(key) == ours.get(key) for key in keys)
    except (OSError, ValueError, AttributeError):
        return False


def _record(place: Path) -> dict[str, Any]:
    try:
        said = json.loads((place / RECORD).read_text(encoding="utf-8"))
        wanted = {"base", "weights", "from", "adapter"} - set(said)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{place} holds no {RECORD} that can be read ({type(error).__name__}); nobody checked its weights; give a "
            "folder that `agenttuning export` wrote"
        ) from error
    if wanted:
        raise UserError(f"{place}/{RECORD} lacks {', '.join(sorted(wanted))}; export it again with this version")
    return said


def _train_record(place: Path) -> dict[str, Any] | None:
    path = place / "train.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _refuse_lacking(recipe: Recipe, origin: Base) -> None:
    lacking = list(origin.lacking)
    name = (recipe.publish.hub_model_id or "").rpartition("/")[2]
    if NAMED_LLAMA.match(origin.licence or "") and not name.lower().startswith("llama"):
        lacking.append(
            f"name: the licence of {origin.name} asks that the model's name begins with Llama; {name} does not "
            "(publish.hub_model_id)"
        )
    publish, facts = recipe.publish, origin.facts
    if publish.licence and not origin.licence_stated and publish.licence != origin.licence:
        lacking.append(
            f"licence: {origin.name} has {origin.licence}, which publish.licence={publish.licence} can't undo"
        )
    if publish.base_model and facts["hub_id"] not in (None, publish.base_model):
        lacking.append(f"base model: it is {facts['hub_id']}, and publish.base_model says {publish.base_model}")
    if lacking:
        lines = "".join(f"\n  - {line}" for line in lacking)
        raise UserError(f"the model of {recipe.name} is not ready to be pushed; nothing was sent to the Hub:{lines}")


def _check_weights(place: Path, said: dict[str, Any]) -> None:
    """Raise UserError unless the weights are those that the export checked, byte by byte."""
    there = {name for name, path in walk(place) if path.suffix == ".safetensors"}
    wrong = [f"{name} is not of this export" for name in sorted(there - set(said["weights"]))]
    for name, digest in said["weights"].items():
        path = place / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
            continue
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                wrong.append(f"{name} has changed")
    if wrong:
        raise UserError(
            f"{place} is not what the export checked: {'; '.join(wrong)}; other weights would be published; export "
            "again"
        )


def _link(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        try:
            os.link(path, target)
            return
        except OSError:  # another file system, or one without links
            pass
    shutil.copyfile(path, target)


def _write_records(partial: Path, recipe: Recipe, origin: Base, found: Results, record: dict[str, Any] | None) -> None:
    """mixture.json, and the scores and the comparison, without paths of this machine."""
    files = {results.published_place(name): recipe.run_dir / name for name in found.files(recipe.run_dir)}
    mixture = recipe.run_dir / "data" / "mixture.json"
    if mixture.is_file():
        files["mixture.json"] = mixture
    for name, path in files.items():
        target = partial / name
        target.parent.mkdir(parents=True, exist_ok=True)
        content = public(json.loads(path.read_text(encoding="utf-8")))
        target.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    said = json.loads((partial / RECORD).read_text(encoding="utf-8"))
    said |= {"licence": origin.licence, "lacking": origin.lacking}
    (partial / RECORD).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def _digest(folder: Path, text: str) -> str:
    """12 letters that name the content of a folder and the text of its card."""
    digest = hashlib.sha256(text.encode())
    for name, path in walk(folder):
        if path.suffix != ".safetensors":  # export.json holds their digests
            digest.update(f"{name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _weights_digest(said: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(said["weights"], sort_keys=True).encode()).hexdigest()
