"""The original's prompts for MMLU and GSM8K, out of a checkout of THUDM/AgentTuning, by reading its scripts as data.

Nothing of them is imported or run. A script that is not shaped as at commit e33a45d is refused, never guessed at.
"""

from __future__ import annotations

import ast
import hashlib
from dataclasses import dataclass
from pathlib import Path

from agenttuning.errors import UserError

MMLU, GSM8K = "eval_general/eval_mmlu_hf.py", "eval_general/eval_gsm8k_tgi.py"
SUBJECT = "{subject}"


@dataclass(frozen=True)
class Originals:
    """source: where the words are from.

    mmlu: the system message, with {subject} where the subject's words go; gsm8k: the turns before the question, as
    (user, assistant), the instruction and its acknowledgement first.
    """

    source: str
    mmlu: str | None = None
    gsm8k: tuple[tuple[str, str], ...] = ()

    def digest(self, task: str) -> str:
        """sha256 of one benchmark's words, in hex: the same whatever else was read."""
        return hashlib.sha256(repr(getattr(self, task)).encode()).hexdigest()


# The tiny twin's: same shape, our own words and sums, in the words its model knows.
OWN = Originals(
    "our own words, for practice",
    mmlu="which of the four is right? {subject}",
    gsm8k=(
        ("solve it.", "ok."),
        ("Question: Ann has 2 cups and gets 3 more. how many cups?", "2 + 3 = 5"),
        ("Question: Bob has 7 pens and loses 4. how many pens?", "7 - 4 = 3"),
    ),
)


def read(checkout: str | Path, wanted: set[str]) -> Originals:
    """The prompts of the `wanted` benchmarks. Raises UserError where a script is missing or not shaped as expected."""
    root = Path(checkout)
    try:
        mmlu = _instruction(_script(root, MMLU)) if "mmlu" in wanted else None
        gsm8k = _turns(_script(root, GSM8K)) if "gsm8k" in wanted else ()
    except (KeyError, ValueError, IndexError, TypeError, SyntaxError, AttributeError) as error:
        raise UserError(
            f"{root / 'eval_general'} is not shaped as at commit e33a45d of THUDM/AgentTuning ({type(error).__name__}: "
            f"{error}); its prompts would be a guess; check that commit out"
        ) from error
    return Originals("a checkout of THUDM/AgentTuning", mmlu, gsm8k)


def _script(root: Path, name: str) -> ast.Module:
    file = root / name
    if not file.is_file():
        raise UserError(
            f"{file} is not there; the paper's prompt is in it and is not ours to copy; `git clone "
            "https://github.com/THUDM/AgentTuning`, check out e33a45d, and give the folder with --prompts"
        )
    return ast.parse(file.read_text(encoding="utf-8"))


def _function(tree: ast.Module, name: str) -> ast.FunctionDef:
    return next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)


def _instruction(tree: ast.Module) -> str:
    """`prompt = f"..."` of generate_few_shot_prompt: its one replacement is the subject with blanks for `_`."""
    assigned = [
        node.value
        for node in ast.walk(_function(tree, "generate_few_shot_prompt"))
        if isinstance(node, ast.Assign) and [getattr(one, "id", None) for one in node.targets] == ["prompt"]
    ]
    [text] = assigned
    if not isinstance(text, ast.JoinedStr):
        raise ValueError("the subject's instruction is no f-string")
    parts = [part.value if isinstance(part, ast.Constant) else SUBJECT for part in text.values]
    if parts.count(SUBJECT) != 1:
        raise ValueError("the subject's instruction names something else than the subject")
    return "".join(parts)


def _turns(tree: ast.Module) -> tuple[tuple[str, str], ...]:
    """The constants Q1, A1 .. in the order of `shots`, behind the two messages that doc_to_text writes out."""
    assigned = {node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign)}
    shots = tuple(tuple(ast.literal_eval(assigned[name.id]) for name in pair.elts) for pair in assigned["shots"].elts)
    calls = (node for node in ast.walk(_function(tree, "doc_to_text")) if isinstance(node, ast.Call))
    said = [
        (call.lineno, call.args[1].value)
        for call in calls
        if getattr(call.func, "attr", None) == "append_message" and isinstance(call.args[1], ast.Constant)
    ]
    opening = [text for _, text in sorted(said) if isinstance(text, str)]
    if len(opening) != 2 or not all(len(pair) == 2 and all(map(str.strip, pair)) for pair in shots) or not shots:
        raise ValueError("the turns are not an instruction, its answer, and worked examples")
    return ((opening[0], opening[1]), *shots)
