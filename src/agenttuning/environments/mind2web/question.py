"""One multiple-choice question about a page: which of these elements is the next step?"""

from __future__ import annotations

from dataclasses import dataclass

from agenttuning.environments.mind2web.answer import LETTERS
from agenttuning.environments.mind2web.page import ID, candidates, parse, pruned, written

PREVIOUS = 5  # earlier actions that are shown; AgentBench, mind2web/dataloader.py, previous_k
CHOICE_WORDS = 10  # of an element, in the list of choices; the same file


@dataclass(frozen=True)
class Question:
    """The text, and the ids of the elements behind B, C, ...: in the order of the page, not in that of the ranks."""

    text: str
    choices: list[str]

    @property
    def letters(self) -> str:
        """The letters that can be answered."""
        return LETTERS[: 1 + len(self.choices)]


def ask(html: str, task: str, previous: list[str], wanted: list[str]) -> Question:
    """The question about some elements (ids) of a page; the layout is AgentBench's, word for word.

    Raises KeyError for an id that the page does not have, and lxml.etree.XMLSyntaxError for a page that is none.
    """
    tree = pruned(parse(html), wanted)
    numbers: dict[str, int] = {}
    shown = written(tree, numbers)
    nodes = candidates(tree)
    choices = [" ".join(written(node, numbers).split()[:CHOICE_WORDS]) for node in nodes]
    lines = [
        f"'''\n{shown}\n'''\n",
        "Based on the HTML webpage above, try to complete the following task:",
        f"Task: {task}",
        "Previous actions:",
        *(previous[-PREVIOUS:] or ["None"]),
        "What should be the next action? Please select from the following choices (If the correct action is not in the "
        "page above, please select A. 'None of the above'):\n",
        "A. None of the above",
        # More than five only on a page that has an id twice; such a choice has no letter that a reply could name.
        *(f"{chr(ord('B') + place)}. {choice}" for place, choice in enumerate(choices)),
    ]
    return Question("\n".join(lines), [node.attrib[ID] for node in nodes])
