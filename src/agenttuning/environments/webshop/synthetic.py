"""A generated catalogue, and practice goals for it: nobody's products, in the schema of WebShop's files.

The catalogue is one and the same for everybody. The goals of split "test" ask for the fifth of its products that
training never asks for (`environments.reserved`), though all can be found and bought.
"""

from __future__ import annotations

import random
from functools import lru_cache

from agenttuning.environments import reserved
from agenttuning.environments.webshop.catalogue import Catalogue, product_of
from agenttuning.environments.webshop.goals import goal_of

OF_EACH = 40  # products of a kind
_COLOURS = ["black", "white", "navy", "grey", "red", "green", "teal", "ivory", "brown", "yellow", "purple", "pink"]
_CLOTHES = ("x-small", "small", "medium", "large", "x-large", "xx-large")
_SHOES = tuple(f"{size} wide" if size > 8 else str(size) for size in range(5, 13))
_BRANDS = (
    "Alvero", "Brinmark", "Calder", "Dovetail", "Elmswood", "Fennick", "Garnet", "Halden", "Ilvermoor", "Jorvik",
    "Kestrelle", "Lumora", "Marrowby", "Norvale", "Ostrand", "Pellgrave", "Quillon", "Ravensby", "Solveig",
    "Tarrant", "Umberline", "Velloway", "Wexcombe", "Yarrowdale", "Zephyrine",
)  # fmt: skip
_COMFORT = ("machine washable", "long sleeve", "slim fit", "quick drying", "tummy control", "hand wash", "stretchy")
_SOLES = ("rubber sole", "memory foam", "non slip", "arch support", "lace up", "ankle strap", "faux fur lining")
_FOOD = ("gluten free", "sugar free", "low sodium", "non gmo", "dairy free", "high protein", "individually wrapped")
_POWER = ("fast charging", "noise cancelling", "water resistant", "long lasting battery", "hands free", "plug and play")
_ROOM = ("solid wood", "easy to assemble", "stainless steel", "space saving", "heavy duty", "easy to clean", "recycled")
_SKIN = ("cruelty free", "paraben free", "tea tree", "hyaluronic acid", "sensitive skin", "fragrance free", "vegan")

# what it is called, where it stands, its attributes, its options, the least and the most that it costs in dollars
_KINDS = (
    ("raincoat", "Clothing › Outerwear › Raincoats", _COMFORT, {"color": _COLOURS, "size": _CLOTHES}, 19, 120),
    ("cardigan", "Clothing › Knitwear › Cardigans", _COMFORT, {"color": _COLOURS, "size": _CLOTHES}, 14, 90),
    ("swim shorts", "Clothing › Swimwear › Shorts", _COMFORT, {"color": _COLOURS, "size": _CLOTHES}, 9, 45),
    ("hiking boots", "Shoes › Boots › Hiking", _SOLES, {"size": _SHOES, "color": _COLOURS}, 35, 220),
    ("house slippers", "Shoes › Slippers › House", _SOLES, {"size": _SHOES, "color": _COLOURS}, 8, 40),
    ("oat crackers", "Grocery › Snacks › Crackers", _FOOD, {"flavor name": ("sea salt", "rosemary", "black pepper",
     "cheddar", "garlic"), "size": ("8 ounce (pack of 1)", "8 ounce (pack of 3)", "8 ounce (pack of 6)")}, 4, 30),
    ("protein bars", "Grocery › Snacks › Bars", _FOOD, {"flavor name": ("peanut", "cocoa", "vanilla", "blueberry",
     "caramel"), "size": ("6 count", "12 count", "24 count")}, 9, 50),
    ("green tea", "Grocery › Beverages › Tea", _FOOD, {"size": ("20 bags", "50 bags", "100 bags"),
     "style": ("loose leaf", "pyramid bags")}, 5, 35),
    ("bluetooth speaker", "Electronics › Audio › Speakers", _POWER, {"color": _COLOURS}, 18, 240),
    ("phone charger", "Electronics › Power › Chargers", _POWER, {"color": _COLOURS[:4],
     "size": ("3 ft", "6 ft", "10 ft")}, 7, 60),
    ("wireless earbuds", "Electronics › Audio › Headphones", _POWER, {"color": _COLOURS}, 15, 180),
    ("security camera", "Electronics › Video › Cameras", _POWER, {"style": ("1 camera", "2 cameras", "4 cameras"),
     "color": _COLOURS[:3]}, 25, 400),
    ("bookcase", "Furniture › Storage › Bookcases", _ROOM, {"color": ("oak", "walnut", "white", "espresso"),
     "size": ("3-tier", "4-tier", "5-tier")}, 45, 380),
    ("bar stool", "Furniture › Seating › Stools", _ROOM, {"color": _COLOURS, "size": ("24 inch", "26 inch",
     "30 inch")}, 40, 310),
    ("spice rack", "Home › Kitchen › Storage", _ROOM, {"size": ("2-tier", "3-tier", "4-tier")}, 12, 70),
    ("shower curtain", "Home › Bath › Curtains", _ROOM, {"color": _COLOURS, "size": ("36 x 72 inch", "60 x 72 inch",
     "72 x 84 inch")}, 10, 60),
    ("night cream", "Beauty › Skin Care › Creams", _SKIN, {"size": ("1 fl oz", "1.7 fl oz", "3.4 fl oz")}, 8, 95),
    ("hair brush", "Beauty › Hair Care › Brushes", _SKIN, {"color": _COLOURS, "style": ("paddle", "round",
     "folding")}, 5, 35),
    ("body lotion", "Beauty › Body › Lotions", _SKIN, {"scent": ("lavender", "unscented", "citrus", "almond"),
     "size": ("8 fl oz", "12 fl oz (pack of 2)", "16 fl oz")}, 6, 55),
    ("storage basket", "Home › Storage › Baskets", _ROOM, {"color": _COLOURS, "size": ("small", "medium",
     "large")}, 9, 65),
)  # fmt: skip

