"""One visit to the shop: which page is open, what is chosen, what was bought.

After web_agent_site/envs/web_agent_text_env.py of princeton-nlp/WebShop (`step`, `SimServer.receive`). An action is

    search[keywords]    on any page, as there; the 50 best products, ten to a page
    click[text]         a button, an asin or an option of the page, in any case; the search button does nothing

and anything else changes nothing. The keywords <r>, <a>, <c> and <q> are a back door for the original's developers
(a random or a whole list of products); here they are words like others.
"""

from __future__ import annotations

import re

from agenttuning.environments import Move, Step
from agenttuning.environments.webshop import expert, pages
from agenttuning.environments.webshop.catalogue import Catalogue, Product
from agenttuning.environments.webshop.reward import Nouns, Reward, reward

RESULTS = 50  # engine.py, SEARCH_RETURN_N
PER_PAGE = 10  # engine.py, PRODUCT_WINDOW
MOST_KEYWORDS = 20_000  # characters of a search that are read; not stated; we chose what action_chars lets through
_SUB_PAGES = {name.lower(): name for name in pages.SUB_PAGES}


def parse(action: str) -> tuple[str, str] | None:
    """Name and argument of an action, None for what is none; engine.py's `(.+)\\[(.+)\\]`, but linear."""
    line = action.split("\n", 1)[0]
    end = line.rfind("]")
    start = line.rfind("[", 0, max(end - 1, 0))
    return (line[:start], line[start + 1 : end]) if start > 0 else None


class Environment:
    """A visit with one goal. `with_actions`: observations are AgentBench's messages, which list what can be done on
    the page, and not the bare pages that AgentInstruct's rows hold.
    """

    def __init__(self, goal: dict, catalogue: Catalogue, nouns: Nouns, with_actions: bool = True) -> None:
        self.goal, self.catalogue, self.nouns, self.with_actions = goal, catalogue, nouns, with_actions

    def reset(self) -> str:
        """The search page, which states the goal."""
        self.plan: expert.Plan | None = None
        self.reward: Reward | None = None
        self.asin: str | None = None
        self._back_to_search()
        return self._observation()

    def _back_to_search(self) -> None:
        self.keywords: str | None = None
        self.number, self.found = 1, []
        self._leave_product()

    def _leave_product(self) -> None:
        self.asin, self.sub_page, self.options = None, None, {}

    @property
    def product(self) -> Product | None:
        """The product whose page, or sub page, is open."""
        return self.catalogue.of(self.asin) if self.asin else None

    @property
    def listed(self) -> list[Product]:
        """The products on the open page of results."""
        first = (self.number - 1) * PER_PAGE
        return [self.catalogue.product(place) for place in self.found[first : first + PER_PAGE]]

    def clickables(self) -> list[str]:
        """What can be clicked on the page, in the original's order and writing."""
        if self.reward is not None:
            return []
        if self.keywords is None:
            return ["search"]
        buttons = ["back to search"]
        if self.asin is None:
            buttons += ["< prev", "next >"] if self.number > 1 else ["next >"]
            return buttons + [product.asin.lower() for product in self.listed]
        buttons.append("< prev")
        if self.sub_page is not None:
            return buttons
        values = [value for values in self.product.options.values() for value in values]
        return list(dict.fromkeys([*buttons, *_SUB_PAGES, "buy now", *values]))

    def _page(self) -> str:
        instruction = self.goal["instruction"]
        if self.reward is not None:
            return pages.done_page(self.asin, self.options, self.reward.total)
        if self.keywords is None:
            return pages.search_page(instruction)
        if self.asin is None:
            return pages.results_page(instruction, self.number, len(self.found), self.listed)
        if self.sub_page is not None:
            return pages.sub_page(instruction, self.sub_page, self.product)
        return pages.item_page(instruction, self.product)

    def _observation(self) -> str:
        page = self._page()
        if not self.with_actions or self.reward is not None:
            return page
        available = {"has_search_bar": self.keywords is None, "clickables": self.clickables()}
        return f"Observation:\n{page}\n\nAvailable Actions:\n{available}"

    def step(self, action: str) -> Step:
        """See the module. Buying ends the visit; `valid` is False for what is no action or not on the page."""
        name, argument = parse(action) or ("", "")
        argument = argument.lower()
        valid = self.reward is None
        if valid and name == "search":
            self._search(argument)
        elif valid and name == "click" and argument != "search" and argument in self.clickables():
            self._click(argument)
        else:
            valid = False
        return Step(self._observation(), done=self.reward is not None, valid=valid)

    def _search(self, keywords: str) -> None:
        self._back_to_search()
        self.keywords = keywords
        self.found = self.catalogue.index.search(keywords[:MOST_KEYWORDS], RESULTS)

    def _click(self, name: str) -> None:
        match name:
            case "back to search":
                self._back_to_search()
            case "next >" if self.asin is None:
                self.number += 1
            case "< prev" if self.asin is None:
                self.number -= 1
            case "< prev" if self.sub_page is not None:
                self.sub_page = None
            case "< prev":
                self._leave_product()
            case "buy now":
                self.reward = reward(
                    self.product, self.catalogue.price(self.asin), list(self.options.values()), self.goal, self.nouns
                )
            case _ if self.asin is None:
                self.asin = next(product.asin for product in self.listed if product.asin.lower() == name)
            case _ if name in _SUB_PAGES:
                self.sub_page = _SUB_PAGES[name]
            case _:
                # Of two options with the same value the page knows the later one.
                *_, option = (option for option, values in self.product.options.items() if name in values)
                self.options[option] = name

    def score(self) -> float:
        """The reward of the purchase, 0.0 before it."""
        return 0.0 if self.reward is None else self.reward.total

    def metrics(self) -> dict:
        """Whether something was bought, and the parts of its reward."""
        if self.reward is None:
            return {"bought": False}
        parts = {"type": self.reward.type, "attributes": self.reward.attributes, "price": float(self.reward.price)}
        return {"bought": True, **parts, **({} if self.reward.options is None else {"options": self.reward.options})}

    def oracle(self) -> Move:
        """The scripted expert's next move; it knows the goal's product."""
        return expert.next_move(self)

    def actions(self) -> list[str]:
        """The clicks of the page that can be written as one action; on the search page, its words one by one."""
        if self.keywords is None:
            words = sorted(set(re.findall(r"[^\W\d_]{4,}", self.goal["instruction"].lower())))
            return [f"search[{word}]" for word in words or ["product"]]
        return [f"click[{text}]" for text in self.clickables() if expert.writable(text)]

    def close(self) -> None:
        """Nothing to give back."""
