"""The judge's prompts: templates in FastChat's schema, read from the user's data and filled in one pass.

FastChat fills them with `str.format`. The same fields are filled here, but what is put in is never looked at again: an
answer that holds "{question}" or "[[10]]" stays the text that it is.
"""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agenttuning.errors import UserError

FIRST, SECOND = "single-v1", "single-v1-multi-turn"
FIRST_WITH_REFERENCE, SECOND_WITH_REFERENCE = "single-math-v1", "single-math-v1-multi-turn"
# the fields that FastChat fills (llm_judge/common.py, run_judge_single), and those that must be there
_ONE = ({"question", "answer", "ref_answer_1", "ref_answer_2"}, {"question", "answer"})
_TWO = (
    {"question_1", "question_2", "answer_1", "answer_2", "ref_answer_1", "ref_answer_2"},
    {"question_1", "question_2", "answer_1", "answer_2"},
)
FIELDS = {
    FIRST: _ONE,
    SECOND: _TWO,
    FIRST_WITH_REFERENCE: (_ONE[0], _ONE[1] | {"ref_answer_1"}),
    SECOND_WITH_REFERENCE: (_TWO[0], _TWO[1] | {"ref_answer_1", "ref_answer_2"}),
}


@dataclass(frozen=True)
class JudgePrompt:
    """`parts` are the template's texts and, in braces' place, names of fields: (text, field or None), in order."""

    name: str
    system_prompt: str
    template: str
    parts: tuple[tuple[str, str | None], ...]

    def messages(self, values: Mapping[str, str]) -> list[dict]:
        """What the judge is asked. Raises KeyError for a field that `values` lacks."""
        asked = "".join(text + (values[field] if field else "") for text, field in self.parts)
        return [{"role": "system", "content": self.system_prompt}, {"role": "user", "content": asked}]


def read_prompts(rows: Iterable[object], where: str) -> dict[str, JudgePrompt]:
    """The four prompts of single-answer grading, by name; pairwise ones are passed over. Raises UserError for a missing
    one, and for one that would be filled in another way than FastChat does.
    """
    found: dict[str, JudgePrompt] = {}
    for row in rows:
        if not isinstance(row, dict) or row.get("name") not in FIELDS:
            continue
        if row["name"] in found:
            raise UserError(f"{where} has {row['name']} twice; which one judges would be chance; keep one")
        found[row["name"]] = _prompt(row, where)
    if missing := [name for name in FIELDS if name not in found]:
        raise UserError(
            f"{where} has no prompt {', '.join(missing)}; answers could not be judged as FastChat does; give the file "
            "fastchat/llm_judge/data/judge_prompts.jsonl"
        )
    return {name: found[name] for name in FIELDS}


def digest(prompts: Mapping[str, JudgePrompt]) -> str:
    """sha256, in hex, of what the judge is asked, whatever else the file holds."""
    said = {name: [prompt.system_prompt, prompt.template] for name, prompt in prompts.items()}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode("ascii")).hexdigest()


def _prompt(row: dict, where: str) -> JudgePrompt:
    name, template, system = row["name"], row.get("prompt_template"), row.get("system_prompt")
    if not isinstance(template, str) or not isinstance(system, str) or row.get("output_format") != "[[rating]]":
        raise UserError(
            f"{where}: {name} has no prompt_template, no system_prompt, or another output_format than [[rating]]; its "
            "verdicts could not be read; give FastChat's file"
        )
    allowed, wanted = FIELDS[name]
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UserError(
            f"{where}: the template of {name} cannot be filled ({error}); the judge could not be asked; write a brace "
            "that opens no field twice"
        ) from None
    for _, field, form, conversion in pieces:
        if field is not None and (field not in allowed or form or conversion):
            raise UserError(
                f"{where}: the template of {name} has {{{field}}}, which nothing is known for; the judge would be "
                f"asked something else; it may have {', '.join(sorted(allowed))}"
            )
    if absent := wanted - {field for _, field, _, _ in pieces}:
        raise UserError(
            f"{where}: the template of {name} lacks {', '.join(sorted(absent))}; the judge would not see it; give "
            "FastChat's file"
        )
    return JudgePrompt(name, system, template, tuple((text, field) for text, field, _, _ in pieces))
