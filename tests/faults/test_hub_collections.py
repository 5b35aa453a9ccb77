"""Collections of the Hub: found or made, filled with what they lack, also where the Hub breaks."""

from __future__ import annotations

import pytest

from agenttuning.errors import UserError
from agenttuning.hub import collections
from helpers.hub_double import first, hub_double, without_waiting

ITEMS = [("someone/one", "model"), ("someone/one", "dataset"), ("2310.12823", "paper")]


def gather(*items, **options):
    known = {"title": "AgentLM", "namespace": "someone", "private": True, "description": "Models and data"}
    return collections.put(items=items or ITEMS, **known | options)


@pytest.fixture
def things(monkeypatch):
    with hub_double() as hub:
        without_waiting(monkeypatch, hub)
        for kind in ("model", "dataset"):
            hub.make("someone/one", private=True, kind=kind)
            hub.make("someone/two", private=True, kind=kind)
        yield hub


def held(hub) -> list[list[tuple[str, str]]]:
    return [[(one["id"], one["type"]) for one in found["items"]] for found in hub.collections.values()]


def test_a_collection_is_made_once_and_only_grows(things):
    address = gather()
    assert address.startswith(f"{things.url}/collections/someone/agentlm-") and held(things) == [ITEMS]
    for number in range(12):
        gather(title=f"Another {number}")
    more = [("someone/two", "model"), ("someone/two", "dataset"), ITEMS[0]]
    assert gather(*more) == address and gather(*more) == address
    assert held(things)[0] == [*ITEMS, *more[:2]] and len(things.collections) == 13
    place = address.removeprefix(f"{things.url}/")
    assert sum(f"{place}/items" in path for _, path in things.requests) == 5


@pytest.mark.parametrize("part", ["/api/collections", "/items"])
@pytest.mark.parametrize("failure", [503, "die", "late"])
def test_a_collection_survives_what_a_push_survives(things, part, failure):
    for method in ("GET", "POST"):
        things.fail = first(1, part, failure, method)
        gather()
    assert held(things) == [ITEMS]


def test_a_collection_says_what_is_wrong(things):
    for said, options in {
        "has 151 characters": {"description": "x" * 151},
        "it answers 403": {"namespace": "forbidden"},
    }.items():
        with pytest.raises(UserError, match=said):
            gather(**options)
    assert things.collections == {}
    gather()
    with pytest.raises(UserError, match="is private and should be public"):
        gather(private=False)
    with pytest.raises(UserError, match="it answers 404"):
        gather(("someone/nothing", "model"))
    assert held(things) == [ITEMS]
