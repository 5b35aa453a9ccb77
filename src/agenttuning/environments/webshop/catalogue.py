"""The catalogue of a shop: WebShop's product files, read once, in one pass, and checked.

Field by field after web_agent_site/engine/engine.py of princeton-nlp/WebShop (`load_products`): which records are left
out, how prices, options and bullet points are made of them. Reviews are never loaded there, so a product has none.
"""

from __future__ import annotations

import json
import random
import re
import zlib
from array import array
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from decimal import Decimal, InvalidOperation
from functools import cached_property, lru_cache

from agenttuning.environments.webshop.search import Index
from agenttuning.errors import UserError

NO_PRICE = 100.0  # engine.py: the price of a product without one
NO_ATTRIBUTES = ["DUMMY_ATTR"]  # engine.py
ASIN_CHARS = 10  # engine.py: a longer id, or "nan", is not a product
KEPT = 8192  # products kept unpacked


@dataclass(frozen=True)
class Product:
    """One product as the pages show it. `options`: name -> values, lower case. `price`: the tag, as text."""

    asin: str
    title: str
    price: str
    description: str
    bullets: list[str]
    options: dict[str, list[str]]
    attributes: list[str]
    category: str
    query: str
    product_category: str


class Catalogue:
    """Products by number and by asin, their prices in dollars, and one search index; read-only once it is built.

    Products are kept packed (about 1 kB each), so that the 1.18 million of the full catalogue fit.
    """

    def __init__(self, products: Iterable[tuple[Product, list[float]]], rng: random.Random) -> None:
        self.place: dict[str, int] = {}
        self.asins: list[str] = []
        self.prices = array("d")
        self._packed: list[bytes] = []
        for product, prices in products:
            if product.asin in self.place:
                continue
            self.place[product.asin] = len(self.asins)
            self.asins.append(product.asin)
            # Drawn in the order of the file, as engine.py draws them (there from an RNG that nobody seeds).
            self.prices.append(prices[0] if len(prices) == 1 else rng.uniform(*prices))
            self._packed.append(zlib.compress(json.dumps(astuple(product)).encode(), 1))
        self.product = lru_cache(maxsize=KEPT)(self._unpack)

    def __len__(self) -> int:
        return len(self.asins)

    def _unpack(self, number: int) -> Product:
        return Product(*json.loads(zlib.decompress(self._packed[number])))

    def of(self, asin: str) -> Product:
        """The product of an asin. Raises KeyError when the catalogue has none."""
        return self.product(self.place[asin])

    def price(self, asin: str) -> float:
        """What the product costs, in dollars: of a price range, a number drawn from it."""
        return self.prices[self.place[asin]]

    @cached_property
    def index(self) -> Index:
        """The search index, built when first asked for."""
        return Index((contents(self._unpack(number)) for number in range(len(self))), self.asins)


def contents(product: Product) -> str:
    """The text that is searched (search_engine/convert_product_file_format.py): of the bullet points, the first."""
    options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in product.options.items())
    first = product.bullets[0] if product.bullets else ""
    return " ".join([product.title, product.description, first, options]).lower()


def product_of(record: dict, attributes: dict[str, list[str]]) -> tuple[Product, list[float]] | None:
    """A record of items_shuffle.json as product with its one or two prices, None for one that the original leaves out.

    Raises UserError for a record that is not of the schema, naming the field.
    """
    asin = _text(record, "asin", "?")
    if asin == "nan" or len(asin) > ASIN_CHARS:
        return None
    prices = _prices(record.get("pricing"), asin)
    bullets = record.get("small_description")
    if not isinstance(bullets, str | list):
        raise _bad(asin, "small_description", bullets, "a text or a list of texts")
    product = Product(
        asin=asin,
        title=_text(record, "name", asin),
        price=" to ".join(f"${price}" for price in prices),
        description=_text(record, "full_description", asin),
        bullets=[bullets] if isinstance(bullets, str) else [str(bullet) for bullet in bullets],
        options=_options(record.get("customization_options"), asin),
        attributes=attributes.get(asin, NO_ATTRIBUTES),
        category=_text(record, "category", asin),
        query=_text(record, "query", asin).lower().strip(),
        product_category=_text(record, "product_category", asin),
    )
    return product, prices


def _bad(asin: str, key: str, seen: object, wanted: str) -> UserError:
    return UserError(
        f"product {asin[:40]!r} has {repr(seen)[:80]} for {key}; its pages and rewards would be made up; "
        f"it must be {wanted}, as in WebShop's items_shuffle.json"
    )


def _text(record: dict, key: str, asin: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise _bad(asin, key, value, "a text")
    return value


def _prices(pricing: object, asin: str) -> list[float]:
    if not pricing:
        return [NO_PRICE]
    try:
        found = [float(Decimal(re.sub(r"[^\d.]", "", part))) for part in pricing.split("$")[1:]][:2]
    except (AttributeError, InvalidOperation):
        found = []
    if not found:
        raise _bad(asin, "pricing", pricing, "dollars, or two of them")
    return found


def _options(raw: object, asin: str) -> dict[str, list[str]]:
    if not raw:
        return {}
    try:
        return {
            name.lower(): [value["value"].strip().replace("/", " | ").lower() for value in values]
            for name, values in raw.items()
            if values is not None
        }
    except (AttributeError, KeyError, TypeError):
        raise _bad(asin, "customization_options", raw, "name -> list of {value: text}, or empty") from None
