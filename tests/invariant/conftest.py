"""An episode under the paper's rules, played by a script."""

from __future__ import annotations

from pathlib import Path

import pytest

from agenttuning import protocols
from agenttuning.environments import Backend, Room
from agenttuning.episodes.runner import play
from agenttuning.protocols import prompts
from helpers import agentbench_checkout

PAPER = protocols.load(protocols.FOLDER / "paper-text.yaml")


@pytest.fixture(scope="session")
def checkout(tmp_path_factory) -> Path:
    return agentbench_checkout.write(tmp_path_factory.mktemp("agentbench"))


@pytest.fixture
def played(checkout):
    """A function that plays one episode by a script: what was shown at each turn, and the record."""

    def play_one(task: str, make, item: dict, *replies: str) -> tuple[list[list[str]], dict]:
        shown = []

        def scripted(turns):
            (turn,) = turns
            roles = [message["role"] for message in turn.messages]
            assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
            shown.append([message["content"] for message in turn.messages])
            return [replies[turn.number]]

        room = Room(task, Backend("scripted", "scripted", comparable=False), make)
        (record,) = play(
            room, [{"id": f"{task}_0", **item}], scripted, PAPER, prompts.load(task, checkout),
            model="m", seed=0, progress=False, retries=0,
        )  # fmt: skip
        assert record["error"] is None and record["turns"] == len(shown) <= len(replies)
        return shown, record

    return play_one
