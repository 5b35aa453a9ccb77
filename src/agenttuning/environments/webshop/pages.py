"""The pages of the shop as the original's text mode shows them: the visible texts, joined by " [SEP] ".

After web_agent_site/templates and `convert_html_to_text` (web_agent_text_env.py): every page is a list of the texts
between its tags. What a model reads is the original's, word for word, as it was trained on it.
"""

from __future__ import annotations

import json

from agenttuning.environments.webshop.catalogue import Product

SUB_PAGES = ("Description", "Features", "Reviews")
_WHITESPACE = " \n\t\f\r"


def _shown(texts: list[str]) -> str:
    # Beautiful Soup makes "\n" of blank text that has a line break, and the original leaves "\n" out; no text, no node.
    nodes = [text for text in texts if text and (text.strip(_WHITESPACE) or "\n" not in text)]
    return " [SEP] ".join(text.strip() for text in nodes)


def search_page(instruction: str) -> str:
    """Where an episode begins."""
    return _shown(["WebShop", "Instruction: ", instruction, "Search"])


def _head(instruction: str) -> list[str]:
    return ["Instruction:", instruction, "Back to Search"]


def results_page(instruction: str, page: int, total: int, products: list[Product]) -> str:
    """One page of the results, from 1; "Next >" stands on the last as well."""
    buttons = ["< Prev", "Next >"] if page > 1 else ["Next >"]
    found = [text for product in products for text in (product.asin, product.title, product.price)]
    return _shown([*_head(instruction), f"Page {page} (Total results: {total})", *buttons, *found])


def item_page(instruction: str, product: Product) -> str:
    """A product; which options are chosen is not to be seen."""
    options = [text for name, values in product.options.items() for text in (name, *values)]
    facts = [product.title, f"Price: {product.price}", "Rating: N.A."]
    return _shown([*_head(instruction), "< Prev", *options, *facts, *SUB_PAGES, "Buy Now"])


def sub_page(instruction: str, name: str, product: Product) -> str:
    """One of SUB_PAGES of a product."""
    texts = {
        "Description": [f"\n{product.description or 'No Description'}\n"],
        "Features": [f" {bullet}" for bullet in product.bullets] or ["No Features"],
        "Reviews": ["No reviews found"],
    }[name]
    return _shown([*_head(instruction), "< Prev", *texts])


def done_page(asin: str, options: dict[str, str], reward: float) -> str:
    """What follows a purchase; no reply follows it. The blanks are the original's: it fills in none of them here."""
    chosen = json.dumps(options, sort_keys=True)
    for sign in "<>&'":  # as Flask writes JSON into a page
        chosen = chosen.replace(sign, f"\\u{ord(sign):04x}")
    bought = ["Purchased", "asin", asin, "options", chosen]
    bought += [text for name in ("attrs", "category", "query", "product category") for text in (name, "None")]
    target = ["Target", "asin", "options", "attrs", "price upper", "instuction text", "category", "product category"]
    return _shown(
        ["Thank you for shopping with us!", "Your code: ", "None", "(Paste it in your MTurk interface.)", *bought]
        + [*target, "query", "Goal", "None", "Reward", "Your score (min 0.0, max 1.0)", str(reward)]
        + ["Reward Details", "None"]
    )
