"""Evaluation examples by name, from files and from the Hub: what is text, what identifies them, what is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agenttuning.data import against, lock, sources
from agenttuning.data.against import benchmarks, read_against
from agenttuning.errors import UserError

COMMIT = "c" * 40
AGENTBENCH = Path(__file__).resolve().parents[3] / "shared" / "data" / "agentbench"


def rows(path, *found):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


def texts(word, *fields):
    return [example.texts for example in read_against([word], fields).examples]


def test_every_benchmark_says_where_it_comes_from():
    known = benchmarks()
    assert {name: one.examples for name, one in known.items()} == {
        "mmlu": 14042, "gsm8k": 1319, "humaneval": 164, "mt-bench": 80,
        "alfworld": 50, "webshop": 200, "mind2web": 177, "kg": 150, "db": 300, "os": 144,
    }  # fmt: skip
    agent = [name for name, one in known.items() if not one.hub_id]
    assert sum(known[name].examples for name in agent) == 1021  # the paper's appendix B
    assert all(one.texts and (one.how if not one.hub_id else one.revision and one.licence) for one in known.values())
    assert all(not one.hub_id or len(one.files or one.data_files) == 1 for one in known.values())


def test_the_fields_of_a_known_name(tmp_path):
    mmlu = rows(tmp_path / "m.jsonl", {"question": "q", "choices": ["a", "b"], "answer": 1, "subject": "s"})
    assert texts(f"mmlu={mmlu}") == [("q\na\nb",)]
    assert texts(f"mmlu={mmlu}", "subject") == [("s",)]
    assert texts(f"unknown={mmlu}") == [("q", "a", "b", "s")]
    code = rows(tmp_path / "h.jsonl", {"prompt": "def f():\n", "canonical_solution": "    pass", "test": "t"})
    assert texts(f"humaneval={code}") == [("def f():\n    pass",)]
    assert texts(f"gsm8k={rows(tmp_path / 'g.jsonl', {'question': 'q', 'answer': 'a', 'n': 'x'})}") == [("q", "a")]
    assert texts(f"mt-bench={rows(tmp_path / 't.jsonl', {'turns': ['one', 'two'], 'x': 'y'})}") == [("one", "two")]


def test_a_checkout_of_agentbench_by_its_folder(tmp_path):
    rows(tmp_path / "data/dbbench/standard.jsonl", {"description": "d", "add_description": "t", "sql": "s"})
    for place, content in (("1/stock", [{"description": "one"}]), ("4/N11", {"description": "two"}), ("8/no", 1)):
        file = tmp_path / f"data/os_interaction/data/{place}.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(content))
    assert texts(f"db={tmp_path}") == [("d\nt",)] and texts(f"os={tmp_path}") == [("one",), ("two",)]
    found = read_against([f"os={tmp_path}"])
    assert [example.id for example in found.examples] == ["stock_0", "N11_0"]
    folder = "data/os_interaction/data"
    assert found.sources[0]["files"].keys() == {f"{folder}/1/stock.json", f"{folder}/4/N11.json"}
    assert texts(f"db={tmp_path / 'data/dbbench/standard.jsonl'}") == [("d\nt",)]


def test_what_identifies_a_file_and_what_is_counted(tmp_path, capsys):
    file = rows(tmp_path / "a.jsonl", {"question": "q", "answer": "a"}, {"question": " ", "answer": ""})
    found = read_against([f"gsm8k={file}"])
    assert found.sources == [
        {
            "name": "gsm8k", "files": {"a.jsonl": sources.file_digest(file)}, "rows": 2, "without_text": 1,
            "texts": ["question", "answer"], "joint": "\n", "expected": 1319,
        }
    ]  # fmt: skip
    assert "2 rows were read, its test set has 1,319" in capsys.readouterr().err


def fake_hub(monkeypatch, rows, asked):
    """Answers of the Hub's two clients, and what they were asked."""
    import datasets
    import huggingface_hub

    def info(self, name, revision):
        asked.append((name, revision))
        return type("Info", (), {"sha": COMMIT})()

    def load(name, revision, data_files):
        asked.append((name, revision, data_files))
        return {"test": rows}

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", info)
    monkeypatch.setattr(datasets, "load_dataset", load)


def copied(tmp_path, name, **changes):
    folder = tmp_path / "cards"
    folder.mkdir(exist_ok=True)
    content = (against.FOLDER / f"{name}.yaml").read_text()
    for old, new in changes.items():
        content = content.replace(f"{old}: {getattr(benchmarks()[name], old)}", f"{old}: {new}")
    (folder / f"{name}.yaml").write_text(content)
    return folder


