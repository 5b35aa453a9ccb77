"""Official files of MMLU and GSM8K are read in the layouts they are published in, and anything else is refused."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest

from agenttuning.errors import UserError
from agenttuning.general import documents
from agenttuning.general.documents import Documents, load
from helpers.general_items import SUBJECTS, cais, gsm8k_row, hendrycks, mmlu_row, mmlu_rows, openai_gsm8k, write_table

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def in_cache(folder, commit=COMMIT):
    """The Hub's cache of a repository: names are links to blobs that are named by their content."""
    root = folder.parent / "datasets--some--set"
    for file in [file for file in folder.rglob("*") if file.is_file()]:
        blob = root / "blobs" / hashlib.sha256(file.read_bytes() + str(file).encode()).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blob)
        link = root / "snapshots" / commit / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    return root


def jsonl(folder, n=4, dev=5):
    for split, many in (("test", n), ("dev", dev), ("validation", 1)):
        rows = [row for subject in reversed(SUBJECTS) for row in mmlu_rows(split, subject, many)]
        write_table(folder / f"{split}.jsonl", rows)
    return folder


def cached(folder):
    return in_cache(cais(folder)) / "snapshots" / COMMIT


@pytest.mark.parametrize("layout", [cais, hendrycks, jsonl, cached, lambda folder: in_cache(cais(folder))])
def test_mmlu_is_the_same_from_every_layout(tmp_path, layout) -> None:
    found = load("mmlu", layout(tmp_path / "mmlu"))
    wanted = [
        {"id": f"{subject}/test/{number}", **row}
        for subject in SUBJECTS
        for number, row in enumerate(mmlu_rows("test", subject, 4))
    ]
    assert [{**row} for row in found.test] == wanted
    assert len(found.examples) == 10
    assert found.sha256 == load("mmlu", cais(tmp_path / "again")).sha256
    assert found.revision == (COMMIT if (tmp_path / "datasets--some--set").exists() else None)


def test_the_subjects_own_folders_do_where_there_is_none_for_all(tmp_path) -> None:
    folder = cais(tmp_path / "mmlu")
    shutil.rmtree(folder / "all")
    assert load("mmlu", folder).sha256 == load("mmlu", cais(tmp_path / "other")).sha256
    shutil.rmtree(folder / SUBJECTS[1])
    assert {row["subject"] for row in load("mmlu", folder).test} == {SUBJECTS[0]}


def original_repository(folder):
    """grade_school_math/data of openai/grade-school-math."""
    data = folder / "grade_school_math" / "data"
    write_table(data / "test.jsonl", [gsm8k_row(number) for number in range(4)])
    write_table(data / "train.jsonl", [gsm8k_row(number) for number in range(100, 108)])
    write_table(data / "test_socratic.jsonl", [gsm8k_row(7)])
    write_table(data / "train_socratic.jsonl", [gsm8k_row(8)])
    write_table(data / "example_model_solutions.jsonl", [{"question": "?", "ground_truth": "x"}])
    return folder


@pytest.mark.parametrize(
    "layout",
    [openai_gsm8k, original_repository, lambda f: in_cache(openai_gsm8k(f)), lambda f: openai_gsm8k(f) / "main"],
)
def test_gsm8k_is_the_same_from_every_layout(tmp_path, layout) -> None:
    found = load("gsm8k", layout(tmp_path / "gsm8k"))
    assert found.test == [{"id": f"test/{number}", **gsm8k_row(number)} for number in range(4)]
    assert found.examples == [{"id": f"train/{number}", **gsm8k_row(100 + number)} for number in range(8)]


def test_gsm8ks_train_rows_are_needed_by_lm_evals_own_task_alone(tmp_path) -> None:
    from agenttuning.general import gsm8k
    from agenttuning.general.originals import OWN
    from agenttuning.general.protocol import find

    found = load("gsm8k", write_table(tmp_path / "test.jsonl", [gsm8k_row(1)]))
    assert len(found.test) == 1 and not found.examples
    gsm8k.write(tmp_path / "docs", find("paper").tasks["gsm8k"], found.test, found.examples, OWN, None)
    with pytest.raises(UserError, match="no train rows"):
        gsm8k.write(tmp_path / "docs", find("stock").tasks["gsm8k"], found.test, found.examples, OWN, None)


def good_mmlu(folder, **rows):
    write_table(folder / "dev.jsonl", rows.get("dev", mmlu_rows("dev", SUBJECTS[0], 5)))
    write_table(folder / "test.jsonl", rows.get("test", mmlu_rows("test", SUBJECTS[0], 2)))
    return folder


ROW = mmlu_row(SUBJECTS[0], 1)


@pytest.mark.parametrize(
    ("row", "answer"), [(ROW, 1), ({**ROW, "answer": "C"}, 2), ({**ROW, "answer": 0, "extra": "x"}, 0)]
)  # fmt: skip
def test_an_answer_is_a_number_or_a_letter(tmp_path, row, answer) -> None:
    [found] = load("mmlu", good_mmlu(tmp_path, test=[row])).test
    assert found["answer"] == answer and set(found) == {"id", "question", "subject", "choices", "answer"}


