"""Goals: what a customer wants, and what it may cost (web_agent_site/engine/goal.py, `get_human_goals`)."""

from __future__ import annotations

import random

from agenttuning.environments.webshop.catalogue import Catalogue
from agenttuning.errors import UserError

CAPS = [10.0 * step for step in range(1, 100)]  # goal.py, PRICE_RANGE: dollars
NEAREST = 4  # goal.py: the cap is one of the next four above the price
NO_CAP = 1_000_000  # goal.py: of a product which costs more than all but one of CAPS


def price_cap(price: float, rng: random.Random) -> tuple[float, str]:
    """The most that the customer pays, in dollars, and the words that say so."""
    above = [cap for cap in CAPS if cap > price][:NEAREST]
    if len(above) < 2:
        return NO_CAP, ""
    _, cap = sorted(rng.sample(above, 2))
    return cap, f", and price lower than {cap:.2f} dollars"


def goal_of(
    catalogue: Catalogue, asin: str, wish: str, attributes: list[str], options: list[str], rng: random.Random
) -> dict:
    """A goal: `instruction` as the customer says it, and what the reward is computed from (JSON values only)."""
    product = catalogue.of(asin)
    cap, words = price_cap(catalogue.price(asin), rng)
    return {
        "asin": asin,
        "instruction": wish.strip(".") + words,
        "attributes": attributes,
        "options": options,
        "price_upper": cap,
        "name": product.title,
        "query": product.query,
        "product_category": product.product_category,
    }


def human_goals(catalogue: Catalogue, wanted: dict, source: str, rng: random.Random) -> list[dict]:
    """The goals of items_human_ins.json whose product is in the catalogue, in the catalogue's order.

    A wish without attributes makes no goal, as in the original. Raises UserError for one that is not of the schema.
    """
    goals = []
    for asin in catalogue.asins:
        wishes = wanted.get(asin, [])
        if not isinstance(wishes, list):
            raise _bad(source, asin, wishes)
        for wish in wishes:
            if not isinstance(wish, dict) or not isinstance(wish.get("instruction"), str):
                raise _bad(source, asin, wish)
            attributes, options = wish.get("instruction_attributes"), wish.get("instruction_options")
            for texts in (attributes, options):
                if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                    raise _bad(source, asin, wish)
            if attributes:
                goals.append(goal_of(catalogue, asin, wish["instruction"], attributes, options, rng))
    return goals


def _bad(source: str, asin: str, seen: object) -> UserError:
    return UserError(
        f"{source}: {asin} has {repr(seen)[:120]}; its goal and reward would be made up; it must be a list of wishes "
        "with instruction (text), instruction_attributes and instruction_options (lists of texts)"
    )
