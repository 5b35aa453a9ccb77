"""The card of a built dataset: what the sources' own cards say, what came out, and how to build it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from agenttuning.data.sources import SourceCard, load_card
from agenttuning.hub import folder, licences
from agenttuning.report import templating
from agenttuning.report.data_page import reasons

if TYPE_CHECKING:
    from datasets import Dataset

    from agenttuning.data.prepare import Prepared
    from agenttuning.recipe import Recipe

TEMPLATES = Path(__file__).parent / "templates"
TAGS = ("agenttuning", "agents", "tokenized", "arxiv:2310.12823")
# Upper ends of the Hub's size categories (rows); hf.co/docs/hub/datasets-cards
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B")
TRAINED = {
    "flags": "the assistant turns that their source marks as trained (its loss flags, see the sources below)",
    "assistant": "every assistant turn",
    "last": "the last assistant turn of a conversation",
    "all": "every token, prompts included",
}


@dataclass(frozen=True)
class Described:
    """A source of the mixture with its Hub card: the header and the prose of data_cards/NAME/README.md, and the licence
    that `publish.licences` states for it, if any.
    """

    card: SourceCard
    header: dict
    prose: str
    stated: str | None


def describe(recipe: Recipe) -> dict[str, Described]:
    """Every source of the mixture, by name. Raises UserError for a missing card; an unreadable header is empty."""
    result = {}
    for name in sorted(recipe.mixture.sources):
        card = load_card(name, recipe.root / "data_cards")
        readme = recipe.root / "data_cards" / name / "README.md"
        header, prose = split(readme.read_text(encoding="utf-8") if readme.is_file() else "")
        stated = (recipe.publish.licences or {}).get(name)
        result[name] = Described(card, header, prose, str(stated).strip() or None if stated is not None else None)
    return result


def problems(recipe: Recipe, sources: Mapping[str, Described]) -> list[str]:
    """Why the dataset may not be pushed: parts of the card that nobody wrote, and licences that do not allow it."""
    found = []
    for name in sorted(set(recipe.publish.licences or {}) - set(sources)):
        found.append(f"publish.licences.{name}: the mixture has no such source")
    for name, one in sources.items():
        place = f"data_cards/{name}"
        lacking = [
            what
            for what, there in {
                "`pretty_name` in the header of README.md": one.header.get("pretty_name"),
                "`language` in the header of README.md": one.header.get("language"),
                "a text in README.md": one.prose.strip(),
                "`loss_flags` in source.yaml": one.card.loss_flags,
            }.items()
            if not there
        ]
        if lacking:
            found.append(f"{place} is incomplete: it lacks {', '.join(lacking)}")
        if one.stated is None and licences.hub_id(one.card.licence) is None:
            found.append(
                f"{name}: {place}/source.yaml gives the licence as {one.card.licence or 'nothing'!r}, which is none "
                f"that is known to allow redistribution; if you may pass it on, state under which licence: "
                f"publish.licences.{name}=..."
            )
    return found


def write(recipe: Recipe, prepared: Prepared, sources: Mapping[str, Described], local: set[str], reviewed: int) -> str:
    """The text of README.md. `local`: sources that were read from the user's own files; `reviewed`: rows with something
    like a secret that the user looked at and left in. The same data and recipe give the same text.
    """
    rows = prepared.load()
    mixture = prepared.mixture
    values = {
        "name": recipe.name,
        "repository": recipe.publish.hub_dataset_id,
        "sources": [_source(one, mixture, name in local) for name, one in sources.items()],
        "mixture": mixture,
        "reasons": reasons(prepared.path),
        "trained": TRAINED[recipe.loss],
        "recipe": recipe,
        "model": templating.public_name(recipe.values["model_name_or_path"]),
        "tokenizer": mixture["settings"]["tokenizer"],
        "template": mixture["settings"].get("template"),
        "template_date": mixture["settings"].get("template_date"),
        "key": prepared.key,
        "command": _command(recipe, local),
        "columns": rows.column_names,
        "reviewed": reviewed,
        "records": [name for name, _ in folder.records(prepared)],
    }
    body = templating.render("dataset_card.md.jinja", values, TEMPLATES)
    return f"---\n{header(recipe, rows, sources)}---\n\n{body}"


def header(recipe: Recipe, rows: Dataset, sources: Mapping[str, Described]) -> str:
    """The YAML header of the card: what the Hub's search, its viewer and `load_dataset` read."""
    from datasets import DatasetInfo
    from datasets.info import DatasetInfosDict
    from huggingface_hub import DatasetCardData

    names = {licences.hub_id(one.stated or one.card.licence) for one in sources.values()}
    one_licence = names.pop() if len(names) == 1 else None
    licence = {"license": one_licence} if one_licence else {"license": "other", "license_name": "by-source"}
    languages: list[str] = []
    for one in sources.values():
        own = one.header["language"]
        languages += own if isinstance(own, list) else [own]
    data = DatasetCardData(
        pretty_name=f"Training data of {recipe.name}",
        language=sorted(set(map(str, languages))),
        **licence,
        tags=list(TAGS),
        task_categories=["text-generation"],
        size_categories=[size_category(len(rows))],
        source_datasets=sorted({one.card.hub_id for one in sources.values() if one.card.hub_id}) or None,
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
    )
    DatasetInfosDict({"default": DatasetInfo(features=rows.features)}).to_dataset_card_data(data)
    return data.to_yaml() + "\n"


def split(text: str) -> tuple[dict, str]:
    """The header of a card, empty where it cannot be read, and its prose."""
    parts = text.split("---\n", 2)
    if len(parts) != 3 or parts[0].strip():
        return {}, text
    try:
        content = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return {}, parts[2]
    return content if isinstance(content, dict) else {}, parts[2]


def _source(one: Described, mixture: dict, local: bool) -> dict[str, Any]:
    card, read = one.card, mixture["settings"]["sources"][one.card.name]
    files = [{"name": file, "sha256": sha} for file, sha in read.get("files", {}).items()]
    return {
        "name": card.name,
        "title": one.header.get("pretty_name", card.name),
        "hub_id": card.hub_id,
        "commit": read.get("commit"),
        "files": files,
        "own_files": local,
        "made_by": card.made_by,
        "licence": one.stated or card.licence,
        "licence_stated": one.stated is not None,
        "licence_url": None if one.stated else card.licence_url,
        "loss_flags": (card.loss_flags or "").rstrip("."),
        "stand_in_for": card.stand_in_for,
    }


def size_category(rows: int) -> str:
    """The Hub's word for a number of rows."""
    place = next((place for place in range(len(SIZES)) if rows < 1000 * 10**place), len(SIZES) - 1)
    return SIZES[place]


def _command(recipe: Recipe, local: set[str]) -> str:
    """What builds these rows again; local files have to be brought along."""
    flat = recipe.flat()
    changed = [
        key for key, where in recipe.origin.items() if where == "command line" and not key.startswith("publish.")
    ]
    path = recipe.path.resolve()
    shown = path.relative_to(recipe.root.resolve()) if path.is_relative_to(recipe.root.resolve()) else path.name
    words = [f"agenttuning data {shown}"]
    words += [f"{key}={templating.public_name(flat[key])}" for key in sorted(changed)]
    words += [f"--data {name}=FILES" for name in sorted(local)]
    return " ".join(words)