def test_the_hub_is_asked_once_for_the_commit(monkeypatch, tmp_path):
    asked, folder = [], copied(tmp_path, "gsm8k", examples=2)
    fake_hub(monkeypatch, [{"question": "q", "answer": str(n)} for n in range(2)], asked)
    first = read_against(["gsm8k"], folder=folder)
    assert [example.texts for example in first.examples] == [("q", "0"), ("q", "1")]
    pattern = {"test": "main/test-*.parquet"}
    assert asked == [("openai/gsm8k", "main"), ("openai/gsm8k", COMMIT, pattern)]
    assert first.sources[0]["commit"] == COMMIT and first.sources[0]["hub_files"] == pattern
    assert lock.read_lock(folder / "lock.json")["gsm8k"]["commit"] == COMMIT
    assert read_against(["gsm8k"], folder=folder) == first
    assert asked[2:] == [("openai/gsm8k", COMMIT, pattern)]


def test_another_number_of_rows_on_the_hub_is_refused(monkeypatch, tmp_path):
    fake_hub(monkeypatch, [{"question": "q", "answer": "a"}], [])
    with pytest.raises(UserError, match="1319.*gsm8k=FILE"):
        read_against(["gsm8k"], folder=copied(tmp_path, "gsm8k"))


def test_offline_says_how_to_go_on(monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="cais/mmlu.*ffline.*mmlu would not be compared.*--against mmlu=FILE"):
        read_against(["mmlu"], folder=copied(tmp_path, "mmlu"))


def test_mt_bench_is_one_file_of_the_hub(monkeypatch, tmp_path):
    import huggingface_hub

    asked, folder = [], copied(tmp_path, "mt-bench", examples=1)
    fake_hub(monkeypatch, [], asked)
    file = rows(tmp_path / "question.jsonl", {"turns": ["one", "two"]})
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *words, **more: asked.append((words, more)) or file)
    assert read_against(["mt-bench"], folder=folder).examples[0].texts == ("one", "two")
    assert asked[-1][0] == ("HuggingFaceH4/mt_bench_prompts", "raw/question.jsonl")


@pytest.mark.parametrize(
    ("word", "fields", "words"),
    [
        ("alfworld", [], "alfworld is not on the Hub.*first observation.*--against alfworld=PATH"),
        ("mnlu", [], "no suite 'mnlu'.*did you mean `mmlu`"),
        ("mmlu=absent.jsonl", [], "absent.jsonl does not exist; mmlu would not be compared"),
        ("gsm8k", ["question"], "--fields names fields of NAME=FILE"),
    ],
)
def test_words_that_name_nothing(word, fields, words):
    with pytest.raises(UserError, match=words):
        read_against([word], fields)


def test_rows_of_another_shape_are_refused(tmp_path):
    with pytest.raises(UserError, match="row std_0 has no field 'observation'"):
        (tmp_path / "std.json").write_text('{"pick_and_place": ["a/game.tw-pddl"]}')
        read_against([f"alfworld={tmp_path / 'std.json'}"])
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        read_against([f"kg={tmp_path / 'bad.json'}"])
    with pytest.raises(UserError, match="holds no text"):
        read_against([f"gsm8k={rows(tmp_path / 'e.jsonl', {'question': '', 'answer': []})}"])


def test_a_name_given_twice_is_refused(tmp_path):
    file = rows(tmp_path / "g.jsonl", {"question": "q", "answer": "a"})
    with pytest.raises(UserError, match="gsm8k is named twice"):
        read_against([f"gsm8k={file}", f"gsm8k={file}"])


def test_an_unknown_key_of_a_benchmark_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("examples: 1\ntext: [question]\n")
    with pytest.raises(UserError, match="unknown key `text`.*did you mean `texts`"):
        benchmarks(tmp_path)


@pytest.mark.skipif(not AGENTBENCH.is_dir(), reason="no agentbench folder beside the repository")
@pytest.mark.parametrize(
    ("word", "count"),
    [("db=dbbench/dev.jsonl", 60), ("kg=knowledgegraph/dev.json", 20), ("os=os_interaction/data/dev.json", 26)],
)
def test_real_dev_files(word, count):
    name, _, path = word.partition("=")
    found = read_against([f"{name}={AGENTBENCH / path}"])
    assert len(found.examples) == count and found.sources[0]["without_text"] == 0
    assert all(len(example.texts) == 1 for example in found.examples)
