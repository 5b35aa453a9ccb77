"""Generated web pages with tasks, in Mind2Web's own shape: `cleaned_html`, an operation, ranked candidates.

A task fills in some fields of a form and then presses its button, or does something with an entry of the list beside
it. Each item is one step of a task; what was done before stands in the page and in `previous_actions`.
"""

from __future__ import annotations

import html
import random
from dataclasses import dataclass, field

from agenttuning.environments import build_items, reserved
from agenttuning.environments.mind2web.ranker import ranks
from agenttuning.environments.mind2web.sites import FIRST, KINDS, SECOND, Field, Kind

TOP_K = 10
SPLIT_ABOVE = 10  # values; a smaller pool (cabin classes) is shared by both splits
ROLES = {"TYPE": "textbox", "SELECT": "combobox", "CLICK": "checkbox"}


@dataclass(frozen=True)
class _Act:
    """One step: what is done to the element `target`, and how it is told afterwards."""

    target: str
    operation: str
    value: str
    told: str


@dataclass
class _Page:
    """Writes elements, counts their ids, and notes the candidates: id, words for the ranker, name of the target."""

    rng: random.Random
    last: int = 0
    found: list[tuple[str, str, str]] = field(default_factory=list)

    def _id(self) -> str:
        self.last += self.rng.randint(1, 4)
        return str(self.last)

    def text(self, text: str) -> str:
        return f'<text backend_node_id="{self._id()}">{html.escape(text)}</text>'

    def element(self, tag: str, *inside: str, about: str | None = None, target: str = "", **attributes: str) -> str:
        identity = self._id()
        if about is not None:
            said = " ".join(value for name, value in attributes.items() if name not in ("type", "role"))
            self.found.append((identity, f"{about} {said}", target))
        written = "".join(f' {name}="{html.escape(value)}"' for name, value in attributes.items() if value)
        opened = f'<{tag} backend_node_id="{identity}"{written}'
        # With a space around everything inside, as in the data set: it is seen in the text that models are shown.
        return f"{opened}> {' '.join(inside)} </{tag}>" if inside else f"{opened}/>"

    def link(self, text: str, **attributes: str) -> str:
        return self.element("a", self.text(text), about=text, **attributes)

    def button(self, text: str, **attributes: str) -> str:
        return self.element("button", self.text(text), about=text, type="button", **attributes)


def items(split: str, n: int, seed: int) -> list[dict]:
    """`n` steps of a split; test sites, cities, goods and the like are never shown in training. Raises ValueError."""
    return build_items("mind2web", split, n, seed, _draw)


def _draw(rng: random.Random, test: bool) -> dict | None:
    site = f"{rng.choice(FIRST)}{rng.choice(SECOND)}"
    if reserved("site", site) != test:
        return None
    kind = rng.choice(KINDS)
    labels = {place.key: rng.choice(place.labels) for place in kind.fields}
    filled = _fill(rng, kind, test)
    acts, task = _task(rng, kind, labels, filled, test)
    step = rng.randrange(len(acts))
    page = _Page(rng, rng.randint(3, 90))
    done = {act.target: act.value for act in acts[:step]}
    text = _write(page, site, kind, labels, done, acts[-1], test)
    places = ranks(task, [about for _, about, _ in page.found])
    ranked = [(identity, place, target) for (identity, _, target), place in zip(page.found, places, strict=True)]
    positive = [[identity, place] for identity, place, target in ranked if target == acts[step].target]
    # The benchmark's ranker misses some steps too, which are lost unplayed; practice has none of those.
    if len(ranked) < TOP_K or positive[0][1] >= TOP_K:
        return None
    return {
        "website": site,
        "task": task,
        "previous_actions": [act.told for act in acts[:step]],
        "html": text,
        "operation": {"op": acts[step].operation, "value": acts[step].value},
        "positive": positive,
        "negative": [[identity, place] for identity, place, target in ranked if target != acts[step].target],
    }


def _values(pool: tuple[str, ...], test: bool) -> list[str]:
    return [value for value in pool if len(pool) <= SPLIT_ABOVE or reserved("value", value) == test]