@pytest.mark.parametrize(
    "change",
    [
        {"answer": 4}, {"answer": -1}, {"answer": "E"}, {"answer": "2"}, {"answer": "AB"}, {"answer": ""},
        {"answer": None}, {"answer": True}, {"answer": 1.0}, {"choices": ["a", "b", "c"]}, {"choices": "abcd"},
        {"choices": ["a", "b", "c", 4]}, {"question": " "}, {"question": None}, {"subject": None},
        {"subject": "../../etc"}, {"subject": ""},
    ],
)  # fmt: skip
def test_a_row_that_is_no_item_is_refused(tmp_path, change) -> None:
    good_mmlu(tmp_path, test=[ROW, {**ROW, **change}])
    with pytest.raises(UserError, match="test row 1 is no item of mmlu.*repair or replace"):
        load("mmlu", tmp_path)


@pytest.mark.parametrize("answer", ["5", "#### five", "", None, 5, "#### 1.2.3"])
def test_a_row_without_a_number_is_refused(tmp_path, answer) -> None:
    write_table(tmp_path / "test.jsonl", [gsm8k_row(1), {"question": "how many?", "answer": answer}])
    with pytest.raises(UserError, match="test row 1 is no item of gsm8k"):
        load("gsm8k", tmp_path)


def two_copies(folder):
    for number in range(3):
        write_table(folder / f"copy{number}" / "test.jsonl", [gsm8k_row(k) for k in range(600)])


def two_commits(folder):
    cais(folder / "mmlu")
    root = in_cache(folder / "mmlu")
    shutil.copytree(root / "snapshots" / COMMIT, root / "snapshots" / COMMIT[::-1], symlinks=True)
    shutil.rmtree(folder / "mmlu")


def headed(folder):
    hendrycks(folder)
    file = folder / "test" / f"{SUBJECTS[0]}_test.csv"
    file.write_text("question,A,B,C,D,answer\n" + file.read_text())


@pytest.mark.parametrize(
    ("task", "make", "message"),
    [
        ("mmlu", lambda f: None, "holds no test and no dev rows of mmlu.*cais/mmlu"),
        ("mmlu", lambda f: (f / "data.tar").write_text("x"), "holds no test and no dev rows"),
        ("mmlu", lambda f: shutil.rmtree(hendrycks(f) / "dev"), "holds no dev rows of mmlu"),
        ("mmlu", lambda f: shutil.rmtree(hendrycks(f) / "test"), "holds no test rows of mmlu"),
        ("mmlu", lambda f: hendrycks(f, dev=4), "4 dev rows of abstract_algebra, and 5 are shown"),
        ("mmlu", headed, "not question, four choices and a letter"),
        ("mmlu", lambda f: good_mmlu(f, test=[{**ROW, "subject": "anatomie"}]), "'anatomie', .* of MMLU's 57.*anatomy"),
        ("mmlu", openai_gsm8k, "no item of mmlu"),
        ("mmlu", lambda f: (f / "test.jsonl").write_text("{\n"), "test row 0 is no item of mmlu: line 1 is not valid"),
        ("mmlu", lambda f: (f / "test.parquet").write_text("x"), "cannot be read as Parquet"),
        ("gsm8k", cais, "no item of gsm8k|holds no test"),
        ("gsm8k", two_copies, "holds 1,800 test rows of gsm8k, which has 1,319; some would count twice"),
    ],
)  # fmt: skip
def test_other_folders_are_refused(tmp_path, task, make, message) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    if make is hendrycks or make is headed or "hendrycks" in getattr(make, "__code__", make).co_names:
        folder.rmdir()
    make(folder)
    with pytest.raises(UserError, match=message):
        load(task, folder)


def test_of_several_commits_in_the_cache_main_is_read(tmp_path) -> None:
    two_commits(tmp_path)
    root = tmp_path / "datasets--some--set"
    with pytest.raises(UserError, match="holds 2 commits; which one is asked would be chance"):
        load("mmlu", root)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT[::-1])
    assert load("mmlu", root).revision == COMMIT[::-1]


def test_a_missing_place_is_said(tmp_path) -> None:
    with pytest.raises(UserError, match="nowhere does not exist; mmlu could not be asked; check --data mmlu=PATH"):
        load("mmlu", tmp_path / "nowhere")


def test_a_part_is_not_one_subject(tmp_path) -> None:
    whole = load("mmlu", cais(tmp_path / "mmlu"))
    part = whole.cut(3)
    assert [row["id"] for row in part.test] == [
        f"{SUBJECTS[0]}/test/0",
        f"{SUBJECTS[0]}/test/1",
        f"{SUBJECTS[1]}/test/0",
    ]
    assert part.examples == whole.examples and part.sha256 != whole.sha256
    assert whole.cut(None) is whole and whole.cut(8) is whole and whole.cut(9) is whole
    gsm8k = load("gsm8k", openai_gsm8k(tmp_path / "gsm8k"))
    assert [row["id"] for row in gsm8k.cut(2).test] == ["test/0", "test/1"]


