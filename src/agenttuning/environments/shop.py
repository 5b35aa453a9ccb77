"""A small web shop after WebShop's pattern: search a kind, open the product of the colour, choose its size, buy.

Reward is the share of the wishes (kind, colour, size) that the bought product meets, 0 when nothing is bought.
"""

from __future__ import annotations

import random
import re

from agenttuning.environments import Move, Step, build_items, reserved
from agenttuning.environments.words import COLOURS, GOODS, LETTERS, SIZES

NAME = "shop"
INSTRUCTION = "You are in a shop. Buy what the task says. Actions: search, click."
ACKNOWLEDGEMENT = "Ok."
MAX_TURNS = 8
RESULTS = 4  # products of a kind


def _draw(rng: random.Random, test: bool) -> dict | None:
    colour, good, size = rng.choice(COLOURS), rng.choice(GOODS), rng.choice(SIZES)
    if reserved(NAME, colour, good) != test:
        return None
    # All results of a search are of one kind; the colour tells them apart. A second kind lies in the shop beside it.
    other = rng.choice([g for g in GOODS if g != good])
    codes = iter(rng.sample([letter + str(digit) for letter in LETTERS for digit in range(10)], 2 * RESULTS))
    products = []
    for kind in (good, other):
        colours = rng.sample(COLOURS, RESULTS)
        if kind == good and colour not in colours:
            colours[rng.randrange(RESULTS)] = colour
        for c in colours:
            sizes = rng.sample(SIZES, 2)
            if (c, kind) == (colour, good) and size not in sizes:
                sizes[rng.randrange(2)] = size
            products.append({"code": next(codes), "colour": c, "good": kind, "sizes": sizes})
    return {"colour": colour, "good": good, "size": size, "products": products}


def items(split: str, n: int, seed: int) -> list[dict]:
    """`n` items of a split; test items use (colour, good) pairs that training never asks for."""
    return build_items(NAME, split, n, seed, _draw)


class Environment:
    """One visit to the shop; the state is the page, the chosen size and what was bought."""

    def __init__(self, item: dict) -> None:
        self.item = item

    def reset(self) -> str:
        """The wish."""
        self.found: list[dict] = []
        self.product: dict | None = None
        self.size: str | None = None
        self.bought: tuple[dict, str | None] | None = None
        return f"Task: buy a {self.item['colour']} {self.item['good']}, size {self.item['size']}."

    def step(self, action: str) -> Step:
        """`search WORDS`, or `click WHAT` on a product code, a size, or `buy`."""
        if self.bought is not None:
            return Step("The visit is over.", done=True, valid=False)
        if found := re.fullmatch(r"search ([a-z ]{1,60})", action.strip()):
            return self._search(found[1].split())
        if found := re.fullmatch(r"click ([A-Za-z0-9]{1,12})", action.strip()):
            return self._click(found[1])
        return Step("Nothing happens.", valid=False)

    def _search(self, words: list[str]) -> Step:
        # The page lists what is of a kind searched for, in the shop's own order.
        hits = [p for p in self.item["products"] if p["good"] in words]
        if not hits:
            return Step("Nothing happens.", valid=False)
        self.found, self.product, self.size = hits, None, None
        listing = ", ".join(f"{p['colour']} {p['code']}" for p in hits)
        return Step(f"{', '.join(dict.fromkeys(p['good'] for p in hits))}: {listing}.")

    def _click(self, what: str) -> Step:
        if self.product is None:
            for product in self.found:
                if product["code"] == what:
                    self.product = product
                    return Step(f"{product['colour']} {product['good']}. Sizes: {', '.join(product['sizes'])}. buy.")
        elif what == "buy":
            self.bought = (self.product, self.size)
            return Step("Thank you.", done=True)
        elif what in self.product["sizes"]:
            self.size = what
            return Step(f"Size {what}. buy.")
        return Step("Nothing happens.", valid=False)

    def score(self) -> float:
        """Share of the three wishes met by what was bought, as WebShop's attribute reward."""
        if self.bought is None:
            return 0.0
        product, size = self.bought
        wishes = (
            product["colour"] == self.item["colour"],
            product["good"] == self.item["good"],
            size == self.item["size"],
        )
        return sum(wishes) / 3

    def oracle(self) -> Move:
        """Search for the wish, open the product that matches, choose the size, buy."""
        colour, good, size = self.item["colour"], self.item["good"], self.item["size"]
        wanted = next(p for p in self.item["products"] if (p["colour"], p["good"]) == (colour, good))
        if self.product is not None and self.product is not wanted:
            return Move(f"this is no {colour} {good}. search again.", f"search {good}")
        if self.product is wanted:
            if self.size != size:
                return Move(f"the size is {size}.", f"click {size}")
            return Move(f"size {size} is set.", "click buy")
        if wanted in self.found:
            return Move(f"{colour} {wanted['code']}.", f"click {wanted['code']}")
        return Move(f"find {colour} {good}.", f"search {good}")

    def actions(self) -> list[str]:
        """Admissible actions now; a search always is."""
        found = [f"search {good}" for good in dict.fromkeys(p["good"] for p in self.item["products"])]
        if self.product is not None:
            return [*found, "click buy", *(f"click {size}" for size in self.product["sizes"])]
        return [*found, *(f"click {p['code']}" for p in self.found)]

    def close(self) -> None:
        """Nothing to give back."""
