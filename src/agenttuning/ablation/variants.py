"""The variants of a recipe: the same training on other shares of the same data, each in a folder of its own."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from agenttuning.data.sources import load_card
from agenttuning.errors import UserError, nearest
from agenttuning.launch import overrides
from agenttuning.recipe import Recipe, Source, load

AGENT_FORMAT = "agentinstruct"  # the format, in a data card, of trajectories; every other source is general
UNFILTERED = {"agentinstruct": "agentinstruct-unfiltered"}  # trajectories, and their place before the reward filter
MIXED, GENERAL_ONLY, AGENT_ONLY = "mixed", "general-only", "agent-only"
ETAS = tuple(step / 10 for step in range(11))  # 0 to 1 in steps of 0.1: evaluation/published.yaml, mixture.eta_scan


@dataclass(frozen=True)
class Variant:
    """One run. name: its row in the table, which runs of several seeds share; eta: share of agent data; lacks: why it
    cannot be trained here, or "".
    """

    name: str
    recipe: Recipe
    eta: float
    seed: int
    lacks: str = ""


def kinds(main: Recipe, data: Mapping[str, Path]) -> dict[str, dict[str, dict[str, Source]]]:
    """{kind of ablation: {name of a variant: its sources}}: the mixture's (Table 5), and the filter's (Table 2) where
    the recipe is the paper's 7B, which it was published for, or the rows are given.
    """
    eta = agent_share(main)
    if not 0 < eta < 1:
        raise UserError(
            f"{main.name} is trained on {'agent' if eta else 'general'} data alone, so there is nothing to leave out; "
            "name a recipe of both, e.g. recipes/agentlm-13b/sft.yaml"
        )
    parts = {AGENT_ONLY: with_eta(main, 1.0), GENERAL_ONLY: with_eta(main, 0.0), MIXED: dict(main.mixture.sources)}
    found = {"mixture": parts}
    other = {UNFILTERED.get(name, name): source for name, source in main.mixture.sources.items()}
    if other.keys() != main.mixture.sources.keys() and (main.name.startswith("agentlm-7b/") or other.keys() & data):
        found["filtering"] = {"unfiltered": other, "filtered": dict(main.mixture.sources)}
    return found


def scan(main: Recipe, etas: Iterable[float]) -> dict[str, dict[str, Source]]:
    """{"eta-0.1": sources, ...}. Raises UserError for an eta outside of [0, 1]."""
    return {label(eta): with_eta(main, eta) for eta in etas}


def label(eta: float) -> str:
    """eta-0.0, eta-0.1, ..., eta-0.25."""
    return f"eta-{eta:.1f}" if round(eta, 1) == eta else f"eta-{eta:g}"


def agent_sources(recipe: Recipe) -> list[str]:
    """The sources of a recipe that are trajectories, by the format that their cards state."""
    cards = recipe.root / "data_cards"
    return [name for name in recipe.mixture.sources if load_card(name, cards).format == AGENT_FORMAT]


def agent_share(recipe: Recipe) -> float:
    """eta: the share of all conversations that is drawn from trajectories."""
    return round(sum(recipe.mixture.sources[name].share for name in agent_sources(recipe)), 9)


def with_eta(main: Recipe, eta: float) -> dict[str, Source]:
    """The sources with this share of agent data; agent sources keep their ratio to each other, and general ones theirs.

    At 0 and 1 the sources without a share are left out: a recipe's shares lie in (0, 1]. Raises UserError for another
    eta, and where the recipe has no source of the kind that is asked for.
    """
    if not 0 <= eta <= 1:
        raise UserError(f"eta is the share of agent data, from 0 to 1; {eta:g} is none")
    agent, found = agent_sources(main), {}
    for wanted, names in ((eta, agent), (1 - eta, [name for name in main.mixture.sources if name not in agent])):
        total = sum(main.mixture.sources[name].share for name in names)
        if wanted and not names:
            kind = "trajectories" if names is agent else "general conversations"
            raise UserError(f"{main.name} draws from no {kind}, so it has no variant with eta {eta:g}")
        # rounded: 0.16 and not 0.16000000000000003, which would be another recipe than the file's
        found |= {name: round(wanted * main.mixture.sources[name].share / total, 9) for name in names if wanted}
    return {name: replace(one, share=found[name]) for name, one in main.mixture.sources.items() if name in found}


def variants(main: Recipe, sources: Mapping[str, Mapping[str, Source]], seeds: Iterable[int] | None) -> list[Variant]:
    """A run for each seed and name, seeds outermost; without seeds one of each with the recipe's own.

    Runs of one record lie in one folder, whatever they are called: "mixed" is "eta-0.2", and both are the main run.
    """
    made, places, cards = [], shelf(main), main.root / "data_cards"
    for seed in seeds or (None,):
        for name, mixture in sources.items():
            words = overrides(main)
            words += [f"mixture.sources={_yaml(mixture)}"] if mixture != main.mixture.sources else []
            words += [] if seed is None else [f"seed={seed}", f"mixture.seed={seed}"]
            eta = round(sum(s.share for n, s in mixture.items() if load_card(n, cards).format == AGENT_FORMAT), 9)
            folder = name if set(UNFILTERED.values()) & mixture.keys() else label(eta)
            own_seed = seed is None or main.values["seed"] == main.mixture.seed == seed
            own = _root(main) / (folder if own_seed else f"{folder}-seed-{seed}")
            one = load(main.path, words)
            one = replace(one, run_dir_override=places.get(one.hash, own))
            made.append(Variant(name, one, eta, one.values["seed"]))
    return made


def shelf(main: Recipe) -> dict[str, Path]:
    """{hash: run folder} of the recipes that lie in files. A variant that is one of them is that run: what `make
    train-13b` or `make train-ablation-agent-only` has trained is not trained again.
    """
    if main.run_dir_override:
        return {main.hash: main.run_dir}
    found = []
    for file in [*sorted(main.root.glob("recipes/ablations/*.yaml")), main.path]:
        with contextlib.suppress(UserError):  # somebody's half-written file is no run of this recipe
            found.append(load(file))
    return {one.hash: one.run_dir for one in found}


def _root(main: Recipe) -> Path:
    if main.run_dir_override:
        return main.run_dir.with_name(f"{main.run_dir.name}-ablations")
    return Path("runs") / "ablations" / main.name


def _yaml(sources: Mapping[str, Source]) -> str:
    """Sources as one line of YAML, without what has its default."""
    defaults = {one.name: one.default for one in fields(Source)}
    told = {name: {k: v for k, v in asdict(one).items() if v != defaults[k]} for name, one in sources.items()}
    return json.dumps(told)


def only(found: list[Variant], names: Iterable[str]) -> list[Variant]:
    """The variants of these names; all of them where none is named. Raises UserError for an unknown one."""
    names, known = list(names), list(dict.fromkeys(one.name for one in found))
    for name in names:
        if name not in known:
            raise UserError(f"there is no variant {name!r} of this recipe; {nearest(name, known)}")
    return [one for one in found if one.name in names] if names else found


def data_for(recipe: Recipe, data: Mapping[str, Path]) -> dict[str, Path]:
    """The user's own files for the sources that this variant draws from."""
    return {name: path for name, path in data.items() if name in recipe.mixture.sources}


def lacking(one: Variant, data: Mapping[str, Path]) -> Variant:
    """The variant with what its trajectories lack here: those before the filter were never released."""
    for name in set(UNFILTERED.values()) & one.recipe.mixture.sources.keys() - data.keys():
        place = one.recipe.root / load_card(name, one.recipe.root / "data_cards").path
        if not place.exists():
            return replace(
                one, lacks=f"no rows of {name} (never released): data_cards/{name}/README.md, or --data {name}=PATH"
            )
    return one