def test_the_digest_is_of_items_and_examples_and_stays() -> None:
    one = Documents("gsm8k", [{"id": "test/0", **gsm8k_row(0)}], "somewhere")
    assert one.sha256 == "95f061a78b5725ce8c1bdfd2543515654db5f857d052a1b041daad9c543a4497"
    assert one.sha256 == Documents("gsm8k", one.test, "elsewhere", COMMIT).sha256
    assert one.sha256 != Documents("gsm8k", one.test, "somewhere", examples=one.test).sha256


@pytest.mark.parametrize("task", ["mmlu", "gsm8k"])
def test_practice_items_are_repeatable_and_of_the_test_split(task) -> None:
    from agenttuning.miniature.lm_eval_docs import documents as miniature

    one = documents.practice(task, 40)
    assert one.practice and one.sha256 == documents.practice(task, 40).sha256
    asked = [(row["question"], *row.get("choices", ())) for row in one.test]
    assert len({row["id"] for row in one.test}) == len(set(asked)) == 40
    assert not {row["question"] for row in one.test} & {row["question"] for row in one.examples}
    skill = {"mmlu": "knowledge", "gsm8k": "arithmetic"}[task]
    of_test = [row["question"] for row in miniature(skill, 300, 0)]
    assert all(any(text.startswith(row["question"]) for text in of_test) for row in one.test)
    if task == "mmlu":
        assert {row["subject"] for row in one.test} <= documents.mmlu_subjects()
        subjects = [row["subject"] for row in one.examples]
        assert {subjects.count(row["subject"]) for row in one.test} == {5}


class Repository:
    """What `datasets` and HfApi are asked about one dataset, in their place."""

    def __init__(self, monkeypatch, folder, rows):
        import datasets
        import huggingface_hub

        self.asked = []
        monkeypatch.setattr(documents, "FOLDER", folder)
        monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", self.info)
        monkeypatch.setattr(datasets, "load_dataset", self.load)
        self.rows = rows

    def info(self, hub_id, revision):
        self.asked.append(("info", hub_id, revision))
        return type("Info", (), {"sha": COMMIT})()

    def load(self, hub_id, revision, data_files):
        self.asked.append(("load", hub_id, revision, data_files))
        return self.rows


SOURCES = """
gsm8k: {hub_id: openai/gsm8k, revision: main, data_files: {test: "main/test-*.parquet", train: "main/train-*.parquet"},
        splits: {test: 2, train: 1}, licence: mit}
"""


def test_the_hub_is_read_at_a_commit_that_is_kept(monkeypatch, tmp_path) -> None:
    (tmp_path / "sources.yaml").write_text(SOURCES)
    hub = Repository(monkeypatch, tmp_path, {"test": [gsm8k_row(0), gsm8k_row(1)], "train": [gsm8k_row(9)]})
    found = load("gsm8k", None)
    assert (found.revision, len(found.test)) == (COMMIT, 2) and found.source == f"openai/gsm8k at {COMMIT}"
    assert json.loads((tmp_path / "lock.json").read_text())["gsm8k"]["commit"] == COMMIT
    assert load("gsm8k", None).sha256 == found.sha256
    files = {"test": "main/test-*.parquet", "train": "main/train-*.parquet"}
    asked = ("load", "openai/gsm8k", COMMIT, files)
    assert hub.asked == [("info", "openai/gsm8k", "main"), asked, asked]  # asked once what main is
    hub.rows = {"test": [gsm8k_row(0)], "train": [gsm8k_row(9)]}
    with pytest.raises(
        UserError, match=r"has the rows .*; gsm8k could not be asked; give your copy: --data gsm8k=FOLDER"
    ):
        load("gsm8k", None)


@pytest.mark.parametrize("change", [("number 1", "number one"), ("10", "20"), (" ", "  ")])
def test_items_that_are_not_the_benchmarks_are_known_by_a_few(tmp_path, monkeypatch, change) -> None:
    """Blanks, quotes and case are those of a copy; words and numbers are another question."""
    rows = {"gsm8k": [{"id": "test/0", "question": "Of  number 1: \u2019How\u2019?", "answer": "9 + 1 = 10\n#### 10"}]}
    known = {"test/0": documents._said("gsm8k", rows["gsm8k"][0])}
    (tmp_path / "sources.yaml").write_text(json.dumps({"gsm8k": {"known": known}}))
    monkeypatch.setattr(documents, "FOLDER", tmp_path)
    made = {key: value.replace(*change) for key, value in rows["gsm8k"][0].items()}
    assert documents.Documents("gsm8k", [made], "x").strange == (None if change[0] == " " else "test/0")
    assert documents.Documents("gsm8k", [{**made, "id": "test/1"}], "x").strange == "test/0"  # it is not there at all


def test_every_benchmark_has_known_items() -> None:
    for task, facts in documents.read_mapping(documents.FOLDER / "sources.yaml").items():
        assert len(facts["known"]) == 2 and task in documents.SAID