def _fill(rng: random.Random, kind: Kind, test: bool) -> list[tuple[Field, str]]:
    first, *others = kind.fields
    chosen = {first.key, *(place.key for place in rng.sample(others, rng.randint(1, len(others) - 1)))}
    filled: list[tuple[Field, str]] = []
    for place in kind.fields:
        if place.key in chosen:
            # Origin and destination, arrival and departure: a value of a task is never used twice.
            free = [value for value in _values(place.values, test) if value not in {used for _, used in filled}]
            filled.append((place, rng.choice(free) if free else ""))  # a switch has no value
    return filled


def _task(
    rng: random.Random, kind: Kind, labels: dict[str, str], filled: list[tuple[Field, str]], test: bool
) -> tuple[list[_Act], str]:
    acts = []
    for place, value in filled:
        told = f"[{ROLES[place.operation]}]  {labels[place.key]} -> {place.operation}"
        acts.append(_Act(place.key, place.operation, value, f"{told}: {value}" if value else told))
    parts = [kind.verb, *(place.phrase.format(value) for place, value in filled)]
    if rng.random() < 0.6:
        name = rng.choice(kind.button)
        acts.append(_Act(f"button {name}", "CLICK", "", f"[button]  {name} -> CLICK"))
        return acts, f"{' '.join(parts)}."
    entry = rng.choice(_values(kind.entries, test))
    name = f"{kind.entry} {entry}"
    acts.append(_Act(f"entry {entry}", "CLICK", "", f"[button]  {kind.deed[0]} {name} -> CLICK"))
    return acts, f"{' '.join(parts)}, then choose {kind.deed[0]} for {name}."


def _write(
    page: _Page, site: str, kind: Kind, labels: dict[str, str], done: dict[str, str], last: _Act, test: bool
) -> str:
    rng, element = page.rng, page.element
    menu = [element("li", page.link(name, title=name.lower())) for name in rng.sample(kind.menu, rng.randint(4, 6))]
    find = element("input", about="search this site", type="search", name="q", placeholder=f"Search {site}")
    header = element("header", page.link(site), element("ul", *menu, role="menu"), element("div", find), role="banner")
    rows = [_row(page, place, labels[place.key], done, test) for place in rng.sample(kind.fields, len(kind.fields))]
    # The button that the task names, or one of them where it ends elsewhere.
    name = last.target.removeprefix("button ") if last.target.startswith("button ") else kind.button[0]
    submit = element("button", page.text(name), about=name, target=f"button {name}", type="submit")
    form = element("form", element("h2", page.text(kind.verb)), *rows, element("div", submit), page.button("Reset"))
    entries = rng.sample(_values(kind.entries, test), 3)
    wanted = last.target.removeprefix("entry ")
    if last.target.startswith("entry ") and wanted not in entries:
        entries[rng.randrange(len(entries))] = wanted
    cards = [_card(page, kind, entry) for entry in entries]
    main = element("main", form, element("section", element("h3", page.text("For you")), *cards), role="main")
    mail = element("input", about="your mail address", type="email", name="newsletter", placeholder="Your mail address")
    notes = [page.link(text) for text in rng.sample(("About us", "Privacy", "Terms", "Careers", "Cookies"), 3)]
    footer = element("footer", element("div", mail, page.button("Sign up")), *notes, role="contentinfo")
    return element("html", element("body", header, main, footer))


def _row(page: _Page, place: Field, label: str, done: dict[str, str], test: bool) -> str:
    name = page.element("label", page.text(label), about=label)
    value = done.get(place.key, "")
    said = {"name": place.key, "about": label, "target": place.key}
    if place.operation == "TYPE":
        return page.element(
            "div", name, page.element("input", type="text", aria_label=label, input_value=value, **said)
        )
    if place.operation == "CLICK":
        checked = "true" if place.key in done else ""
        return page.element("div", page.element("input", type="checkbox", input_checked=checked, **said), name)
    options = [
        page.element("option", page.text(text), value=text.lower(), option_selected="true" if text == value else "")
        for text in place.values
    ]
    said["about"] = f"{label} {' '.join(place.values)}"
    return page.element("div", name, page.element("select", *options, **said))


def _card(page: _Page, kind: Kind, entry: str) -> str:
    title = f"{kind.entry} {entry}"
    first, second = kind.deed
    deeds = [
        page.element("button", page.text(first), about=f"{first} {title}", target=f"entry {entry}", aria_label=title),
        page.element("button", page.text(second), about=f"{second} {title}", aria_label=title),
    ]
    return page.element("div", page.element("h4", page.text(title)), *deeds)
