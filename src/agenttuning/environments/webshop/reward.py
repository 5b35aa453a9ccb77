"""The reward of a purchase, in [0, 1] (web_agent_site/engine/goal.py, `get_reward`).

    (attributes met + options met + price kept) / (attributes + options + 1), times the type score

Attributes and options are met by thefuzz's `token_set_ratio` above 85. WebShop and AgentBench pin thefuzz 0.19.0 and
no python-Levenshtein, so that its ratio is difflib's; so it is here. The type score compares categories and the nouns
of the titles; the nouns are spaCy's where it is installed, and guessed else (`tagger`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache

from agenttuning.environments.webshop.catalogue import Product

MATCH = 85  # goal.py: a ratio above it is a match
SPACY_MODEL = "en_core_web_lg"  # AgentBench's goal.py; WebShop's own has en_core_web_sm

# web_agent_site/engine/normalize.py: an option is compared by the first of these that it contains, in this order.
COLOURS = (
    "alabaster", "apricot", "aqua", "ash", "asphalt", "azure", "banana", "beige", "black", "blue", "blush",
    "bordeaux", "bronze", "brown", "burgundy", "camel", "camo", "caramel", "champagne", "charcoal", "cheetah",
    "chestnut", "chocolate", "christmas", "coffee", "cognac", "copper", "coral", "cranberry", "cream", "crystal",
    "dark", "denim", "eggplant", "elephant", "espresso", "fuchsia", "gold", "granite", "grape", "graphite", "grass",
    "gray", "green", "grey", "heather", "indigo", "ivory", "ivy", "khaki", "lavender", "lemon", "leopard", "light",
    "lilac", "lime", "magenta", "maroon", "mauve", "merlot", "midnight", "mint", "mocha", "multicolor", "mushroom",
    "mustard", "natural", "navy", "nude", "olive", "orange", "peach", "pewter", "pink", "plum", "purple", "rainbow",
    "red", "rose", "royal", "rust", "sand", "sapphire", "seashell", "silver", "skull", "slate", "steel", "stone",
    "stonewash", "sunflower", "tan", "taupe", "teal", "tiger", "turquoise", "violet", "walnut", "wheat", "white",
    "wine", "yellow",
)  # fmt: skip

# Words that name nothing, for titles without a tagger.
_NOT_NOUNS = frozenset((
    "a", "an", "and", "are", "as", "at", "be", "by", "can", "each", "every", "for", "from", "has", "have", "in",
    "includes", "into", "is", "it", "its", "new", "no", "not", "of", "off", "on", "only", "or", "other", "our",
    "out", "over", "per", "plus", "so", "than", "that", "the", "their", "these", "this", "those", "to", "under",
    "up", "use", "very", "via", "with", "without", "you", "your",
))  # fmt: skip
_WORD = re.compile(r"[^\W\d_][^\W_]*")

Nouns = Callable[[str], list[str]]


@dataclass(frozen=True)
class Reward:
    """The reward and its parts. `options` is None for a goal without options; `price`: at most the cap was paid."""

    total: float
    type: float
    attributes: float
    options: float | None
    price: bool


def guessed_nouns(title: str) -> list[str]:
    """The words of a title, lower case, without function words and numbers: titles are mostly nouns and names."""
    return [word for word in map(str.lower, _WORD.findall(title)) if word not in _NOT_NOUNS]


@lru_cache(maxsize=1)
def tagger() -> tuple[Nouns, str | None]:
    """The function that finds a title's nouns, and the spaCy model behind it (None: guessed)."""
    try:
        import spacy

        model = spacy.load(SPACY_MODEL)
    except (ImportError, OSError):
        return guessed_nouns, None
    return lambda title: [token.text.lower() for token in model(title) if token.pos_ in ("NOUN", "PROPN")], SPACY_MODEL


def _ratio(first: str, second: str) -> int:
    if not first or not second:
        return 0
    return round(100 * SequenceMatcher(None, first, second).ratio())


def _words(text: str) -> set[str]:
    return set(re.sub(r"\W", " ", text.encode("ascii", "ignore").decode()).lower().split())


@lru_cache(maxsize=1 << 16)  # the same options and attributes are compared again and again
def token_set_ratio(first: str, second: str) -> int:
    """thefuzz 0.19's fuzz.token_set_ratio, 0..100: how alike two texts are as sets of words."""
    ours, theirs = _words(first), _words(second)
    if not ours or not theirs:
        return 0
    if ours <= theirs or theirs <= ours:
        return 100  # what follows would find it as well
    shared = " ".join(sorted(ours & theirs))
    left = f"{shared} {' '.join(sorted(ours - theirs))}".strip()
    right = f"{shared} {' '.join(sorted(theirs - ours))}".strip()
    return max(_ratio(shared, left), _ratio(shared, right), _ratio(left, right))


def matches(found: str, wanted: str) -> bool:
    """True when a product's attribute or option meets a wanted one."""
    return token_set_ratio(found, wanted) > MATCH


def first_colour(option: str) -> str:
    """The first of COLOURS that the text contains ("layered" contains "red"), else the text."""
    return next((colour for colour in COLOURS if colour in option), option)


def option_met(chosen: list[str], wanted: str) -> bool:
    """True when one of the chosen options meets the wanted one."""
    return any(matches(first_colour(option), first_colour(wanted)) for option in chosen)


def attribute_met(product: Product, wanted: str) -> bool:
    """True when an attribute of the product meets the wanted one, or its texts contain it."""
    if any(matches(attribute, wanted) for attribute in product.attributes):
        return True
    texts = (product.title, " ".join(product.bullets), product.description)
    return any(wanted in text.lower() for text in texts)


def type_score(product: Product, goal: dict, nouns: Nouns) -> float:
    """1.0, 0.5, 0.1 or 0.0: is it the kind of thing that was wanted?"""
    categories = [
        {part.strip() for part in text.split("›")} for text in (product.product_category, goal["product_category"])
    ]
    bought, wanted = nouns(product.title), nouns(goal["name"])
    title = len(set(bought) & set(wanted)) / len(wanted) if wanted else 0.2
    if title == 0.0:
        return 0.0
    if title < 0.1:
        return 0.1
    alike = product.query == goal["query"] or len(categories[0] & categories[1]) >= 2 or title > 0.2
    return 1.0 if alike else 0.5


def reward(product: Product, price: float, chosen: list[str], goal: dict, nouns: Nouns) -> Reward:
    """The reward for buying `product` at `price` dollars with the options `chosen`."""
    attributes, options = goal["attributes"], goal["options"]
    kind = type_score(product, goal, nouns)
    attributes_met = sum(attribute_met(product, wanted) for wanted in attributes)
    options_met = sum(option_met(chosen, wanted) for wanted in options)
    kept = price <= goal["price_upper"]
    total = (attributes_met + options_met + kept) / (len(attributes) + len(options) + 1) * kind
    shares = attributes_met / len(attributes), options_met / len(options) if options else None
    return Reward(total, kind, *shares, kept)
