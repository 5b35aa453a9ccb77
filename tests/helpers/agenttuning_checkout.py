"""A checkout of THUDM/AgentTuning in our own words, its two scripts shaped as the real ones at commit e33a45d."""

from __future__ import annotations

from pathlib import Path

MMLU = """
raise SystemExit("this file was run")
def generate_few_shot_prompt(k, subject, dev_df):
    def format_subject(subject):
        l = subject.split("_")
        return " ".join(l)
    prompt = f"Here is a test on {format_subject(subject)}. Pick the one that fits, A, B, C or D."
    conv = get_conversation_template("llama-2")
    conv.set_system_message(f"{prompt}")
    for i in range(k):
        conv.append_message(conv.roles[0], f'Question: {line["question"]}')
    return conv
"""
GSM8K = """
raise SystemExit("this file was run")
import re
ANS_RE = re.compile(r"#### (-?[0-9]+)")
INVALID_ANS = "[invalid]"
{constants}
shots = [{pairs}]
def doc_to_text(doc):
    conv = get_conversation_template("llama-2")
    conv.set_system_message(
        "You are of no help.")
    conv.append_message(
        conv.roles[0], "Work this sum out, step by step. ")
    conv.append_message(conv.roles[1], "Ok.")
    for q, a in shots:
        conv.append_message(conv.roles[0], q)
        conv.append_message(conv.roles[1], a)
    conv.append_message(conv.roles[0], f"\\nQuestion: {{doc['question']}}")
    conv.append_message(conv.roles[1], None)
    return conv.get_prompt()
"""
SUBJECT_WORDS = "Here is a test on {}. Pick the one that fits, A, B, C or D."
OPENING = ("Work this sum out, step by step. ", "Ok.")
SHOTS = [
    (f"Question: Tom has {n} pens and buys {n} more.  How many?", f"Let us see.\n{n} + {n} = {2 * n}\nIt is {2 * n}")
    for n in range(2, 10)
]


def write_checkout(folder: Path) -> Path:
    """Write eval_general/ below `folder`, and return it."""
    (folder / "eval_general").mkdir(parents=True)
    (folder / "eval_general" / "eval_mmlu_hf.py").write_text(MMLU)
    names = [f"(Q{n}, A{n})" for n in range(1, len(SHOTS) + 1)]
    words = [f"Q{n} = {q!r}\nA{n} = {a!r}" for n, (q, a) in enumerate(SHOTS, 1)]
    (folder / "eval_general" / "eval_gsm8k_tgi.py").write_text(
        GSM8K.format(constants="\n".join(words), pairs=", ".join(names))
    )
    return folder
