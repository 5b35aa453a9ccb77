"""The scripted expert: finds the goal's product, sets its options, buys it.

It knows which product is meant, and reads its options from the goal; it plays on from any state of a visit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agenttuning.environments import Move
from agenttuning.environments.webshop.reward import option_met

if TYPE_CHECKING:
    from agenttuning.environments.webshop.visit import Environment

MOST_WORDS = 12  # of a search; not stated; we chose about what AgentInstruct's trajectories have


@dataclass(frozen=True)
class Plan:
    """The search that shows the product, the page of results it is on (from 1), and the options to set."""

    keywords: str
    page: int
    options: tuple[str, ...]


def writable(text: str) -> bool:
    """True when click[text] can be read back from a reply: it ends at the first ']' and in its line."""
    return bool(text) and "]" not in text and "[" not in text and "\n" not in text


def make_plan(env: Environment) -> Plan:
    """Searches by what the customer said first, by the product's title if that does not show it, and takes the one
    that shows it earliest.
    """
    from agenttuning.environments.webshop.visit import PER_PAGE, RESULTS

    goal, catalogue = env.goal, env.catalogue
    place = catalogue.place[goal["asin"]]
    said = _keywords(" ".join([goal["query"], *goal["attributes"], *goal["options"]]))
    title = _keywords(goal["name"])
    tried = []
    for keywords in dict.fromkeys([said, title, _keywords(goal["name"], 2 * MOST_WORDS)]):
        found = catalogue.index.search(keywords, RESULTS)
        if place in found:
            tried.append((found.index(place) // PER_PAGE + 1, keywords))
            if tried[-1][0] == 1:
                break
    # Nothing shows it: the search goes on as if, and the visit ends unbought.
    page, keywords = min(tried, key=lambda pair: pair[0], default=(RESULTS, said))
    return Plan(keywords, page, _options(env))


def _keywords(text: str, words: int = MOST_WORDS) -> str:
    return " ".join(re.sub(r"[\[\]]", " ", text).lower().split()[:words]) or "product"


def _options(env: Environment) -> tuple[str, ...]:
    chosen: dict[str, str] = {}
    for wanted in env.goal["options"]:
        offers = [
            (value != wanted.lower(), name, value)
            for name, values in env.catalogue.of(env.goal["asin"]).options.items()
            for value in values
            if name not in chosen and writable(value) and option_met([value], wanted)
        ]
        if offers:
            _, name, value = min(offers)
            chosen[name] = value
    return tuple(chosen.values())


def next_move(env: Environment) -> Move:
    """The next move from the state of the visit."""
    env.plan = plan = env.plan or make_plan(env)
    wanted = env.goal["asin"]
    if env.keywords is None:
        return Move(f"I should search for {plan.keywords}.", f"search[{plan.keywords}]")
    if env.asin == wanted:
        return _on_product(env, plan)
    if env.asin is not None:
        return Move("This is not the product that I need, so I go back.", "click[< Prev]")
    if any(product.asin == wanted for product in env.listed):
        return Move(f"{wanted} is what the customer asks for, so I open it.", f"click[{wanted}]")
    if env.keywords != plan.keywords:
        return Move("These results do not show what I need, so I search again.", f"search[{plan.keywords}]")
    if env.number < plan.page:
        return Move("The product is not on this page, so I look at the next one.", "click[Next >]")
    return Move("The product is not on this page, so I look at the one before.", "click[< Prev]")


def _on_product(env: Environment, plan: Plan) -> Move:
    if env.sub_page is not None:
        return Move("I have read enough, so I go back to the product.", "click[< Prev]")
    for value in plan.options:
        if value not in env.options.values():
            return Move(f"The customer wants {value}, so I choose it.", f"click[{value}]")
    return Move("The product and its options are what the customer wants, so I buy it.", "click[Buy Now]")
