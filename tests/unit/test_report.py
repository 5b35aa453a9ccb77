"""The report of a run: right numbers, nothing from outside, and nothing a model wrote is obeyed."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from agenttuning import recipe
from agenttuning.errors import UserError
from agenttuning.policies.expert import expert
from agenttuning.recipe.schema import REPOSITORY
from agenttuning.report import curves, figures, headlines, page, read, report, table
from agenttuning.scoring import scores
from helpers.finished_run import finished_run, judged

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)> </li></article>&amp; \x1b[31m \u202e \ud800 | [a](b:c) `"
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def run(finished, tmp_path):
    """A copy that a test may change."""
    from dataclasses import replace

    shutil.copytree(finished.run_dir, tmp_path / "run")
    return replace(finished, run_dir_override=tmp_path / "run")


class Page(HTMLParser):
    """Tags that were opened, with their attributes; raises where they are not closed in turn."""

    VOID = {"meta", "line", "rect", "polyline", "circle"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def written(run) -> tuple[Page, str, str]:
    path = report(run)
    assert path == run.run_dir / "report.html"
    text = path.read_text(encoding="utf-8")
    return Page(text), text, (run.run_dir / "RESULTS.md").read_text(encoding="utf-8")


def test_the_page_holds_every_part(run, capsys) -> None:
    parsed, text, markdown = written(run)
    for part in ("miniature", "Scores", "What went wrong", "Two episodes", "Loss", "trained on", "come from"):
        assert part in parsed.text
    for name in ("household", "database", "shop", "files", "knowledge", "arithmetic", "functions", "held-in mean"):
        assert name in parsed.text and name in markdown
    assert run.hash[:16] in parsed.text and "limits, user, syscalls" in parsed.text and "torch 2.13.0" in parsed.text
    assert "agenttuning report recipes/agentlm-tiny/sft.yaml" in parsed.text
    assert "After: solved" in parsed.text and "Before: the same item" in parsed.text
    assert "prefers-color-scheme: dark" in text and "width=device-width" in text
    assert "/tmp" not in text and str(run.run_dir) not in text + markdown
    assert table.text(run.name, read(run)) in capsys.readouterr().out


def test_nothing_is_loaded_from_outside(run) -> None:
    parsed, text, _ = written(run)
    assert {tag for tag, _ in parsed.tags} <= {
        "html", "head", "meta", "title", "style", "body", "header", "section", "article", "h1", "h2", "h3", "p", "div",
        "span", "table", "thead", "tbody", "tr", "th", "td", "svg", "rect", "line", "polyline", "ol", "li", "dl", "dt",
        "dd", "pre", "details", "summary", "a",
    }  # fmt: skip
    for _, attributes in parsed.tags:
        assert not {"src", "srcset", "xlink:href", "data", "action"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
        assert (run.run_dir / attributes.get("href", "report.html")).is_file()
    assert "://" not in text and "url(" not in text and "@import" not in text
    policy = next(a for t, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"


def test_what_a_model_wrote_is_text(run) -> None:
    for side in figures.SIDES:
        path = run.run_dir / "eval" / side / "episodes.jsonl"
        records = [json.loads(line) for line in path.read_text().splitlines()]
        for record in records:
            for message in record["messages"][2:]:
                message["content"] = HOSTILE
            record["last"] = HOSTILE
            record["item"] += HOSTILE
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    parsed, text, _ = written(run)
    assert not {"script", "img"} & {tag for tag, _ in parsed.tags}
    assert "<script>alert(1)</script>" in parsed.text and "&lt;script&gt;" in text
    assert "\x1b" not in text and "\u202e" not in text and "\\x1b[31m" in text


def test_names_from_files_are_text_too(run) -> None:
    for side in figures.SIDES:
        path = run.run_dir / "eval" / side / scores.FILE
        found = json.loads(path.read_text())
        found["model"] = found["notes"]["commit"] = HOSTILE
        found["tasks"][HOSTILE] = found["tasks"].pop("shop")
        path.write_text(json.dumps(found))
    mixture = run.run_dir / "data" / "mixture.json"
    mixture.write_text(mixture.read_text().replace("miniature-agent", "<script>"))
    parsed, text, markdown = written(run)
    assert not {"script", "img"} & {tag for tag, _ in parsed.tags}
    assert "\x1b" not in text + markdown and "<script" not in markdown and not re.search(r"(?<!\\)\[a\]", markdown)
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) in (4, 7) for row in rows)


def test_the_numbers_are_those_of_the_scores(finished) -> None:
    found = read(finished)
    rows = {row.name: row for row in figures.rows(found)}
    assert list(rows) == [
        "household", "database", "shop", "held-in mean", "files", "knowledge", "arithmetic", "functions", "general mean"
    ]  # fmt: skip
    for name in ("household", "files", "arithmetic"):
        for side in figures.SIDES:
            entry, value = found[side]["tasks"][name], getattr(rows[name], side)
            assert [value.score, [value.low, value.high], value.n] == [entry["score"], entry["interval"], entry["n"]]
    mean = rows["held-in mean"]
    assert mean.tuned.score == found["tuned"]["groups"]["held_in"]["score"]
    assert mean.difference.score == pytest.approx(mean.tuned.score - mean.base.score)
    one = rows["household"].difference
    assert one.score == pytest.approx(rows["household"].tuned.score - rows["household"].base.score)
    assert one.low < one.score <= one.high and one.n == 12


def test_errors_over_all_tasks_weigh_by_episodes(finished) -> None:
    found = json.loads(json.dumps(read(finished)))
    for name, entry in found["tuned"]["tasks"].items():
        if "errors" in entry:
            entry["errors"]["format"] = 1.0 if name == "shop" else 0.0
    found["tuned"]["tasks"]["shop"]["n"] = 36
    assert figures.error_kinds(found)["format"]["tuned"] == pytest.approx(36 / 72)
    assert figures.error_kinds(found, "shop")["format"] == {"base": 0.0, "tuned": 1.0}


@pytest.mark.parametrize("missing", ["train.json", "data", "eval/base", "eval/tuned", "eval/tuned/episodes.jsonl"])
def test_what_is_missing_is_left_out(run, missing) -> None:
    path = run.run_dir / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    parsed, _, markdown = written(run)
    assert ("Loss" in parsed.text) == (missing != "train.json")
    assert ("What it was trained on" in parsed.text) == (missing != "data")
    assert ("not measured" in parsed.text) == ("not measured" in markdown) == (missing in ("eval/base", "eval/tuned"))


@pytest.mark.parametrize("content", ["{", "[]", '{"log": 3}', '{"log": [{"step": 1, "loss": 2.0}]}', '{"log": [null]}'])
def test_a_damaged_training_record_is_no_obstacle(run, content) -> None:
    (run.run_dir / "train.json").write_text(content)
    assert "Mean over supervised tokens" not in written(run)[0].text


def test_nothing_judged_is_said(run) -> None:
    shutil.rmtree(run.run_dir / "eval")
    with pytest.raises(UserError, match="nothing to report.*agenttuning eval"):
        report(run)


def test_sides_of_different_suites_are_not_compared(run) -> None:
    path = run.run_dir / "eval/base" / scores.FILE
    path.write_text(path.read_text().replace("miniature@1", "miniature@2"))
    with pytest.raises(UserError, match="different rules"):
        report(run)


def test_scores_of_another_recipe_record_are_marked(run) -> None:
    assert "another recipe record" not in written(run)[0].text
    for name in ("eval/tuned/scores.json", "train.json"):
        path = run.run_dir / name
        path.write_text(path.read_text().replace(run.hash, "f" * 64))
    assert written(run)[0].text.count("another recipe record, ffff") == 2


def test_a_void_task_shows_why(run) -> None:
    path = run.run_dir / "eval/tuned" / scores.FILE
    found = json.loads(path.read_text())
    found["tasks"]["shop"] |= {"void": "3 of 12 episodes lost", "score": None, "interval": None}
    found["tasks"]["shop"].pop("errors")
    found["groups"]["held_in"] |= {"score": None, "interval": None}
    path.write_text(json.dumps(found))
    parsed, _, markdown = written(run)
    assert "void: 3 of 12 episodes lost" in parsed.text and "void: 3 of 12 episodes lost" in markdown


def test_a_change_within_its_interval_is_called_none(finished) -> None:
    sentences = page.headline(figures.rows(read(finished)))
    assert len(sentences) == 3
    assert "the score rose" in sentences[0] and "did not change measurably" in sentences[2]
    value = figures.Value
    fell = figures.Row("files", "held_out", "reward", value(9, 8, 10), value(2, 1, 3), value(-7, -9, -5))
    assert page.headline([fell]) == [
        "On a kind of task it was never tuned on, the score fell: 9.0 before, 2.0 after."
    ]  # fmt: skip


def test_the_curve_stays_in_its_frame() -> None:
    log = [{"step": step, "loss": loss} for step, loss in ((1, 4.0), (5, 0.5), (9, 0.1))]
    drawn = curves.curve(log)
    points = [tuple(map(float, point.split(","))) for point in drawn["points"].split()]
    assert points[0][0] == 0 and points[-1][0] == curves.WIDTH
    assert all(0 <= y <= curves.HEIGHT for _, y in points) and points[0][1] < points[1][1] < points[2][1]
    assert drawn["ticks"][0] == {"at": 100.0, "label": "0"} and len(drawn["ticks"]) <= 8
    assert 0 <= drawn["ticks"][-1]["at"] < 100
    assert drawn["sources"] == [] and curves.curve([]) is curves.curve(None) is None
    assert curves.curve([{"step": 1, "loss": 0.0}, {"step": 2, "loss": 0.0}])["ticks"]


def test_each_source_has_its_own_curve_and_all_share_a_frame() -> None:
    by_source = ({"agent": 5.0, "chat": 1.0}, {"agent": None, "chat": 0.9}, {"agent": 0.2, "chat": 0.8})
    log = [{"step": n, "loss": 2.0, "loss_by_source": losses} for n, losses in enumerate(by_source)]
    agent, chat = curves.curve(log)["sources"]
    assert (agent["name"], agent["last"], chat["name"], chat["last"]) == ("agent", 0.2, "chat", 0.8)
    assert len(agent["points"].split()) == 2 and len(chat["points"].split()) == 3  # None is no point, and not zero
    heights = [float(point.split(",")[1]) for point in agent["points"].split()]
    assert 0 <= heights[0] < heights[1] <= curves.HEIGHT  # the highest of all lines is in the frame
    log = [{"step": n, "loss": 2.0, "loss_by_source": {"agent": 2.0}} for n in range(3)]
    assert curves.curve(log)["sources"] == []  # the total once more


def test_the_episodes_chosen(run) -> None:
    first, second = page.trajectories(run.run_dir / "eval")
    assert first["reward"] == 1.0 and second["reward"] < 1.0
    assert (first["task"], first["item"]) == (second["task"], second["item"])
    shutil.rmtree(run.run_dir / "eval/base")
    first, second = page.trajectories(run.run_dir / "eval")
    assert (first["title"], second["title"]) == ("After: solved", "After: not solved")
    shutil.rmtree(run.run_dir / "eval/tuned")
    assert page.trajectories(run.run_dir / "eval") == []
    judged(run.run_dir, "base", expert, 2, {}, run)
    assert [one["title"] for one in page.trajectories(run.run_dir / "eval")] == ["Before"]


def test_a_long_message_is_cut_and_says_so() -> None:
    short = page._short("x" * 5000)
    assert len(short) < 1600 and "5,000 characters" in short


def test_the_templates_are_package_data() -> None:
    there = {path.name for path in (Path(page.__file__).parent / "templates").iterdir()}
    assert {"page.html.jinja", "paper.html.jinja", "items.html.jinja", "results.md.jinja", "paper.md.jinja"} <= there
    assert all(name.endswith(".jinja") for name in there)  # what pyproject.toml packs


def test_a_run_with_other_scores_alone_has_a_page_of_them(tmp_path) -> None:
    one = recipe.load(REPOSITORY / "recipes/modern/smollm3-3b/sft.yaml", (), tmp_path / "run")
    with pytest.raises(UserError, match="nothing to report"):
        report(one)
    entry = {"metric": "acc", "n": 40, "void": None, "score": 62.5, "interval": [47.0, 75.8]}
    entry["not_comparable"] = "<b>part"
    lost = {"metric": "acc", "n": 0, "void": "all lost", "score": None, "interval": None}
    found = {"schema": 1, "model": "m@1", "protocol": "paper@1", "tasks": {"tiny-mmlu": entry, "gsm8k": lost}}
    scores.write(found, one.run_dir / "eval/tuned/general/paper/vllm")
    parsed, text, markdown = written(one)
    for shown in (parsed.text, markdown):
        assert "agenttuning eval-general recipes/modern" in shown and "agenttuning eval recipes" not in shown
        assert "62.5 (47.0 to 75.8)" in shown and "void: all lost" in shown and "a miniature" not in shown.lower()
    assert "&lt;b>part" in markdown and "&lt;b&gt;part" in text and "What went wrong" not in parsed.text


def test_a_difference_that_rounds_to_nothing_has_no_minus() -> None:
    assert (headlines.number("os", -0.04, "+"), headlines.number("mt_bench", -0.006, "+")) == ("+0.0", "\u22120.01")
