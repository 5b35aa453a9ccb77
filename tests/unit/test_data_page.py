"""The page of a built mixture: the right numbers, every kind of loss, and nothing that foreign text could do."""

from __future__ import annotations

import json
import random
import re

import numpy
import pytest
from test_push_data import load, world, write_rows  # noqa: F401 fixture
from test_report import Page

from agenttuning import cli
from agenttuning.chat import load_tokenizer, show
from agenttuning.data.prepare import prepare
from agenttuning.report import data_page, lengths
from helpers.conversations import agent_row, chat_row

EVIL = "<script>alert(1)</script></mark></p></details><img src=x onerror=alert(2)>&amp; \x1b[31m \u202e \x07 \u2028"
PACKED = "packing=true", "max_length=256"


class DataPage(Page):
    VOID = {"meta"}

    def __init__(self, text: str) -> None:
        self.marked: list[str] = []
        super().__init__(text)

    def handle_data(self, data):
        super().handle_data(data)
        if "mark" in self.open:
            self.marked.append(data)


def shown(*overrides, **options) -> tuple[DataPage, str]:
    path = data_page.show_data(load(*overrides), {}, n=1, **options)
    text = path.read_text(encoding="utf-8")
    return DataPage(text), text


def hostile(world):  # noqa: F811
    agents = [agent_row(number) for number in range(10)]
    for turn in agents[0]["conversations"]:
        turn["value"] += EVIL
    agents[0]["id"] = EVIL
    write_rows(world, "agents", agents)
    bad = [{"id": EVIL, "conversations": []}, {"id": "half\ud800", "conversations": [{"from": EVIL, "value": "a"}]}]
    write_rows(world, "chats", [chat_row(number, exchanges=2) for number in range(60)] + bad)
    return "mixture.max_quarantined=0.1", "max_length=900"


def test_it_holds_every_part_with_the_right_numbers(world, capsys):  # noqa: F811
    page, text = shown(*PACKED)
    record = json.loads((world / "runs/tiny/sft/data/mixture.json").read_text())
    words = " ".join(page.text.split())
    for part in ("its data", "Mixture", "Supervised share", "Length", "Packing", "What was left out", "Conversations"):
        assert part in words
    for name, one in record["sources"].items():
        assert name in words and f"{100 * one['supervised_tokens'] / one['tokens']:.1f} %" in words
        assert f"{one['tokens']:,}" in words and f"{100 * one['share_of_supervised_tokens']:.1f} %" in words
    assert "No row was malformed or dropped." in words and record["key"][:16] in words
    assert f"written: {world / 'runs/tiny/sft/data.html'}" in capsys.readouterr().out.replace("runs/", f"{world}/runs/")
    assert str(world) not in text


