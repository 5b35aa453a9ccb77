"""The card of an exported model: what it is, from the record of its run. A push adds what `hub.model_card` tells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agenttuning import model_size
from agenttuning.data.sources import load_card
from agenttuning.export.base import LLAMA_2_ID, LLAMA_2_NOTICE
from agenttuning.hub.card import split
from agenttuning.report import templating

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from agenttuning.export.base import Base
    from agenttuning.recipe import Recipe

TEMPLATES = Path(__file__).parent / "templates"
TAGS = ("agenttuning", "agent", "agents", "sft", "trl", "arxiv:2310.12823")
VERSIONS = ("torch", "transformers", "trl")
FORMATS = {"llama2": "Llama 2 chat", "tokenizer": "the template of the base model's tokenizer"}


def write(
    recipe: Recipe,
    base: Base,
    step: int | None,
    record: dict[str, Any] | None,
    adapter: bool,
    told: dict[str, Any] | None = None,
    eval_results: Sequence[EvalResult] = (),
) -> str:
    """The text of README.md. record: train.json of this run, or None where the run has not ended. told: what a push
    adds to the body; eval_results: to the header.
    """
    get, name = recipe.values.get, recipe.values["model_name_or_path"]
    hub_id = recipe.publish.hub_model_id
    values = {
        "title": hub_id.split("/")[-1] if hub_id else recipe.name,
        "repository": hub_id or "PATH",
        "recipe": recipe,
        "recipe_hash": record["recipe_hash"] if record else recipe.hash,
        "base": base.hub_id or base.name,
        "base_local": model_size.is_local(name),
        "base_named": base.hub_id is not None,
        "base_revision": base.revision,
        "step": step,
        "adapter": adapter,
        "trained": _trained(recipe),
        "precision": _precision(recipe, adapter),
        "built_with": base.built_with,
        "lacking": base.lacking,
        "sources": [{"name": key, "share": one.share} for key, one in sorted(recipe.mixture.sources.items())],
        "optimizer": get("optim") or "adamw_torch_fused",
        "schedule": get("lr_scheduler_type") or "linear",
        "chat_format": FORMATS[recipe.mixture.chat_format],
        "record": record,
        "supervised": sum((record or {}).get("supervised_tokens", {}).values()),
        "versions": ", ".join(f"{key} {record['versions'].get(key, '?')}" for key in VERSIONS) if record else None,
        "system_prompt": recipe.mixture.system_prompt,
        "licence": base.licence_name or base.licence,
        "licence_stated": base.licence_stated,
        "terms": sorted(base.terms),
        "notice": LLAMA_2_NOTICE if base.licence == LLAMA_2_ID else None,
        "languages": ", ".join(languages(recipe)),
        "told": told,
    }
    body = templating.render("model_card.md.jinja", values, TEMPLATES)
    return f"---\n{header(recipe, base, adapter, eval_results)}---\n\n{body}\n"


def _frozen(recipe: Recipe) -> str:
    get = recipe.values.get
    return "4-bit" if get("load_in_4bit") else "8-bit" if get("load_in_8bit") else get("dtype") or "float32"


def _trained(recipe: Recipe) -> str:
    get = recipe.values.get
    if not get("use_peft"):
        return "the whole model"
    from trl import ModelConfig

    rank, alpha = get("lora_r", ModelConfig.lora_r), get("lora_alpha", ModelConfig.lora_alpha)
    layers = ", ".join(get("lora_target_modules") or get("lora_target_parameters") or ["PEFT's usual layers"])
    return f"a LoRA adapter of rank {rank}, alpha {alpha} ({layers}) on frozen {_frozen(recipe)} weights"


def _precision(recipe: Recipe, adapter: bool) -> str:
    if not recipe.values.get("use_peft"):
        return "trained in float32 weights, rounded once to bfloat16"
    if adapter:
        return "the adapter was trained in float32 and is stored so"
    # merging.merge: never into the quantised weights that were trained on
    held = recipe.values.get("dtype") or "float32"
    rounded = "rounded once" if held == "bfloat16" else "rounded once to bfloat16"
    return f"the adapter was trained in float32 and merged into the base's {held} weights, {rounded}"


def languages(recipe: Recipe) -> list[str]:
    """The languages of the sources, as the headers of their cards have them."""
    found: set[str] = set()
    for name in recipe.mixture.sources:
        readme = recipe.root / "data_cards" / name / "README.md"
        own = split(readme.read_text(encoding="utf-8") if readme.is_file() else "")[0].get("language") or []
        found |= {str(one) for one in (own if isinstance(own, list) else [own])}
    return sorted(found)


def header(recipe: Recipe, base: Base, adapter: bool, eval_results: Sequence[EvalResult] = ()) -> str:
    """The YAML header: what the Hub's search and its licence label read."""
    from huggingface_hub import ModelCardData

    cards = [load_card(name, recipe.root / "data_cards") for name in sorted(recipe.mixture.sources)]
    trained_on = {card.hub_id for card in cards if card.hub_id} | {recipe.publish.hub_dataset_id} - {None}
    relation = {"base_model_relation": "adapter" if adapter else "finetune"} if base.hub_id else {}
    index = {"model_name": recipe.name, "eval_results": list(eval_results)} if eval_results else {}
    data = ModelCardData(
        license=base.licence or "other",
        license_name=base.licence_name if base.licence else "not-stated",
        base_model=base.hub_id,
        datasets=sorted(trained_on) or None,
        language=languages(recipe) or None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=[*TAGS, *(["lora"] if adapter else [])],
        **relation,
        **index,
    )
    return data.to_yaml() + "\n"
