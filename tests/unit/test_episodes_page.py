"""docs/episodes.md agrees with the code that it describes."""

from __future__ import annotations

import inspect
import re

from agenttuning.environments import room
from agenttuning.episodes import hosts, status, store
from agenttuning.episodes.runner import play
from agenttuning.policies.expert import expert
from agenttuning.policies.openai import ENDS_THE_RUN, Patience
from agenttuning.protocols.messages import own
from agenttuning.recipe.schema import REPOSITORY
from helpers import toy_task

PAGE = (REPOSITORY / "docs" / "episodes.md").read_text(encoding="utf-8")


def table(first: str) -> list[list[str]]:
    """The rows of the page's table whose head begins with a word."""
    lines = PAGE[PAGE.index(f"| {first} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_of_statuses_is_that_of_the_code() -> None:
    rows = {row[0].strip("`"): row[1:] for row in table("status")}
    assert list(rows) == [*status.MODEL, *status.INFRASTRUCTURE]
    for name, (_, scored, agentbench, bar, again) in rows.items():
        assert scored == ("yes" if status.is_result(name) else "no")
        assert agentbench == status.AGENTBENCH[name]
        assert bar == status.FIGURE.get(name, "")
        assert bool(again) == (not status.is_result(name))


def test_the_keys_of_a_record_are_all_there() -> None:
    named = [key for row in table("key") for key in re.findall(r"`(\w+)`", row[0])]
    settings = {"model": "m", "seed": 0, "progress": False}
    items, prompts = toy_task.items("test", 1, 0), own(toy_task)
    (record,) = play(room(toy_task), items, expert, toy_task.PROTOCOL, prompts, **settings)
    assert sorted(named) == sorted(record)
    assert tuple(named[: len(store.KEY)]) == store.KEY


def test_the_numbers_are_the_defaults() -> None:
    defaults = {name: p.default for name, p in inspect.signature(play).parameters.items()}
    for name in ("width", "retries", "wait_s", "env_timeout_s"):
        assert f"`{name}` ({defaults[name]:g})" in PAGE
    assert f"a line on stderr every {defaults['progress_s']:g} s" in PAGE
    patience = Patience()
    assert (patience.wait, 2 * patience.wait, patience.longest, patience.retries) == (0.5, 1, 60, 9)
    assert "it waits 0.5 s, 1 s, ... at most 60 s, nine times" in PAGE
    assert patience.max_bytes == 1 << 20 and "over 1 MB" in PAGE
    assert ", ".join(map(str, ENDS_THE_RUN)).replace(", 404", " and 404") in PAGE


def test_the_isolations_are_all_there() -> None:
    assert [row[0].strip("`") for row in table("`Room.isolation`")] == ["inline", "thread", "process"]
    for name in ("inline", "thread", "process"):
        assert f'"{name}"' in inspect.getsource(hosts.host_of)