def test_nothing_is_loaded_from_outside_and_it_pages_without_scripts(world):  # noqa: F811
    page, text = shown(sample=40)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "img", "link", "iframe", "object", "form", "input", "button"}
    for tag, attributes in page.tags:
        assert not {"src", "srcset", "data", "action", "style"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
        assert tag != "a" or attributes["href"].startswith("#")
    assert "://" not in text and "url(" not in text and "@import" not in text
    policy = next(a for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"
    ids = {a["id"] for _, a in page.tags if "id" in a}
    links = {a["href"].removeprefix("#") for t, a in page.tags if t == "a"}
    pages = {name for name in ids if name.startswith("page-")}
    assert links <= ids and pages <= links and len(pages) == 3  # 10 agents; 20 chats, 10 a page


def test_foreign_text_is_text(world):  # noqa: F811
    page, text = shown(*hostile(world), "mixture.draws=300")
    assert not {tag for tag, _ in page.tags} & {"script", "img"}
    assert page.text.count("<script>alert(1)</script>") >= 6 and "&lt;script&gt;" in text
    assert "\x1b" not in text and "\u202e" not in text and "\x07" not in text and "\u2028" not in text
    assert "\\x1b[31m" in page.text and "\\u202e" in page.text and "\\u2028" in page.text
    assert "half" in page.text


def test_marks_are_the_supervised_text_and_nothing_else(world):  # noqa: F811
    one = load()
    tokenizer = load_tokenizer(one.values["model_name_or_path"])
    rows = prepare(one, tokenizer, one.run_dir / "data").load()
    names, sources, _ = lengths.read_lengths(rows)
    found = data_page.conversations(rows, names, sources, tokenizer, 1000, 0)
    by_id = {row["id"]: row for row in rows}
    assert sum(map(len, found.values())) == len(by_id)
    for row in (row for some in found.values() for row in some):
        raw = by_id[row["id"]]
        parts = [part for exchange in row["exchanges"] for part in exchange]
        together = show.stretches(raw["input_ids"], raw["labels"], tokenizer)
        for trained in (True, False):
            assert "".join(t for kind, t in parts if kind is trained) == "".join(t for k, t in together if k is trained)
        assert row["supervised"] == sum(label != -100 for label in raw["labels"]) > 0
        assert all(exchange[-1][1].endswith("</s>") for exchange in row["exchanges"])
    page, _ = shown()
    texts = {t for some in found.values() for row in some for e in row["exchanges"] for kind, t in e if kind}
    assert set(page.marked[1:]) == texts  # the first explains the colour


def test_the_sample_is_a_draw_by_seed_spread_over_the_sources(world):  # noqa: F811
    def ids(**options):
        _, text = shown("mixture.draws=300", **options)
        return re.findall(r"<summary><b>(.*?)</b>", text)

    first = ids(sample=21)
    assert first == ids(sample=21) and set(first) != set(ids(sample=21, seed=9))
    assert len(set(first)) == len(first) == 10 + 10  # 11 of the 10 agents are wanted, and none is shown twice
    assert sum(name.startswith("agent_") for name in first) == 10
    assert ids(sample=0) == []


def test_what_was_left_out_is_counted_by_reason(world):  # noqa: F811
    overrides = hostile(world)
    _, text = shown(*overrides)
    folder = world / "runs/tiny/sft/data"
    mixture = json.loads((folder / "mixture.json").read_text())
    assert mixture["sources"]["chats"]["dropped"] == {} == mixture["sources"]["chats"].pop("not_kept")
    (folder / "mixture.json").write_text(json.dumps(mixture))
    assert "chats620200" in re.sub(r"\s+", "", shown(*overrides)[0].text), "a build from before these were counted"
    mixture["sources"]["chats"]["not_kept"] = {"model is 1": 3, "toxic is false": 2}
    mixture["sources"]["chats"]["dropped"] = {"copy of another row": 7}
    (folder / "mixture.json").write_text(json.dumps(mixture))
    dropped = [{"source": "chats", "id": f"chat_{n}", "reason": f"copy of row {n}"} for n in range(7)]
    (folder / "dropped.jsonl").write_text("".join(json.dumps(line) + "\n" for line in dropped))
    found = data_page.reasons(folder)
    assert [(one["rows"], one["how"], one["reason"]) for one in found][0] == (7, "dropped", "copy of row N")
    assert found[0]["ids"] == ["chat_0", "chat_1", "chat_2"] and sum(one["rows"] for one in found) == 9
    page, _ = shown(*overrides)
    table = re.sub(r"\s+", " ", page.text)
    assert "chats6252700" in table.replace(" ", ""), "read 62, not kept 5, malformed 2, dropped 7, overlong 0, lost 0"
    assert data_page._dropped("chats", {"dropped": {"a": 2, "b": 3}}, found) == 5


def test_overlong_losses_are_shown(world):  # noqa: F811
    write_rows(world, "agents", [agent_row(number, steps=2 + 30 * (number == 0)) for number in range(10)])
    page, _ = shown("mixture.max_overlong_loss=1.0")
    lost = json.loads((world / "runs/tiny/sft/data/mixture.json").read_text())["sources"]["agents"]
    assert lost["overlong"] == lost["overlong_dropped"] == 1 and lost["supervised_tokens_lost"] > 100
    assert f"{lost['supervised_tokens_lost']:,}" in page.text


def test_a_very_long_conversation_is_cut_and_says_so(world, monkeypatch):  # noqa: F811
    monkeypatch.setattr(data_page, "MOST_CHARACTERS", 50)
    page, _ = shown()
    assert "characters in all)" in page.text


@pytest.mark.parametrize("seed", range(6))
def test_packing_is_reckoned_as_trl_packs(seed):
    from datasets import Dataset
    from trl import pack_dataset

    rng = random.Random(seed)
    block = rng.choice([64, 100, 256])
    sizes = [rng.randint(1, block) if rng.random() < 0.8 else block for _ in range(rng.choice([1, 999, 1000, 2503]))]
    rows = Dataset.from_dict({"input_ids": [[1] * size for size in sizes]})
    packed = pack_dataset(rows.with_format("arrow"), block, "bfd")
    assert lengths.packed_blocks(numpy.array(sizes), block) == len(packed)


def test_packing_is_reckoned_until_the_blocks_are_built(world):  # noqa: F811
    from agenttuning.data.prepare import Prepared
    from agenttuning.data.rows import trainable_rows

    one = load(*PACKED, "mixture.draws=1300")
    prepared = prepare(one, load_tokenizer(one.values["model_name_or_path"]), one.run_dir / "data")
    _, _, sizes = lengths.read_lengths(prepared.load())
    reckoned = data_page.packing(one, prepared, sizes)
    assert reckoned["reckoned"] and reckoned["efficiency"] == sizes.sum() / (reckoned["blocks"] * 256)
    built = trainable_rows(prepared, one)
    assert (
        data_page.packing(one, prepared, sizes) == {**reckoned, "reckoned": False} and len(built) == reckoned["blocks"]
    )
    other = Prepared(prepared.path, "another key", prepared.mixture, True)
    assert data_page.packing(one, other, sizes)["reckoned"]
    assert data_page.packing(load(), prepared, sizes) is None
    assert data_page.packing(load(*PACKED, "packing_strategy=wrapped"), prepared, sizes) is None


def test_histograms_count_every_row_once():
    rng = numpy.random.default_rng(0)
    sizes = rng.integers(1, 3785, 5000)
    sizes[:3] = [1, 3784, 3784]
    sources = rng.integers(0, 2, 5000)
    found = lengths.histograms(["a", "b"], sources, sizes)
    assert found["top"] == 4000 and found["ticks"] == [0, 1000, 2000, 3000, 4000]
    for number, name in enumerate("ab"):
        one, own = found["sources"][name], sizes[sources == number]
        assert sum(bar["rows"] for bar in one["bars"]) == len(own) == one["rows"]
        assert one["longest"] == own.max() and one["median"] == sorted(own)[(len(own) - 1) // 2]
        for bar in one["bars"]:
            assert bar["rows"] == int(((own >= bar["from"]) & (own <= bar["to"])).sum())
    assert max(bar["height"] for one in found["sources"].values() for bar in one["bars"]) == pytest.approx(100)
    assert lengths.histograms([], sources[:0], sizes[:0]) is None


@pytest.mark.parametrize(
    ("value", "top"), [(1, 4), (5, 8), (97, 100), (128, 128), (200, 200), (4096, 4096), (4001, 4096), (3000, 3000)]
)
def test_the_axis_ends_at_a_round_number(value, top):
    assert lengths._round_up(value) == top


def test_the_verb(world, capsys):  # noqa: F811
    assert cli.main(["show-data", "recipes/tiny", "--n", "1", "--sample", "4"]) == 0
    assert "data.html" in capsys.readouterr().out
    assert (world / "runs/tiny/sft/data.html").read_text().count("<details") == 4
