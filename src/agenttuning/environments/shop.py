"""A small web shop after WebShop's pattern: search, open a product, choose its size, buy.

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
RESULTS = 4  # products on a result page


def _draw(rng: random.Random, test: bool) -> dict | None:
    colour, good, size = rng.choice(COLOURS), rng.choice(GOODS), rng.choice(SIZES)
    if reserved(NAME, colour, good) != test:
        return None
    # Distractors share the kind or the colour with the wish, so that both must be looked at.
    others = [(colour, g) for g in GOODS if g != good] + [(c, good) for c in COLOURS if c != colour]
    pairs = [(colour, good), *rng.sample(others, RESULTS - 1)]
    rng.shuffle(pairs)
    codes = rng.sample([letter + str(digit) for letter in LETTERS for digit in range(10)], RESULTS)
    products = []
    for code, (c, g) in zip(codes, pairs, strict=True):
        sizes = rng.sample(SIZES, 2)
        if (c, g) == (colour, good) and size not in sizes:
            sizes[rng.randrange(2)] = size
        products.append({"code": code, "colour": c, "good": g, "sizes": sizes})
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
        # The page lists what shares a word with the query, in the shop's own order.
        hits = [p for p in self.item["products"] if {p["colour"], p["good"]} & set(words)]
        if not hits:
            return Step("Nothing happens.", valid=False)
        self.found, self.product, self.size = hits, None, None
        listing = ", ".join(f"{p['colour']} {p['good']} {p['code']}" for p in hits)
        return Step(f"Results: {listing}.")

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
            return Move(f"this is no {colour} {good}. search again.", f"search {colour} {good}")
        if self.product is wanted:
            if self.size != size:
                return Move(f"the size is {size}.", f"click {size}")
            return Move(f"size {size} is set.", "click buy")
        if wanted in self.found:
            return Move(f"I see {colour} {good} {wanted['code']}.", f"click {wanted['code']}")
        return Move(f"find {colour} {good}.", f"search {colour} {good}")

    def actions(self) -> list[str]:
        """Admissible actions now; a search always is."""
        found = [f"search {p['colour']} {p['good']}" for p in self.item["products"]]
        if self.product is not None:
            return [*found, "click buy", *(f"click {size}" for size in self.product["sizes"])]
        return [*found, *(f"click {p['code']}" for p in self.found)]

    def close(self) -> None:
        """Nothing to give back."""
