"""A web page as Mind2Web shows it: cut down to the neighbourhood of some elements, and written as short text.

The rules are those of Mind2Web's data_utils/dom_utils.py (`prune_tree`, `get_tree_repr`), which AgentBench took over;
the numbers below are its defaults. The text is part of what models were trained on, so every quirk of it stays.

A page is the data set's `cleaned_html`: XML in which an element has the attribute `backend_node_id` and all text stands
in elements named `text`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

from lxml import etree

ID = "backend_node_id"
TEXT = "text"
DEPTH = 6  # generations below an element that are kept
DESCENDANTS = 50  # of them at most this many, in the order of the page
SIBLINGS = 3  # neighbours kept on each side
VALUE_WORDS = 5  # of an attribute's value
VALUE_LETTERS = 14  # a longer word of a value is left out
WORDS = 20  # of all attributes of an element, and of one text
# In this order the values of an element are written; their names are not.
SHOWN = (
    *("role", "aria_role", "type", "alt", "aria_description", "aria_label", "label", "title", "name", "text_value"),
    *("value", "placeholder", "input_checked", "input_value", "option_selected", "class"),
)
SAYS_NOTHING = {"hidden", "none", "presentation", "null", "undefined"}
# `&amp;` is undone before the rest, so that a doubly escaped sign is undone twice: as in the original.
ESCAPES = (
    *(("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"), ("&nbsp;", " "), ("&ndash;", "-")),
    *(("&rsquo;", "'"), ("&lsquo;", "'"), ("&ldquo;", '"'), ("&rdquo;", '"'), ("&#39;", "'")),
    *(("&#40;", "("), ("&#41;", ")")),
)


def parse(html: str) -> Any:
    """The root element of a page. Raises lxml.etree.XMLSyntaxError (a ValueError) for text that is none."""
    # Nothing is fetched and no entity of a document's own is expanded: a page is somebody else's text.
    return etree.fromstring(html, etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False))


def pruned(page: Any, wanted: list[str]) -> Any:
    """A copy of the page with the `wanted` elements (ids), what is above, inside and beside them, and no more.

    Only wanted elements keep their id. An element left with nothing to say and at most one child gives way to it.
    Raises KeyError for an id that the page does not have.
    """
    tree = copy.deepcopy(page)
    keep = _neighbourhood(tree, wanted)
    # From the end: an element comes after everything inside it, and still has its id when that looks up.
    for node in reversed(tree.xpath("//*")):
        parent = node.getparent()
        owner = parent if node.tag == TEXT and parent is not None else node
        if _id(owner) not in keep and parent is not None:
            parent.remove(node)
            continue
        if node.tag == TEXT or _id(node) not in wanted:
            node.attrib.pop(ID, None)
        if node.tag != TEXT and parent is not None and _empty(node):
            for child in list(node):
                node.addprevious(child)
            parent.remove(node)
    return tree


def _neighbourhood(tree: Any, wanted: list[str]) -> set[str]:
    places: dict[str, Any] = {}
    for node in tree.iter(etree.Element):
        places.setdefault(_id(node), node)
    keep: set[str] = set()
    for identity in wanted:
        node = places[identity]
        inside = [_id(below) for below in _below(node, DEPTH)]
        keep |= {identity, *map(_id, node.iterancestors()), *inside[:DESCENDANTS]}
        parent = node.getparent()
        beside = [] if parent is None else [child for child in parent if child.tag != TEXT]
        if node in beside:
            at = beside.index(node)
            keep |= set(map(_id, beside[max(0, at - SIBLINGS) : at + SIBLINGS + 1]))
    return keep


def _below(node: Any, generations: int) -> Iterator[Any]:
    if generations == 0:
        return
    for child in node:
        yield child
        yield from _below(child, generations - 1)


def _id(node: Any) -> str:
    return node.attrib.get(ID, "")


def _empty(node: Any) -> bool:
    return not node.attrib and len(node) <= 1 and not any(child.tag == TEXT for child in node)


def candidates(tree: Any) -> list[Any]:
    """The elements that have an id, in the order of the page."""
    return tree.xpath(f"//*[@{ID}]")


def written(tree: Any, numbers: dict[str, int]) -> str:
    """An element as text, `<button id=0 search> <span> Find </span> </button>`, on one line.

    `numbers` gives each id the number that is shown for it; ids it lacks are added, counting on.
    """
    tree = copy.deepcopy(tree)
    for node in tree.xpath("//*"):
        if node.tag == TEXT:
            node.text = " ".join((node.text or "").split()[:WORDS])
            continue
        said, identity = _said(node), node.attrib.get(ID)
        node.attrib.clear()
        if identity is not None:
            node.attrib["id"] = str(numbers.setdefault(identity, len(numbers)))
        if said:
            node.attrib["meta"] = said
    text = etree.tostring(tree, encoding="unicode").replace('"', " ")
    text = text.replace("meta= ", "").replace("id= ", "id=").replace(" >", ">")
    text = re.sub(r"<text>(.*?)</text>", r"\1", text)
    for escape, sign in ESCAPES:
        text = text.replace(escape, sign)
    return " ".join(text.split())


def _said(node: Any) -> str:
    said: dict[str, None] = {}
    for name in SHOWN:
        value = node.attrib.get(name, "").lower()
        if value in SAYS_NOTHING or value.startswith("http"):
            continue
        words = [word for word in value.split() if len(word) <= VALUE_LETTERS]
        said[" ".join(words[:VALUE_WORDS])] = None
    return " ".join(" ".join(said).split()[:WORDS])
