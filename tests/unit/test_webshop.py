"""WebShop's engine: pages, actions, purchases, the expert and the floor under it."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttuning import protocols
from agenttuning.environments import held_in, webshop
from agenttuning.environments.webshop import synthetic
from agenttuning.environments.webshop.visit import Environment, parse
from agenttuning.episodes.runner import play
from agenttuning.errors import UserError
from agenttuning.policies.expert import expert
from agenttuning.policies.random_policy import random_policy
from agenttuning.protocols import webshop as texts
from agenttuning.protocols.messages import own

PRACTICE = protocols.load(protocols.FOLDER / "practice.yaml")


@pytest.fixture(scope="module")
def room():
    with webshop.serve() as served:
        yield served


@pytest.fixture
def visit(room) -> Environment:
    """A visit whose goal has two options."""
    item = next(item for item in webshop.items("train", 50, 0) if len(item["options"]) == 2)
    env = room.make(item)
    env.reset()
    return env


def open_product(env: Environment) -> None:
    """As the expert goes there."""
    while env.asin != env.goal["asin"]:
        env.step(env.oracle().action)


def test_the_package_has_the_face_of_a_held_in_task(room) -> None:
    assert held_in("webshop") is webshop
    assert [backend.comparable for backend in webshop.BACKENDS] == [True, False, False]
    assert (room.task, room.backend, room.isolation) == ("webshop", webshop.BACKENDS[-1], "inline")
    assert webshop.missing() == []


@pytest.mark.parametrize(
    ("action", "parsed"),
    [
        ("search[a b]", ("search", "a b")),
        ("click[a [b] c]", ("click[a ", "b] c")),
        ("click[a]] tail", ("click", "a]")),
        ("click[]", None),
        ("click[]]", ("click", "]")),
        ("[x]", None),
        ("click", None),
        ("", None),
        ("click[a\n]", None),
        ("\nclick[a]", None),
        ("click]a[", None),
    ],
)
def test_parse(action: str, parsed: tuple[str, str] | None) -> None:
    assert parse(action) == parsed


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("ab[]\n "), max_size=12))
def test_parse_is_the_originals_expression(action: str) -> None:
    found = re.match(r"(.+)\[(.+)\]", action)  # engine.py, parse_action
    assert parse(action) == (found.groups() if found else None)


def test_an_episode_begins_on_the_search_page(visit: Environment) -> None:
    page = f"WebShop [SEP] Instruction: [SEP] {visit.goal['instruction']} [SEP] Search"
    available = "{'has_search_bar': True, 'clickables': ['search']}"
    assert visit.reset() == f"Observation:\n{page}\n\nAvailable Actions:\n{available}"
    visit.with_actions = False
    assert visit.reset() == page


def test_results_come_ten_to_a_page(visit: Environment) -> None:
    first = visit.step(f"search[{visit.goal['query']}]").observation
    shown = [product.asin for product in visit.listed]
    assert "Page 1 (Total results: 50) [SEP] Next > [SEP] " in first and "< Prev" not in first
    assert visit.clickables() == ["back to search", "next >", *map(str.lower, shown)] and len(shown) == 10
    second = visit.step("click[Next >]").observation
    assert "Page 2 (Total results: 50) [SEP] < Prev [SEP] Next > [SEP] " in second
    assert not set(shown) & {product.asin for product in visit.listed}
    for _ in range(4):
        visit.step("click[next >]")
    assert visit.number == 6 and visit.listed == []  # "Next >" stands on the last page as well, and leads past it
    for _ in range(5):
        last = visit.step("click[< Prev]").observation
    assert last == first
    assert not visit.step("click[< Prev]").valid


def test_every_page_leads_back(visit: Environment) -> None:
    start = visit.reset()
    results = visit.step(f"search[{visit.goal['query']}]").observation
    asin = visit.listed[3].asin
    page = visit.step(f"click[{asin}]").observation
    product = visit.catalogue.of(asin)
    assert f"[SEP] {product.title} [SEP] Price: {product.price} [SEP] Rating: N.A. [SEP]" in page
    texts = {"Description": product.description, "Features": product.bullets[-1], "Reviews": "No reviews found"}
    for name, text in texts.items():
        step = visit.step(f"click[{name}]")
        assert step.valid and text in step.observation
        assert step.observation.endswith("{'has_search_bar': False, 'clickables': ['back to search', '< prev']}")
        assert visit.step("click[< Prev]").observation == page
    assert visit.step("click[< Prev]").observation == results
    assert visit.step("click[Back to Search]").observation == start


def test_an_option_is_chosen_and_forgotten_with_the_product(visit: Environment) -> None:
    open_product(visit)
    (name, values), *_ = visit.product.options.items()
    page = visit.step("click[nothing like that]").observation
    assert visit.step(f"click[{values[0].upper()}]").observation == page  # in any case; the page does not show it
    assert visit.options == {name: values[0]}
    visit.step(f"click[{values[1]}]")
    visit.step("click[Description]")
    visit.step("click[< Prev]")
    assert visit.options == {name: values[1]}
    visit.step("click[< Prev]")
    assert visit.options == {} and visit.asin is None


@pytest.mark.parametrize(
    "action", ["click[search]", "click[Buy Now]", "click[B000000000]", "look", "", "Search[x]", "click[search", "x[y]"]
)
def test_an_invalid_action_changes_nothing(visit: Environment, action: str) -> None:
    start = visit.reset()
    step = visit.step(action)
    assert (step.observation, step.valid, step.done) == (start, False, False)


def test_search_is_possible_on_any_page(visit: Environment) -> None:
    open_product(visit)
    assert "Page 1 (" in visit.step("search[green tea]").observation
    assert visit.asin is None


@pytest.mark.parametrize("keywords", [" ", "the of and", "zzzzqqq", "<r>", "]", "..."])
def test_a_search_may_find_nothing(visit: Environment, keywords: str) -> None:
    step = visit.step(f"search[{keywords}]")
    assert step.valid and "Page 1 (Total results: 0) [SEP] Next >\n" in step.observation


def test_the_purchase_ends_the_visit_and_is_scored(visit: Environment) -> None:
    open_product(visit)
    assert (visit.score(), visit.metrics()) == (0.0, {"bought": False})
    step = visit.step("click[Buy Now]")  # no option is set: attributes and price of attributes, options and price
    wanted = (len(visit.goal["attributes"]) + 1) / (len(visit.goal["attributes"]) + 3)
    assert step.done and visit.score() == pytest.approx(wanted)
    assert visit.metrics() == {"bought": True, "type": 1.0, "attributes": 1.0, "price": 1.0, "options": 0.0}
    assert step.observation.startswith("Thank you for shopping with us! [SEP] Your code: [SEP] None [SEP] ")
    assert f"asin [SEP] {visit.goal['asin']} [SEP] options [SEP] {{}} [SEP] attrs" in step.observation
    assert f"Your score (min 0.0, max 1.0) [SEP] {visit.score()} [SEP] " in step.observation
    again = visit.step("search[green tea]")
    assert again.done and not again.valid and visit.score() == pytest.approx(wanted)


def test_the_expert_plays_on_from_any_slip(visit: Environment, room) -> None:
    wrong = next(asin for asin in visit.catalogue.asins if asin != visit.goal["asin"])
    query = visit.catalogue.of(wrong).query
    title = visit.catalogue.of(visit.goal["asin"]).title
    offers = [value for values in visit.catalogue.of(visit.goal["asin"]).options.values() for value in values]
    other_option = next(f"click[{value}]" for value in offers if value not in visit.goal["options"])
    for slips in (
        [f"search[{query}]", "click[next >]"],
        [f"search[{title}]", "click[next >]", "click[next >]"],
        [f"search[{title}]", f"click[{visit.goal['asin']}]", other_option, "click[features]"],
        [f"search[{visit.catalogue.of(wrong).title}]", f"click[{wrong}]", "click[reviews]"],
    ):  # fmt: skip
        visit.reset()
        for slip in slips:
            assert visit.step(slip).valid
        moves = 0
        while not visit.step(visit.oracle().action).done:
            moves += 1
            assert moves < 12
        assert visit.score() == 1.0


def test_the_expert_looks_through_the_pages_of_results(visit: Environment) -> None:
    visit.plan = None
    place, asins = visit.catalogue.place[visit.goal["asin"]], visit.catalogue.index
    visit.catalogue.__dict__["index"] = type(
        "Late", (), {"search": lambda _self, _query, k: [n for n in range(40) if n != place][:25] + [place]}
    )()
    try:
        visit.reset()
        seen = []
        while visit.reward is None:
            seen.append(visit.oracle().action)
            visit.step(seen[-1])
    finally:
        visit.catalogue.__dict__["index"] = asins
    assert seen[1:4] == ["click[Next >]", "click[Next >]", f"click[{visit.goal['asin']}]"]
    assert visit.score() == 1.0


def test_practice_goals_are_won_by_the_expert_and_not_by_chance(room) -> None:
    for split, n in (("train", 60), ("test", 60)):
        items = webshop.items(split, n, 0)
        won = play(room, items, expert, PRACTICE, own(texts), model="expert", seed=0, progress=False)
        assert {record["reward"] for record in won} == {1.0}
        assert max(record["turns"] for record in won) <= 10
        lost = play(room, items, random_policy(0), PRACTICE, own(texts), model="random", seed=0, progress=False)
        assert {record["status"] for record in lost} <= {"completed", "task_limit"}
        assert statistics.mean(record["reward"] for record in lost) < 0.2


def test_a_reply_without_an_action_ends_the_episode_with_nothing(room) -> None:
    (record,) = play(
        room, webshop.items("test", 1, 0), lambda turns: ["Thought: hm"] * len(turns), PRACTICE, own(texts),
        model="m", seed=0, progress=False,
    )  # fmt: skip
    assert (record["status"], record["reward"], record["turns"]) == ("invalid_format", 0.0, 1)


def test_goals_are_of_their_split_and_the_same_for_a_seed() -> None:
    train, test = webshop.items("train", 300, 0), webshop.items("test", 200, 0)
    assert not {item["asin"] for item in train} & {item["asin"] for item in test}
    assert train == webshop.items("train", 300, 0) != webshop.items("train", 300, 1)
    for item in train:
        assert all(attribute in item["instruction"] for attribute in item["attributes"])
        assert all(f": {option}" in item["instruction"] for option in item["options"])
        assert f"price lower than {item['price_upper']:.2f} dollars" in item["instruction"]


def test_the_catalogue_is_the_same_in_another_process() -> None:
    code = (
        "from agenttuning.environments import webshop\n"
        "from agenttuning.environments.webshop import synthetic\n"
        "import hashlib\n"
        "stock = synthetic.catalogue()\n"
        "found = [stock.index.search(item['instruction'], 50) for item in webshop.items('test', 20, 3)]\n"
        "print(hashlib.sha256(repr([synthetic.records(), stock.prices.tolist(), found]).encode()).hexdigest())"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed,
            "PYTHONPATH": str(Path(webshop.__file__).parents[3])}
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert said[0] == said[1]


def test_the_catalogue_is_of_many_different_products() -> None:
    stock = synthetic.catalogue()
    assert len(stock) == 800 == len({stock.of(asin).title for asin in stock.asins})
    assert len({stock.of(asin).query for asin in stock.asins}) == 20


def test_an_item_of_another_catalogue_is_refused(room) -> None:
    item = {**webshop.items("test", 1, 0)[0], "asin": "B000000000"}
    with pytest.raises(UserError, match="does not sell"):
        room.make(item)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.text(st.characters(), max_size=60), st.sampled_from(
    ["search[tea]", "click[next >]", "click[< prev]", "click[buy now]", "click[features]", "click[back to search]"])),
    max_size=12), st.randoms(use_true_random=False))  # fmt: skip
def test_no_action_breaks_the_shop(room, actions: list[str], rng) -> None:
    env = room.make(webshop.items("train", 1, 0)[0])
    env.reset()
    for action in actions:
        for text in (action, f"click[{action}]", f"search[{action}]", rng.choice(env.actions() or [""])):
            step = env.step(text)
            assert isinstance(step.observation, str)
            assert 0.0 <= env.score() <= 1.0


def test_a_huge_search_is_bounded(visit: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    start = time.perf_counter()
    assert visit.step("search[" + " ".join(f"w{number}" for number in range(200_000)) + "]").valid
    assert visit.step("search[" + "[" * 1_000_000 + "]").valid is False
    assert time.perf_counter() - start < 2.0
    asked = []
    monkeypatch.setattr(type(visit.catalogue.index), "search", lambda _index, query, _k: asked.append(query) or [])
    visit.step("search[" + "tea " * 100_000 + "]")
    assert len(asked[0]) == 20_000
