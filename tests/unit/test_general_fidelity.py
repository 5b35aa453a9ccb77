"""What a model is asked, id by id: `paper` as the authors' scripts and fschat 0.2.31 would, `stock` as lm-eval's own
tasks do, `corrected` as in training. The references are written here from the facts, not from the code.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agenttuning.chat import encode_prompt, load_tokenizer
from agenttuning.errors import UserError
from agenttuning.general import documents, engine, mmlu, originals
from agenttuning.general.kept import Answers
from agenttuning.general.lm import Asking, transformers_lm
from agenttuning.general.protocol import find
from agenttuning.general.task_files import installed
from helpers import general_items
from helpers.agenttuning_checkout import OPENING, SHOTS, SUBJECT_WORDS, write_checkout
from helpers.rigged_lm import Rig
from helpers.tiny_llama import save_tiny_llama

HELPFUL = "You are a helpful, respectful and honest assistant."  # eval_gsm8k_tgi.py's, and the README's
SUBJECTS = general_items.SUBJECTS


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from transformers import AutoModelForCausalLM

    folder = save_tiny_llama(tmp_path_factory.mktemp("model"))
    return AutoModelForCausalLM.from_pretrained(folder), load_tokenizer(folder)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return originals.read(write_checkout(tmp_path_factory.mktemp("checkout")), {"mmlu", "gsm8k"})


def ask(model, folder, protocol, items, words, prefers="B", says="The answer is 1"):
    """(entry, rig) of a benchmark through the engine."""
    lm = transformers_lm(*model)
    rig = Rig(lm, lambda _: prefers, lambda _: says)
    answers = Answers(folder, "test")
    try:
        return engine.run(lm, find(protocol).tasks[items.task], items, words, folder / "docs", answers), rig
    finally:
        answers.close()


def fschat(system: str, turns: list[tuple[str, str | None]]) -> str:
    """Conversation.get_prompt of fschat 0.2.31 for its template llama-2, with a system message."""
    text = f"[INST] <<SYS>>\n{system}\n<</SYS>>\n\n"
    for number, (asked, answered) in enumerate(turns):
        text += f"{asked} " if number == 0 else f"[INST] {asked} "
        text += "[/INST]" if answered is None else f"[/INST] {answered} </s><s>"
    return text


def hf_ids(text: str, tokenizer) -> list[int]:
    """AutoTokenizer of Llama-2 on a text: <s> in front, special tokens in the text are tokens."""
    return [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False).input_ids]


def mmlu_text(row: dict, dev: list[dict]) -> str:
    def block(one):
        return f"Question: {one['question']}\n" + "\n".join(
            f"{letter}. {choice}" for letter, choice in zip("ABCD", one["choices"], strict=True)
        )

    shown = [(block(one), f"Answer: {'ABCD'[one['answer']]}") for one in dev[:5]]
    last = (block(row) + "\nAnswer:").split("Answer:")[0].rstrip()
    subject = " ".join(row["subject"].split("_"))
    return fschat(SUBJECT_WORDS.format(subject), [*shown, (last, None)]) + " Answer: "


def mmlu_items(extra: list[dict] = ()) -> documents.Documents:
    """Three items of one subject, four of the other, six dev items each, of which five are shown."""
    dev = [row for subject in SUBJECTS for row in general_items.mmlu_rows("dev", subject, 6)]
    dev[1] |= {"question": "  spaces around, and an Answer: in it \n", "choices": [" a", "b ", "{{c}}", "None"]}
    test = [row for n, subject in enumerate(SUBJECTS, 3) for row in general_items.mmlu_rows("test", subject, n)]
    test[1] |= {"question": " What is the Answer: to this? ", "choices": ["a", "b", "c", "d \n"]}
    test[2] |= {"question": "{% raw %} 100% {{x}} \u00e9\n", "choices": ["1", "2.50", "", " "]}
    rows = [{"id": f"mmlu/{n}", **row} for n, row in enumerate([*test, *extra])]
    shown = [{"id": f"dev/{n}", **row} for n, row in enumerate(dev)]
    return documents.Documents("mmlu", rows, "a test", examples=shown)


def long_row(length: int, dev: list[dict], tokenizer) -> dict:
    """A row whose paper prompt has `length` ids."""
    row = general_items.mmlu_row(SUBJECTS[0], length, 2)
    short = len(hf_ids(mmlu_text(row, dev), tokenizer))
    row["question"] += "~" * (length - short)  # "~" is one byte piece, and merges with nothing
    assert len(hf_ids(mmlu_text(row, dev), tokenizer)) == length
    return row


def test_mmlu_is_asked_as_by_the_authors_script(model, words, tmp_path) -> None:
    tokenizer = model[1]
    dev = mmlu_items().examples
    extra = [long_row(length, dev[:6], tokenizer) for length in (2048, 2049, 2300)]
    items = mmlu_items(extra)
    entry, rig = ask(model, tmp_path, "paper", items, words)
    wanted = []
    for row in items.test:
        ids = hf_ids(mmlu_text(row, [one for one in dev if one["subject"] == row["subject"]]), tokenizer)
        wanted.append(ids[-2047:] if len(ids) > 2048 else ids)  # get_logits, with --max-seq-len 2048
    assert sorted(map(len, wanted))[-3:] == [2047, 2047, 2048]
    assert sorted(rig.asked) == sorted(wanted)
    # the mean over all items, whatever their subject: 10 of 3 + 3 and 4
    right = [row["id"] for row in items.test if row["answer"] == 1]
    assert {name for name, reward in entry["rewards"].items() if reward} == set(right)
    assert entry["score"] == pytest.approx(100 * len(right) / 10) and entry["n"] == 10
    assert entry["cut"] == 0  # what the protocol cuts is none of it


def test_a_letter_is_the_last_piece_of_a_space_and_it(model, words) -> None:
    lm = transformers_lm(*model)
    lm.ask_by(find("paper").tasks["mmlu"], None)
    ids = [lm._encode_pair("Answer: ", letter)[1] for letter in "ABCD"]
    assert ids == [model[1](f" {letter}", add_special_tokens=False).input_ids[-1:] for letter in "ABCD"]
    assert len({one for [one] in ids}) == 4
    prompt, _ = lm._encode_pair("<s>[INST] x [/INST] Answer: ", "A")
    assert prompt == hf_ids("[INST] x [/INST] Answer: ", model[1])  # its last space stays in it


def test_letters_are_compared_as_the_script_does() -> None:
    """Two softmaxes in bfloat16, then numpy's argmax, on logits of every sharpness."""
    import numpy
    import torch

    generator = torch.Generator().manual_seed(0)
    ties = 0
    for number in range(300):
        logits = (torch.randn(50, generator=generator) * (0.1 + number % 7)).to(torch.bfloat16)
        probabilities = torch.nn.functional.softmax(logits, dim=-1)
        four = torch.nn.functional.softmax(torch.tensor([probabilities[place] for place in range(4)]), dim=0)
        wanted = int(numpy.argmax(four.to(torch.float32).numpy()))
        likelihoods = torch.log_softmax(logits.float(), dim=-1)[:4].tolist()
        assert mmlu.chosen(likelihoods, rounded=True) == wanted
        ties += wanted != mmlu.chosen(likelihoods, rounded=False)
    assert ties > 30  # it is not the same as comparing the likelihoods


