"""WebShop's format, and its pages against real AgentInstruct rows."""

from __future__ import annotations

import json
import random
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttuning.environments.webshop.catalogue import Catalogue, Product
from agenttuning.environments.webshop.reward import guessed_nouns
from agenttuning.environments.webshop.visit import Environment
from agenttuning.protocols.messages import Reading
from agenttuning.protocols.webshop import FORMAT, read, write

ROWS = Path(__file__).resolve().parents[2].parent / "shared/data/agentinstruct_sample/webshop.jsonl"
OURS = [  # a row in AgentInstruct's shape, written by hand
    "WebShop [SEP] Instruction: [SEP] i want a red mug, and price lower than 20.00 dollars [SEP] Search",
    "Thought:\nI search.\n\nAction:\nsearch[red mug]",
    "Instruction: [SEP] i want a red mug, and price lower than 20.00 dollars [SEP] Back to Search [SEP] "
    "Page 1 (Total results: 2) [SEP] Next > [SEP] B000000001 [SEP] Mug, red [SEP] $9.5 [SEP] B000000002 [SEP] "
    "Cup & saucer [SEP] $3.0 to $4.25",
    "Thought:\nThe first.\n\nAction:\nclick[B000000001]",
    "Instruction: [SEP] i want a red mug, and price lower than 20.00 dollars [SEP] Back to Search [SEP] < Prev [SEP] "
    "color [SEP] red [SEP] blue [SEP] size [SEP] 8 oz [SEP] Mug, red [SEP] Price: $9.5 [SEP] Rating: N.A. [SEP] "
    "Description [SEP] Features [SEP] Reviews [SEP] Buy Now",
    "Thought:\nRed.\n\nAction:\nclick[red]",
    "Instruction: [SEP] i want a red mug, and price lower than 20.00 dollars [SEP] Back to Search [SEP] < Prev [SEP] "
    "color [SEP] red [SEP] blue [SEP] size [SEP] 8 oz [SEP] Mug, red [SEP] Price: $9.5 [SEP] Rating: N.A. [SEP] "
    "Description [SEP] Features [SEP] Reviews [SEP] Buy Now",
    "Thought:\nBuy.\n\nAction:\nclick[Buy Now]",
]


@pytest.mark.parametrize(
    ("reply", "thought", "action"),
    [
        ("Thought:\nI think so.\n\nAction:\nsearch[a b]", "I think so.", "search[a b]"),
        ("Thought: t\naction:  \n  click[Buy Now] and more", "t", "click[Buy Now]"),
        ("Action:\nclick[a]\nAction:\nclick[b]", "", "click[a]"),
        ("Action:\nclick[< Prev]]", "", "click[< Prev]"),
        ("Action:\nclick[]]", "", "click[]]"),
        ("Action:\nsearch[open\nAction:\nsearch[closed]", "Action:\nsearch[open", "search[closed]"),
        ("Action: click[on the same line]", "Action: click[on the same line]", None),
        ("Action:\n\nclick[two breaks]", "Action:\n\nclick[two breaks]", None),
        ("ACTION:\nclick[a]", "ACTION:\nclick[a]", None),
        ("Action:\nbuy[a]", "Action:\nbuy[a]", None),
        ("Action:\nclick[]", "Action:\nclick[]", None),
        ("", "", None),
    ],
)
def test_read(reply: str, thought: str, action: str | None) -> None:
    assert read(reply, 100) == Reading(thought, action)


def test_a_long_action_is_cut_and_says_so() -> None:
    assert read("Action:\nsearch[abcdef]", 9) == Reading("", "search[ab", cut=True)


def test_what_is_written_is_read_back() -> None:
    assert read(write("a\nb", "click[x | y (1)]"), 100) == Reading("a\nb", "click[x | y (1)]")
    for thought, action in (("", "click[a]b]"), ("", "look"), ("Action:\nclick[z]", "click[a]"), ("", "click[a\nb]")):
        with pytest.raises(ValueError, match="cannot be written"):
            write(thought, action)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(st.characters(), max_size=200),  # lone surrogates included
        st.lists(st.sampled_from(["Action:", "action:", "\n", " ", "search[", "click[", "]", "\r", "\x00", "x"])).map(
            "".join
        ),
    ),
    st.integers(1, 30),
)
def test_reading_never_raises(reply: str, limit: int) -> None:
    found = read(reply, limit)
    assert found.action is None or 0 < len(found.action) <= limit


@pytest.mark.parametrize("piece", ["Action:", "Action: ", "Action:\n", "Action:\nclick[", "Action:" + 50 * " ", "["])
def test_a_megabyte_is_read_in_linear_time(piece: str) -> None:
    start = time.perf_counter()
    assert read(piece * (1_000_000 // len(piece)), 100).action is None
    assert read("Action:" + " " * 500_000 + "\n" + " " * 500_000, 100).action is None
    assert time.perf_counter() - start < 1.0


def _rows() -> list:
    if not ROWS.exists():
        return [pytest.param(None, id="no sample", marks=pytest.mark.skip(f"needs {ROWS.name} of AgentInstruct"))]
    rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    return [pytest.param([turn["value"] for turn in row["conversations"]][2:], id=row["id"]) for row in rows]


def _shop_of(turns: list[str]) -> tuple[Catalogue, dict]:
    """A catalogue of the products that a row shows, whose search gives them in the row's order, and the row's goal."""
    listed, options, total, instruction = {}, {}, 0, turns[0].split(" [SEP] ")[2]
    for page in turns[::2]:
        texts = page.split(" [SEP] ")
        if texts[0] == "WebShop":
            continue
        if texts[3].startswith("Page "):
            total = int(re.fullmatch(r"Page 1 \(Total results: (\d+)\)", texts[3])[1])
            listed = {texts[n]: (texts[n + 1], texts[n + 2]) for n in range(5, len(texts), 3)}
        else:
            groups: dict[str, list[str]] = {}
            for text in texts[4:-7]:
                if text in ("color", "size", "style", "flavor", "scent"):
                    values = groups[text] = []
                else:
                    values.append(text)
            options[texts[-7]] = groups
    filler = {f"X{number}": (f"filler {number}", "$1.0") for number in range(total - len(listed))}
    catalogue = Catalogue(
        [
            (Product(asin, title, price, "", [""], options.get(title, {}), [], "", "", ""), [1.0])
            for asin, (title, price) in {**listed, **filler}.items()
        ],
        random.Random(0),
    )
    catalogue.__dict__["index"] = type("Listed", (), {"search": lambda _self, _query, k: list(range(total))[:k]})()
    goal = {"asin": next(iter(listed)), "instruction": instruction, "attributes": ["x"], "options": []}
    return catalogue, {**goal, "price_upper": 1.0, "name": "", "query": "", "product_category": ""}


@pytest.mark.parametrize("turns", [pytest.param(OURS, id="ours"), *_rows()])
def test_a_row_is_played_again_word_for_word(turns: list[str]) -> None:
    """Every trained turn reads to an action, and taking it gives the very text that the row has next."""
    catalogue, goal = _shop_of(turns)
    visit = Environment(goal, catalogue, guessed_nouns, with_actions=False)
    assert visit.reset() == turns[0]
    for number in range(1, len(turns), 2):
        action = FORMAT.read(turns[number], 20_000, visit.actions).action
        assert action is not None
        step = visit.step(action)
        assert step.valid
        if number + 1 < len(turns):
            assert step.observation == turns[number + 1]
    assert step.done
