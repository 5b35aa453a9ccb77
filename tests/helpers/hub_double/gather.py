"""Collections: a title, an owner, a list of items."""

from __future__ import annotations

import re

from helpers.hub_double.repos import Answer, refused, unwritable
from helpers.hub_double.state import DATE

PAGE = 10  # collections
SHOWN = 4  # items of a collection in a list of collections


def all_of(asked) -> Answer:
    hub = asked.hub
    if asked.method == "POST":
        wanted = asked.json
        if wrong := unwritable(asked, wanted["namespace"]):
            return wrong
        if len(wanted.get("description", "")) > 150:
            return refused(400, None, "description is too long")
        words = re.sub(r"\W+", "-", wanted["title"].lower()).strip("-")
        for known in hub.collections.values():
            if (known["title"], known["owner"]["name"]) == (wanted["title"], wanted["namespace"]):
                return 409, {"error": "this collection exists", "slug": known["slug"]}, {}
        slug = f"{wanted['namespace']}/{words}-{len(hub.collections):024x}"
        about = {key: wanted.get(key) for key in ("title", "description", "private")}
        more = {"owner": {"name": wanted["namespace"]}, "lastUpdated": DATE, "theme": "blue", "upvotes": 0}
        hub.collections[slug] = {"slug": slug, "items": [], "position": 0, **about, **more}
        return 200, hub.collections[slug], {}
    owners, start = asked.query.get("owner", []), int(asked.query.get("cursor", ["0"])[0])
    theirs = [one for one in hub.collections.values() if one["owner"]["name"] in owners and _may_see(asked, one)]
    page = [{key: value for key, value in one.items() if key != "position"} for one in theirs[start : start + PAGE]]
    told = [one | {"items": one["items"][:SHOWN]} for one in page]
    following = f'<{hub.url}/api/collections?owner={owners[0]}&cursor={start + PAGE}>; rel="next"' if owners else ""
    return 200, told, {"Link": following} if len(theirs) > start + PAGE else {}


def _may_see(asked, collection: dict) -> bool:
    return not collection["private"] or asked.role is not None


def one(asked) -> Answer:
    found = asked.hub.collections.get(asked.words["slug"])
    if found is None or not _may_see(asked, found):
        return refused(404, None, "Collection not found")
    return 200, found, {}


def add_item(asked) -> Answer:
    found = asked.hub.collections.get(asked.words["slug"])
    if wrong := unwritable(asked, asked.words["slug"].split("/")[0]):
        return wrong
    wanted = asked.json["item"]
    key = {"model": "", "dataset": "datasets/"}.get(wanted["type"])
    if found is None or (key is not None and f"{key}{wanted['id']}" not in asked.hub.repositories):
        return refused(404, None, "there is no such thing to add")
    if any((item["id"], item["type"]) == (wanted["id"], wanted["type"]) for item in found["items"]):
        return refused(409, None, "it is in the collection")
    place = len(found["items"])
    found["items"].append({"_id": f"{place:024x}", "id": wanted["id"], "type": wanted["type"], "position": place})
    return 200, found, {}