def gsm8k_items(n: int = 3) -> documents.Documents:
    rows = [{"id": f"test/{number}", **general_items.gsm8k_row(number)} for number in range(n)]
    rows[1]["question"] = "  two  blanks, a {{brace}} and a\nline \n"
    train = [{"id": f"train/{number}", **general_items.gsm8k_row(number)} for number in range(50, 60)]
    return documents.Documents("gsm8k", rows, "a test", examples=train)


def test_gsm8k_is_asked_as_by_the_authors_script(model, words, tmp_path) -> None:
    items = gsm8k_items()
    _, rig = ask(model, tmp_path, "paper", items, words)
    turns = [OPENING, *SHOTS]
    wanted = [
        hf_ids(fschat(HELPFUL, [*turns, (f"\nQuestion: {row['question']}", None)]), model[1]) for row in items.test
    ]
    assert sorted(rig.asked) == sorted(wanted)


def as_messages(turns: list[tuple[str, str]]) -> list[dict]:
    return [
        message
        for asked, answered in turns
        for message in ({"role": "user", "content": asked}, {"role": "assistant", "content": answered})
    ]


def test_corrected_asks_with_the_ids_of_training(model, words, tmp_path) -> None:
    items = gsm8k_items()
    _, rig = ask(model, tmp_path, "corrected", items, words)
    asked = [{"role": "user", "content": f"Question: {row['question']}"} for row in items.test]
    wanted = [encode_prompt([*as_messages([OPENING, *SHOTS]), one], model[1], HELPFUL) for one in asked]
    assert sorted(rig.asked) == sorted(wanted)


USER = {"role": "user", "content": "Which? A, B"}
BEGUN = {"role": "assistant", "content": "Answer:"}
SHOWN = {"role": "assistant", "content": "Answer: C"}
SYSTEM = {"role": "system", "content": "Be kind."}
GREEDY = {"until": ["</s>"]}


