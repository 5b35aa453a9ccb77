"""A collection of the Hub: found by its title or made, and filled with what it lacks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from agenttuning.errors import UserError
from agenttuning.hub import wire

if TYPE_CHECKING:
    from huggingface_hub import Collection, HfApi

LONGEST = 150  # characters of a description (huggingface_hub.HfApi.create_collection)


def put(title: str, namespace: str, items: Iterable[tuple[str, str]], private: bool, description: str) -> str:
    """Make the collection `title` of `namespace` hold `items`, pairs of an id and its type: ("o/n", "model"),
    ("o/n", "dataset"), ("2310.12823", "paper"). Returns its address. What is there stays; a second call adds nothing.

    Raises UserError when the description is too long, when the collection is public and should be private or the other
    way round, and for each failure of Hub or network, after which a second call goes on.
    """
    if len(description) > LONGEST:
        raise UserError(
            f"the description of the collection {title!r} has {len(description)} characters and the Hub takes "
            f"{LONGEST}; the collection was not made; shorten it"
        )
    with wire.talk(f"the collection {title!r} of {namespace} was not filled", "What it holds stays") as api:
        found = _found(api, title, namespace)
        if found is None:
            found = wire.patiently(
                lambda: api.create_collection(
                    title, namespace=namespace, description=description, private=private, exists_ok=True
                ),
                done=lambda: _found(api, title, namespace),
            )
        if bool(found.private) != private:
            now, asked = ("private", "public") if found.private else ("public", "private")
            raise UserError(
                f"the collection {title!r} of {namespace} is {now} and should be {asked}; nothing was added; change "
                "its settings on the Hub, or publish.private"
            )
        there = {(one.item_id, one.item_type) for one in found.items}
        for name, kind in dict.fromkeys(items):
            if (name, kind) not in there:
                wire.patiently(
                    lambda name=name, kind=kind: api.add_collection_item(found.slug, name, kind, exists_ok=True)
                )
        return found.url


def _found(api: HfApi, title: str, namespace: str) -> Collection | None:
    """The collection with all its items, which a list of collections cuts short; None when there is no such title."""
    slug = next((one.slug for one in api.list_collections(owner=namespace) if one.title == title), None)
    return None if slug is None else wire.patiently(lambda: api.get_collection(slug))
