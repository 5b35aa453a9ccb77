"""WebShop (Yao et al. 2022): buy what a customer describes, in a shop of text pages.

An engine of our own after princeton-nlp/WebShop: no Java, no Flask, no server, a few hundred microseconds a step. The
shop is stocked by WebShop's own files ("full", "1k") or by a generated catalogue ("synthetic"). See `visit` for the
actions and the pages, `reward` for the score, docs/environments/webshop.md for what differs from the original.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from agenttuning.environments import Backend, Missing, Room, backend_of, build_items
from agenttuning.environments.webshop.catalogue import Catalogue
from agenttuning.environments.webshop.reward import SPACY_MODEL, Nouns, guessed_nouns, tagger
from agenttuning.environments.webshop.visit import Environment
from agenttuning.errors import UserError

NAME = "webshop"
BENCHMARK = "WebShop"
BACKENDS = (
    Backend("full", "WebShop's 1.18 million products, own engine, search not compared with Lucene's", comparable=True),
    Backend("1k", "WebShop's 1,000 products, own engine: other goals, and easier to search", comparable=False),
    Backend("synthetic", "a generated catalogue", comparable=False),
)
DATA_OPTION = "catalogue"  # the items' files are those that stock the shop
GOALS = 200  # AgentBench.old, configs of webshop: goals 0 to 199


def items(split: str, n: int, seed: int) -> list[dict]:
    """`n` practice goals of the generated catalogue; test goals ask for products that training never asks for."""
    from agenttuning.environments.webshop import synthetic

    return build_items(NAME, split, n, seed, synthetic.draw)


def load(path: str | Path, first: int = 0, last: int = GOALS) -> list[dict]:
    """Goals `first` to `last` - 1 of WebShop's files, in the original's order; by default AgentBench's 200.

    path: the folder with the three files of one catalogue, or its items_shuffle file. Raises UserError for a missing
    file, one that is not of the schema, or too few goals.
    """
    from agenttuning.environments.webshop import files

    shop = files.open_shop(*files.paths(path))
    if not 0 <= first < last <= len(shop.goals):
        raise UserError(
            f"{path} has {len(shop.goals)} goals, {first} to {last - 1} were asked for; a score over fewer would be "
            "another score; ask for goals that are there"
        )
    return [{"id": f"{NAME}_{number}", **shop.goals[number]} for number in range(first, last)]


@contextmanager
def serve(backend: str = "synthetic", catalogue: str | Path | None = None, with_actions: bool = True) -> Iterator[Room]:
    """The shop. `catalogue`: where the files of "full" and "1k" are. `with_actions`: see `visit.Environment`.

    Raises UserError for an unknown backend, or a catalogue that is missing or broken.
    """
    chosen = backend_of(NAME, BACKENDS, backend)
    if chosen.name == "synthetic":
        from agenttuning.environments.webshop import synthetic

        # Guessed nouns whatever is installed: practice rewards are the same on every machine.
        stock, nouns = synthetic.catalogue(), guessed_nouns
    else:
        chosen, stock, nouns = _stocked(chosen, catalogue)

    def make(item: dict) -> Environment:
        if item["asin"] not in stock.place:
            raise UserError(
                f"item {item['id']} asks for product {item['asin']}, which {chosen.name} does not sell; it could not "
                "be won; serve the catalogue that the items are from"
            )
        return Environment(item, stock, nouns, with_actions)

    _ = stock.index  # built before the first episode, whose time it is not
    yield Room(NAME, chosen, make)


def _stocked(backend: Backend, catalogue: str | Path | None) -> tuple[Backend, Catalogue, Nouns]:
    from agenttuning.environments.webshop import files

    if catalogue is None:
        raise UserError(
            f"webshop's backend {backend.name} was given no catalogue; there would be nothing to buy; give the folder "
            "of WebShop's files, or serve the backend synthetic"
        )
    shop = files.open_shop(*files.paths(catalogue, backend.name))
    nouns, model = tagger()
    label = f"{backend.label}; title nouns {f'by spaCy {model}' if model else f'guessed (no spaCy {SPACY_MODEL})'}"
    if shop.changed:
        label += f"; changed files: {', '.join(shop.changed)}"
    comparable = backend.comparable and model is not None and not shop.changed
    return replace(backend, label=label, comparable=comparable), shop.catalogue, nouns


def missing(backend: str = "synthetic", catalogue: str | Path | None = None, **_: object) -> list[Missing]:
    """What this machine lacks for a backend. spaCy is not among it: without it the label says so."""
    chosen = backend_of(NAME, BACKENDS, backend)
    lacks = [
        Missing(package, "pip install -e '.[eval]'")
        for module, package in (("Stemmer", "PyStemmer"), ("numpy", "numpy"))
        if find_spec(module) is None
    ]
    if chosen.name == "synthetic":
        return lacks
    from agenttuning.environments.webshop import files

    if catalogue is None:
        return [*lacks, Missing("WebShop's files", "docs/environments/webshop.md says where they are found")]
    _, folder = files.paths(catalogue, chosen.name)
    return lacks + [
        Missing(str(file), "docs/environments/webshop.md says where it is found")
        for file in files.needed(chosen.name, folder)
        if not file.is_file()
    ]