@pytest.mark.parametrize(
    ("messages", "change", "continuation", "good"),
    [
        ([SYSTEM, USER], lambda text: text, GREEDY, True),
        ([USER, {"role": "assistant", "content": "A"}, USER], lambda text: text, GREEDY, True),
        ([USER, BEGUN], lambda text: text, " B", True),
        ([USER], lambda text: f"{text} ", GREEDY, False),
        ([USER], lambda text: f"<s>{text}", GREEDY, False),
        ([USER], lambda text: text.replace("Which", " Which"), GREEDY, False),
        ([SYSTEM, USER], lambda text: text.replace("<<SYS>>\n", "<<SYS>> "), GREEDY, False),
        ([USER], lambda text: text.removeprefix("<s>"), GREEDY, False),
        ([USER, SHOWN, USER, BEGUN], lambda text: text, " B", True),
        ([USER, SHOWN, USER, BEGUN], lambda text: text, "B", False),  # glued to the colon, as no example is
        ([USER, SHOWN, USER, BEGUN], lambda text: text, "  B", False),
        ([USER, BEGUN], lambda text: text.replace(" Answer", "Answer"), " B", False),
        ([USER, BEGUN], lambda text: f"{text} </s>", " B", False),
    ],
)
def test_ids_that_are_not_trainings_are_refused_here(model, messages, change, continuation, good) -> None:
    lm = transformers_lm(*model)
    lm.ask_by(find("corrected").tasks["mmlu"], None)
    text = change(lm.apply_chat_template(messages, add_generation_prompt=messages[-1] is not BEGUN))
    lm.rendered[text] = messages
    sample = {"doc": {"id": "k"}, "arguments": [(text, continuation)]}
    if good:
        engine.check_prompt(sample, lm, None)
        return
    with pytest.raises(UserError, match="k: .* training has"):
        engine.check_prompt(sample, lm, None)


def test_a_run_with_a_wrong_prompt_has_no_score(model, words, tmp_path, monkeypatch) -> None:
    made = Asking.apply_chat_template

    def spaced(self, history, add_generation_prompt=True):
        text = made(self, history, add_generation_prompt)
        self.rendered[f"{text} "] = history
        return f"{text} "

    monkeypatch.setattr(Asking, "apply_chat_template", spaced)
    with pytest.raises(UserError, match="training has"):
        ask(model, tmp_path, "corrected", gsm8k_items(2), words)


def official(model, monkeypatch, folder: Path, names: list[str], files: str, prefers: str, says: str, shots=None):
    """lm-eval's own task files, unchanged, over local folders named as on the Hub; (results, rig)."""
    import datasets
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    monkeypatch.chdir(folder)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    lm = HFLM(pretrained=model[0], tokenizer=model[1], batch_size=8)
    rig = Rig(lm, lambda _: prefers, lambda _: says)
    manager = TaskManager(include_path=str(Path(installed(files)).parent), include_defaults=False)
    results = lm_eval.simple_evaluate(
        model=lm, tasks=names, task_manager=manager, num_fewshot=shots, log_samples=True, bootstrap_iters=0
    )
    return results, rig


def hub_folder(folder: Path, name: str, configs: dict[str, dict[str, list[dict]]]) -> None:
    """A dataset repository as `hf download --local-dir` leaves it."""
    for config, splits in configs.items():
        for split, rows in splits.items():
            general_items.write_table(folder / name / config / f"{split}.parquet", rows)
    header = [
        {"config_name": c, "data_files": [{"split": s, "path": f"{c}/{s}.parquet"} for s in splits]}
        for c, splits in configs.items()
    ]
    (folder / name / "README.md").write_text(f"---\nconfigs: {json.dumps(header)}\n---\n")


def bare(rows: list[dict], *names: str) -> list[dict]:
    return [{name: row[name] for name in names} for row in rows]


def test_stock_mmlu_is_lm_evals_own(model, words, tmp_path, monkeypatch) -> None:
    items = mmlu_items()
    columns = ("question", "subject", "choices", "answer")
    configs = {
        subject: {
            split: bare([row for row in rows if row["subject"] == subject], *columns)
            for split, rows in (("test", items.test), ("dev", items.examples))
        }
        for subject in SUBJECTS
    }
    hub_folder(tmp_path, "cais/mmlu", configs)
    entry, ours = ask(model, tmp_path / "ours", "stock", items, words)
    names = [f"mmlu_{subject}" for subject in SUBJECTS]
    results, theirs = official(model, monkeypatch, tmp_path, names, "mmlu/default/_mmlu.yaml", "B", "", shots=5)
    assert sorted(ours.asked) == sorted(theirs.asked) and len(theirs.asked) == len(items.test)
    samples = [sample for name in names for sample in results["samples"][name]]
    assert list(entry["rewards"].values()) == [sample["acc"] for sample in samples]
    assert 0 < entry["score"] < 100


def test_stock_gsm8k_is_lm_evals_own(model, words, tmp_path, monkeypatch) -> None:
    items = gsm8k_items(5)
    splits = {"test": items.test, "train": items.examples}
    main = {split: bare(rows, "question", "answer") for split, rows in splits.items()}
    hub_folder(tmp_path, "openai/gsm8k", {"main": main})
    said = "so it is\n#### 1,003"
    entry, ours = ask(model, tmp_path / "ours", "stock", items, words, says=said)
    results, theirs = official(model, monkeypatch, tmp_path, ["gsm8k"], "gsm8k/gsm8k.yaml", "B", said)
    assert sorted(ours.asked) == sorted(theirs.asked) and len(theirs.asked) == 5
    strict = [sample for sample in results["samples"]["gsm8k"] if sample["filter"] == "strict-match"]
    assert list(entry["rewards"].values()) == [sample["exact_match"] for sample in strict] == [0, 0, 0, 1, 0]
    assert results["results"]["gsm8k"]["exact_match,strict-match"] == pytest.approx(entry["score"] / 100)
