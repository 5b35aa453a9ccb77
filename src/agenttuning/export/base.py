"""What an export takes from the base model's own repository: config, generation config, licence files."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from agenttuning import model_size, preflight
from agenttuning.errors import UserError
from agenttuning.hiding import first_line
from agenttuning.report.templating import public_name

if TYPE_CHECKING:
    from agenttuning.recipe import Recipe
    from agenttuning.recipe.schema import Publish

WANTED = ["config.json", "generation_config.json", "README.md", "[Ll][Ii][Cc][Ee][Nn][CcSs][Ee]*", "USE_POLICY*",
          "[Nn][Oo][Tt][Ii][Cc][Ee]*"]  # fmt: skip
TERMS = re.compile(r"(licen[cs]e|use_policy|notice)([-._].*)?", re.IGNORECASE)
LARGEST = 1 << 20  # bytes of a licence file
FACTS = ("name", "hub_id", "revision", "licence", "licence_name", "built_with")
# The licence's own name, as its text has it, and the Hub's id (hf.co/docs/hub/repositories-licenses).
LLAMA_2, LLAMA_2_ID = re.compile(r"llama\s+2\s+community\s+license", re.IGNORECASE), "llama2"
LLAMA_2_NOTICE = (
    "Llama 2 is licensed under the LLAMA 2 Community License, Copyright (c) Meta Platforms, Inc. All Rights Reserved."
)
# Licences of Meta's models quote the line that a Notice file must hold, and what must be displayed.
QUOTED = r'["\u201c]\s*({}[^"\u201c\u201d]*?)\s*["\u201d]'
NOTICE = re.compile(QUOTED.format(r"[^\"\u201c\u201d]{3,40}is\s+licensed\s+under"), re.DOTALL)
BUILT_WITH = re.compile(QUOTED.format("Built with "))


@dataclass(frozen=True)
class Base:
    """name: as others may read it. hub_id: None for a local folder whose id nobody stated. licence: the Hub's id, or
    None where nothing states one; licence_name: its own name where that id is `other`; licence_stated: whether
    `publish.licence` says it. terms: {name: bytes} of the licence files that go along; built_with: what the licence
    wants displayed; lacking: why it is not enough. facts: what `again` needs, before anything was stated.
    """

    folder: Path
    name: str
    hub_id: str | None
    revision: str | None
    licence: str | None
    licence_name: str | None
    terms: dict[str, bytes]
    built_with: str | None = None
    licence_stated: bool = False
    lacking: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def again(facts: dict[str, Any], folder: Path, publish: Publish) -> Base:
    """The base that `facts` tell of, whose licence files lie in `folder`, with what the recipe states now."""
    there = {name: folder / Path(name).name for name in facts["terms"]}
    terms = {name: path.read_bytes() for name, path in there.items() if path.is_file()}
    return stated(Base(folder, **{**facts, "terms": terms}), publish)


def stated(base: Base, publish: Publish) -> Base:
    """The base with what the recipe states where its repository says nothing: Hub id, and licence."""
    facts = {key: getattr(base, key) for key in FACTS} | {"terms": sorted(base.terms)}
    if publish.licence and base.licence is None:
        base = replace(base, licence=publish.licence, licence_stated=True)
    base = replace(base, hub_id=base.hub_id or publish.base_model)
    return replace(base, lacking=_lacking(base), facts=facts)


def find(recipe: Recipe, offline: bool = False) -> Base:
    """The base model of a recipe: a local folder, or its files on the Hub or in the cache. Raises UserError when its
    config cannot be had. offline: only the cache is asked.
    """
    name, revision = recipe.values["model_name_or_path"], recipe.values.get("model_revision")
    local = model_size.is_local(name)
    folder = Path(name) if local else _download(name, revision, offline)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no config.json; the export would not know the model's shape; check the path")
    texts = {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if TERMS.fullmatch(path.name) and path.is_file() and path.stat().st_size <= LARGEST
    }
    header = _header(folder / "README.md")
    licence = _licence(name, header, texts)
    own_name = header.get("license_name") if licence == "other" else None
    terms, built_with = _with_notice(licence, texts)
    hub_id, revision = (None, None) if local else (name, revision or "main")
    own = Base(folder, public_name(name), hub_id, revision, licence, own_name, terms, built_with)
    return stated(own, recipe.publish)


def _download(name: str, revision: str | None, offline: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    offline = offline or not preflight.reachable(preflight.endpoint())
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=WANTED, local_files_only=offline))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"neither the cache nor the Hub gives config and licence of {name} ({first_line(error)}); the "
            "export would lack both; check the network, and for gated models `hf auth login`"
        ) from None


def _licence(name: str, header: dict, texts: dict[str, bytes]) -> str | None:
    stated = header.get("license")
    if isinstance(stated, str) and stated:
        return stated
    if re.search(r"llama-2", name, re.IGNORECASE) or any(LLAMA_2.search(_text(raw)) for raw in texts.values()):
        return LLAMA_2_ID
    return None


def _header(readme: Path) -> dict:
    """The YAML header of a model card; empty where there is none that can be read."""
    text = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else ""
    found = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    try:
        header = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return {}
    return header if isinstance(header, dict) else {}


def _with_notice(licence: str | None, texts: dict[str, bytes]) -> tuple[dict[str, bytes], str | None]:
    """The files, with the Notice that the licence asks for, and what it wants displayed ("Built with Llama")."""
    licences = "\n".join(_text(raw) for name, raw in texts.items() if name.lower().startswith(("licen",)))
    quoted = NOTICE.search(licences)
    notice = LLAMA_2_NOTICE if licence == LLAMA_2_ID else " ".join(quoted[1].split()) if quoted else None
    display = BUILT_WITH.search(licences)
    own = next((name for name in texts if name.lower().startswith("notice")), None)
    if notice and not (own and notice in " ".join(_text(texts[own]).split())):
        before = texts[own].rstrip(b"\n") + b"\n\n" if own else b""
        texts = {**texts, own or "Notice.txt": before + notice.encode() + b"\n"}
    return texts, " ".join(display[1].split()) if display else None


def _lacking(base: Base) -> list[str]:
    if base.licence_stated and not base.hub_id:
        return []  # whoever made the base gives it away, and it is on no Hub
    name, licence, lacking = base.name, base.licence, []
    starts = {re.split(r"[-._]", file.lower().replace("use_policy", "policy"))[0] for file in base.terms}
    if licence is None:
        lacking.append(
            f"licence: the repository of {name} states none in its README.md; if you may give the weights away, state "
            "under which one: publish.licence=..."
        )
    if not starts & {"license", "licence"} and not base.licence_stated:
        lacking.append(f"licence text: {name} has no LICENSE file here or on the Hub; add the licensor's own to it")
    if licence is not None and licence.startswith("llama") and "policy" not in starts:
        lacking.append(f"use policy: {name} has no USE_POLICY file here or on the Hub; the licence refers to it")
    notices = " ".join(_text(raw) for file, raw in base.terms.items() if file.lower().startswith("notice"))
    if licence == LLAMA_2_ID and LLAMA_2_NOTICE not in " ".join(notices.split()):
        lacking.append(f"notice: no Notice file says what the licence asks for: {LLAMA_2_NOTICE}")
    if base.hub_id is None:
        lacking.append("base model: the recipe names a local folder; say its Hub id: publish.base_model=owner/name")
    return lacking


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
