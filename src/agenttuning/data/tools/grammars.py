"""The text grammar of each split: what stands in an agent's turn, in which order, with which white space.

A turn is PREFIX gap THOUGHT gap MARKER gap WORD ... ARGUMENTS, with any white space around it. A `Form` is one kind of
action after the marker; its `words` alternate the usual gap with the word that must follow. What is unusual is layout.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Form:
    """One action. `kind`: block (to a fence of three backticks), bracket (to the bracket that closes `words`' last
    one), line (to the end of the line), list (a JSON list) or bare (no argument).
    """

    name: str
    kind: str
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Grammar:
    """One split. `observation`: how an environment's reply begins, and the white space seen after it, usual first."""

    prefix: str
    after_prefix: str
    before_marker: str
    marker: str
    forms: tuple[Form, ...]
    observation: str = ""
    after_observation: tuple[str, ...] = ("",)


_KG = ("get_relations", "get_neighbors", "intersection", "get_attributes", "argmax", "argmin", "count")

GRAMMARS: dict[str, Grammar] = {
    "os": Grammar(
        "Think:", " ", "\n\n", "Act:",
        (
            Form("bash_action", "block", (" ", "bash", "\n\n", "```bash")),
            Form("answer_action", "bracket", (" ", "answer", "", "(")),
            Form("finish_action", "bare", (" ", "finish")),
        ),
        "The output of the OS:", ("\n\n", "\n", " ", ""),
    ),
    "db": Grammar(
        "", "", "\n", "Action:",
        (
            Form("execute_sql", "block", (" ", "Operation", "\n", "```sql")),
            Form("commit_final_answer", "list", (" ", "Answer", "\n", "Final Answer:", " ", "[")),
        ),
    ),
    "kg": Grammar(
        "Thought:", " ", "\n", "Action:",
        tuple(Form(name, "bracket", (" ", name, "", "(")) for name in _KG),
        "Observation:", (" ", "\n", ""),
    ),
    "webshop": Grammar(
        "Thought:", "\n", "\n\n", "Action:",
        (
            Form("search_action", "bracket", ("\n", "search", "", "[")),
            Form("click_action", "bracket", ("\n", "click", "", "[")),
        ),
    ),
    "alfworld": Grammar("THOUGHT:", " ", "\n ", "ACTION:", (Form("take_action", "line", (" ", "")),)),
}  # fmt: skip