_ASKS = (
    "i am looking for {thing}",
    "i need {thing}",
    "find me {thing}",
    "i would like to buy {thing}",
    "please get me {thing}",
)
_HAS = (" that has {0}", " with {0}", ", it should have {0}")


def records() -> tuple[list[dict], dict[str, dict]]:
    """The catalogue as items_shuffle.json and items_ins_v2.json would hold it."""
    rng = random.Random(f"{__name__}/records")
    products, attributes = [], {}
    for number, (query, path, pool, options, least, most) in enumerate(OF_EACH * _KINDS):
        asin = f"B{rng.randrange(10**6):06d}{number:03d}"  # ten characters, as real ones; unique by the number
        has = rng.sample(pool, rng.randint(2, 4))
        brand, model = rng.choice(_BRANDS), f"{rng.choice('ABCDEFGHKLMNPRSTVWXZ')}{number:03d}"
        low = round(rng.uniform(least, most), 2)
        # As in the real catalogue: most have a price, some a range, a few none.
        price = rng.choices([f"${low}", f"${low}${round(low * 1.4, 2)}", ""], [80, 15, 5])[0]
        title = f"{brand} {has[0].title()} {query.title()} with {has[1].title()}, Model {model}"
        offers = {
            name.title(): [
                {"value": value.title(), "image": None}
                for value in sorted(rng.sample(values, rng.randint(2, min(5, len(values)))), key=list(values).index)
            ]
            for name, values in options.items()
        }
        bullets = [f"{text.capitalize()}: {brand} makes this {query} for every day." for text in has]
        products.append(
            {
                "asin": asin,
                "name": title,
                "pricing": price,
                "full_description": f"The {brand} {model} is a {query} for people who want {' and '.join(has)}.",
                "small_description": bullets if rng.random() < 0.9 else bullets[0],
                "customization_options": offers if rng.random() < 0.9 else "",
                "category": path.split(" › ")[0].lower(),
                "query": query,
                "product_category": path,
                "images": [""],
            }
        )
        attributes[asin] = {"attributes": has}
    rng.shuffle(products)
    return products, attributes


@lru_cache(maxsize=1)
def catalogue() -> Catalogue:
    """The generated catalogue, built once."""
    products, attributes = records()
    known = {asin: entry["attributes"] for asin, entry in attributes.items()}
    return Catalogue((product_of(product, known) for product in products), random.Random(f"{__name__}/prices"))


def draw(rng: random.Random, test: bool) -> dict | None:
    """A goal for a product of the split, None when the product drawn is the other split's."""
    stock = catalogue()
    asin = rng.choice(stock.asins)
    if reserved("webshop", asin) != test:
        return None
    product = stock.of(asin)
    attributes = rng.sample(product.attributes, rng.randint(1, 2))
    names = rng.sample(sorted(product.options), rng.randint(0, len(product.options)))
    options = {name: rng.choice(product.options[name]) for name in names}
    wish = rng.choice(_ASKS).format(thing=product.query) + rng.choice(_HAS).format(" and ".join(attributes))
    wish += "".join(f", {name}: {value}" for name, value in options.items()) + "."
    return goal_of(stock, asin, wish, attributes, list(options.values()), rng)
