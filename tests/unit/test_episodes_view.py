"""Episodes to look at: a table, a trajectory, successes, a page. Nothing a model wrote is obeyed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_report import Page

from agenttuning import cli
from agenttuning.chat.show import HIDDEN
from agenttuning.episodes import index as indexed
from agenttuning.episodes import store, view
from agenttuning.episodes.filters import Filters, worst_first
from agenttuning.episodes.look import look
from agenttuning.errors import UserError
from agenttuning.policies.expert import expert
from agenttuning.policies.random_policy import random_policy
from agenttuning.recipe.schema import REPOSITORY
from agenttuning.report import episodes_page
from agenttuning.scoring import errors, intervals
from helpers.episode_records import HOSTILE, record, said, step, stored, toy_run
from helpers.finished_run import finished_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no chromium, chromium-browser or google-chrome in PATH")
STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028\u2029\ud800-\udfff]")


class EpisodesPage(Page):
    VOID = {"meta", "input"}


@pytest.fixture
def toy(tmp_path):
    return toy_run(tmp_path / "toy", random_policy(1), i2="step", i5="reset")


def printed(capsys, *given, **options) -> str:
    look(*given, **options)
    return capsys.readouterr().out


# The index


def test_the_index_is_the_file_without_its_messages(toy) -> None:
    index, records = indexed.read(toy), store.read(toy / store.FILE)
    assert len(index.entries) == len(records) == 8
    for entry, one in zip(index.entries, records, strict=True):
        assert index.record(entry) == one
        assert (entry.item, entry.status, entry.reward) == (one["item"], one["status"], one["reward"])
        assert set(entry.kinds) == errors.kinds(one)
    assert sum(entry.lost for entry in index.entries) == 2
    assert indexed.read(toy / store.FILE).entries == index.entries


def test_a_later_record_stands_for_the_tries_before_it(tmp_path) -> None:
    tries = [record(item="a", status="agent_error", reward=None), record(item="b"), record(item="a", reward=0.5)]
    index = indexed.read(stored(tmp_path, *tries))
    assert [(entry.item, entry.line) for entry in index.entries] == [("b", 2), ("a", 3)]
    assert index.superseded == 1
    assert "1 earlier records of the same episodes are not shown" in view.counted(index, index.entries)


def test_a_record_that_is_being_written_is_left_out_and_told(toy) -> None:
    with (toy / store.FILE).open("ab") as file:
        file.write(b'{"task": "toy", "ite')
    index = indexed.read(toy)
    assert len(index.entries) == 8 and index.unfinished == 20
    assert "a record of 20 bytes is not finished" in view.counted(index, index.entries)


@pytest.mark.parametrize(
    "line",
    [b"{}", b"[]", b"\xff", b"[" * 100_000, json.dumps(record() | {"status": "fine"}).encode(),
     json.dumps(record() | {"task": ["x"]}).encode(), json.dumps(record() | {"messages": 3}).encode(),
     json.dumps(record() | {"steps": [{}]}).encode(), json.dumps(record() | {"metrics": "x"}).encode(),
     json.dumps(record() | {"last": [1]}).encode(), json.dumps(record("toy", "a", *said(None))).encode()[:-1],
     json.dumps(record() | {"messages": [{"role": "user", "content": None, "loss": False}]}).encode()],
)  # fmt: skip
def test_a_line_that_is_no_record_is_named(toy, line) -> None:
    with (toy / store.FILE).open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(UserError, match="line 9 is not an episode record"):
        indexed.read(toy)


def test_a_file_that_changed_underneath_is_seen(toy) -> None:
    index = indexed.read(toy)
    text = (toy / store.FILE).read_bytes()
    (toy / store.FILE).write_bytes(b"\n" + text)
    with pytest.raises(UserError, match="changed while it was read"):
        index.record(index.entries[3])


def test_no_episodes_names_the_folders_that_have_some(tmp_path) -> None:
    stored(tmp_path / "run/eval/tuned", record())
    with pytest.raises(UserError, match=f"there are some in {re.escape(str(tmp_path / 'run/eval'))}$"):
        indexed.read(tmp_path / "run")
    with pytest.raises(UserError, match="no episode to look at"):
        indexed.read(tmp_path / "none")


def test_thousands_of_episodes_are_held_without_their_messages(tmp_path) -> None:
    line = json.dumps(record("toy", "ITEM", *(("x" * 1000, step("x"), "y" * 1000) for _ in range(3))))
    with (tmp_path / store.FILE).open("w") as file:
        file.writelines(line.replace("ITEM", f"toy_{number}") + "\n" for number in range(2000))
    size = (tmp_path / store.FILE).stat().st_size
    tracemalloc.start()
    index = indexed.read(tmp_path)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(index.entries) == 2000 and peak < 2_500_000 < size / 4, (held, peak, size)
    assert index.record(index.entries[1999])["item"] == "toy_1999"


def test_a_folder_of_stores_is_read_as_one(tmp_path, capsys) -> None:
    for task in ("kg", "alfworld"):
        stored(tmp_path / task, *(record(task, f"{task}_{n}", *said("a")) for n in range(2)))
    index = indexed.read(tmp_path)
    assert [(entry.item, entry.path.parent.name, entry.line) for entry in index.entries] == [
        ("alfworld_0", "alfworld", 1), ("alfworld_1", "alfworld", 2), ("kg_0", "kg", 1), ("kg_1", "kg", 2)
    ]  # fmt: skip
    backwards = [one["item"] for _, one in index.records(index.entries[::-1])]
    assert backwards == ["kg_1", "kg_0", "alfworld_1", "alfworld_0"]
    table = printed(capsys, tmp_path).splitlines()
    assert table[0].split()[:3] == ["store", "line", "task"] and table[-1].startswith("4 of 4 episodes")


@pytest.mark.parametrize(
    ("store_name", "task", "name"),
    [("kg", "kg", "kg"), ("practice-kg.embedded", "kg", "practice-kg.embedded"), ("tuned", "kg", "kg.embedded"),
     ("tuned", "shop", "shop")],
)  # fmt: skip
def test_the_benchmarks_name_is_for_what_was_stored_under_it(tmp_path, store_name, task, name) -> None:
    folder = stored(tmp_path / store_name, record(task, "a"))
    assert indexed.read(folder).entries[0].reported_as == name


# The terminal


def test_the_table(toy, capsys) -> None:
    lines = printed(capsys, toy).splitlines()
    entries = indexed.read(toy).entries
    rows = {line.split()[2]: line for line in lines[2:10]}
    for entry in entries:
        shown = rows[entry.item].split()
        assert shown[:5] == [str(entry.line), "toy", entry.item, entry.status, view.reward(entry.reward)]
        assert all(kind.replace("_", " ") in rows[entry.item] for kind in entry.kinds)
    assert lines[-1].startswith("8 of 8 episodes: ") and "2 lost to infrastructure" in lines[-1]
    assert "… 5 more (--limit 0 shows all)" in printed(capsys, toy, limit=3)
    assert "more" not in printed(capsys, toy, limit=0)


def test_filters(toy, capsys) -> None:
    entries = indexed.read(toy).entries
    for name, value, passes in (
        ("status", "environment_error", lambda entry: entry.lost),
        ("item", "test_3", lambda entry: entry.item == "toy_test_3"),
        ("kind", "short_term_repetition", lambda entry: "short_term_repetition" in entry.kinds),
        ("task", "toy", lambda entry: True),
    ):
        chosen = Filters(**{name: value}).chosen(entries)
        assert chosen == [entry for entry in entries if passes(entry)] and chosen
        assert f"{len(chosen)} of 8 episodes" in printed(capsys, toy, Filters(**{name: value}))
    nearly = (("status", "complete", "completed"), ("kind", "refuse", "refusal"), ("task", "tou", "toy"))
    for name, value, near in nearly:
        with pytest.raises(UserError, match=f"--{name} {value}.*did you mean `{near}`"):
            Filters(**{name: value}).chosen(entries)


def test_an_episode_to_read(tmp_path, capsys) -> None:
    turns = [("Action: f(x)", step("f(x)", False, "function_call"), "No."), *said("g(y)", observation="Done.")]
    folder = stored(tmp_path, record("kg", "k1", *turns, metrics={"f1": 0.5}), record("kg", "k2", *said("a")))
    text = printed(capsys, folder, show="k1")
    order = ["kg k1", "reward 1.00, 2 turns", "function call error", "f1 0.5", "prompt, user", "prompt, assistant",
             "environment", "  | Start.", "model, turn 1: refused, function_call", "  | Action: f(x)", "  | No.",
             "model, turn 2", "  | Action: g(y)", "environment, after the last action", "  | Done."]  # fmt: skip
    places = [text.index(part) for part in order]
    assert places == sorted(places) and "k2" not in text and "\x1b" not in text


def test_an_item_may_have_been_played_more_than_once(tmp_path, capsys) -> None:
    folder = stored(tmp_path, *(record(item="a", sample=n) for n in range(2)), record("other", "a"))
    assert printed(capsys, folder, show="a").count("reward 1.00") == 3
    assert printed(capsys, folder, Filters(task="toy"), show="a").count("reward 1.00") == 2
    with pytest.raises(UserError, match="no episode of the item 'b'"):
        look(folder, show="b")


def test_colours_only_where_they_are_wanted(tmp_path, capsys, monkeypatch) -> None:
    folder = stored(tmp_path, record("toy", "a", (HOSTILE, step("x"), HOSTILE)))
    monkeypatch.setenv("FORCE_COLOR", "1")
    text = printed(capsys, folder, show="a")
    ours = {*view.COLOURS.values(), view.RESET}
    assert set(re.findall("\x1b\\[[0-9;]*m", text)) <= ours and view.COLOURS["assistant"] in text
    assert not STEERS.search(re.sub("|".join(map(re.escape, ours)), "", text))
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in printed(capsys, folder, show="a")


@given(st.text(st.characters(), max_size=200), st.text(st.characters(), max_size=30))
def test_no_text_steers_the_terminal_or_looks_like_a_line_of_ours(text, name) -> None:
    one = record(name, name, (text, step(text), text), model=name, error=text, metrics={name: text}, last=text)
    shown = view.trajectory(one, (), colour=False)
    assert not STEERS.search(shown) and not any(map(hidden, shown))
    heads = re.compile(r"(prompt, (user|assistant)|environment(, after the last action)?|error|model, turn 1.*)")
    for line in shown.split("\n")[1:]:
        assert not line or line.startswith("  ") or heads.fullmatch(line)
    assert "\n" not in view.one_line(text)


def hidden(character: str) -> bool:
    import unicodedata

    return character not in "\n\t" and unicodedata.category(character) in HIDDEN


def test_a_long_message_is_cut_and_counted(tmp_path, capsys) -> None:
    folder = stored(tmp_path, record("toy", "a", ("y" * 1_000_000, step("x"), "z")))
    short = printed(capsys, folder, show="a")
    assert len(short) < 4000 and "(998,500 of 1,000,000 characters cut)" in short
    assert printed(capsys, folder, show="a", full=True).count("y") >= 1_000_000
    folder = stored(tmp_path / "hostile", record("toy", "a", (HOSTILE * 100, step("x"), HOSTILE * 100)))
    short = printed(capsys, folder, show="a")
    assert "characters cut)" in short and not STEERS.search(short)


def test_questions_asked_alone_are_told(tmp_path, capsys) -> None:
    folder = stored(tmp_path, record("mind2web", "m", *said("A", "B")))
    assert "each question was asked alone" in printed(capsys, folder, show="m")


def test_successes_with_their_interval(tmp_path, capsys) -> None:
    rewards = [1.0, 1.0, 0.5, 0.0]
    ours = [record("webshop", f"w{n}", reward=reward) for n, reward in enumerate(rewards)]
    lost = record("webshop", "w9", status="agent_error", reward=None)
    folder = stored(tmp_path, *ours, lost, record("webshop", "w0", backend="full"))
    rows = printed(capsys, folder, Filters(task="webshop"), summary=True).splitlines()
    low, high = intervals.wilson(2, 4)
    [embedded] = [line for line in rows if " embedded " in line]
    assert "2 of 4 " in embedded and f"50.0 [{100 * low:.1f}, {100 * high:.1f}]" in embedded and "62.5 [" in embedded
    assert embedded.split()[-2:] == ["1", "4"]
    assert "1 of 1" in next(line for line in rows if " full " in line) and "not independent" not in rows[-3]
    assert "-" in view.summary(indexed.read(stored(tmp_path / "lost", lost)).entries).splitlines()[-1]


def test_several_episodes_an_item_are_said_to_be_dependent(tmp_path, capsys) -> None:
    folder = stored(tmp_path, *(record(sample=n) for n in range(3)))
    assert "not independent" in printed(capsys, folder, summary=True)


@pytest.mark.parametrize(
    "options",
    [{"show": "a", "summary": True}, {"full": True}, {"form": "traces"}, {"out": "x"}, {"limit": -1},
     {"summary": True, "limit": 3}, {"html": "x.html", "form": "traces", "out": "x"}],
)  # fmt: skip
def test_options_that_would_do_nothing_are_refused(toy, options) -> None:
    with pytest.raises(UserError):
        look(toy, **options)


def test_the_verb(toy, capsys) -> None:
    assert cli.main(["episodes", str(toy), "--kind", "short_term_repetition", "--limit", "1"]) == 0
    assert "short term repetition" in capsys.readouterr().out
    assert cli.main(["episodes", str(toy), "--kind", "tasklimit"]) == 2
    assert "task_limit" in capsys.readouterr().err


# The page


def page_of(folder, tmp_path, filters=None, limit=None) -> tuple[EpisodesPage, str]:
    index = indexed.read(folder)
    filters = filters or Filters()
    path = episodes_page.write(index, filters.chosen(index.entries), filters, tmp_path / "page.html", limit)
    text = path.read_text(encoding="utf-8")
    return EpisodesPage(text), text


def test_the_page_holds_the_episodes_failures_first(toy, tmp_path) -> None:
    page, text = page_of(toy, tmp_path)
    entries = worst_first(indexed.read(toy).entries)
    assert [entry.lost for entry in entries[:2]] == [True, True] and entries[-1].won
    assert re.findall(r"<span>(toy_test_\d)</span>", text) == [entry.item for entry in entries]
    assert sum(tag == "details" for tag, _ in page.tags) == 8
    assert "the world broke in step" in page.text and "after the last action" in page.text
    assert "width=device-width" in text and "prefers-color-scheme: dark" in text and str(tmp_path) not in text
    assert "not on this page" not in page.text


def test_the_page_loads_and_runs_nothing(toy, tmp_path) -> None:
    page, text = page_of(toy, tmp_path)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "img", "iframe", "object", "form")
        assert not {"src", "href", "action", "style"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
    assert "://" not in text and "url(" not in text and "@import" not in text
    policy = next(a for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"


def test_what_does_not_fit_is_told(toy, tmp_path, monkeypatch) -> None:
    page, _ = page_of(toy, tmp_path, limit=3)
    assert sum(tag == "details" for tag, _ in page.tags) == 3
    assert "5 of them are not on this page" in page.text and "failures first" in page.text
    monkeypatch.setattr(episodes_page, "MOST_PAGE", 1)
    page, _ = page_of(toy, tmp_path)
    assert "7 of them are not on this page" in page.text
    page, _ = page_of(toy, tmp_path, Filters(item="none"))
    assert "No episode passes" in page.text and "Only item none" in page.text


def hostile(folder):
    bad = record(HOSTILE, HOSTILE, (HOSTILE, step(HOSTILE, False, HOSTILE), HOSTILE), model=HOSTILE, backend=HOSTILE,
                 error=HOSTILE, metrics={HOSTILE: HOSTILE}, reward=0.0)  # fmt: skip
    long = record("toy", "long", ("y" * 1_000_000, step("y"), "end"))
    return stored(folder, bad, long, record("toy", "good", *said("add 1")))


def test_hostile_text_stays_text_on_the_page(tmp_path) -> None:
    page, text = page_of(hostile(tmp_path / "x"), tmp_path)
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert not STEERS.search(text) and "pwned" in page.text and "{{ 7*7 }}" in page.text
    assert len(text) < 60_000 and "(994,000 of 1,000,000 characters cut)" in page.text


@needs_chromium
def test_a_browser_obeys_nothing_and_filters(tmp_path) -> None:
    page_of(hostile(tmp_path / "x"), tmp_path)
    dom = browser(tmp_path / "page.html")
    assert "<title>x: episodes</title>" in dom and "pwned" in dom, "a script would have changed the title"
    assert len(re.findall(r"<details ", dom)) == 3 and not re.search(r"<(script|img)\b", dom)
    assert shown(tmp_path, "won", "not won", "toy") == [3, 2, 1, 2]


def shown(tmp_path, *choices: str) -> list[int]:
    """Episodes that a browser lays out, at first and after each choice; a script in a copy of the page counts them."""
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    script = "const shown = [], count = () => shown.push([...document.querySelectorAll('.episode')].filter("
    script += "e => e.offsetHeight).length); count();"
    for choice in choices:
        group, chosen = re.search(rf'name="(g\d+)" id="([^"]+)"><label for="[^"]+">{choice}<', text).groups()
        script += f"document.getElementById('{chosen}').checked = true; count();"
        script += f"document.getElementById('{group}').checked = true;"
    script = f"<script>{script} document.title = shown.join();</script></body>"
    (tmp_path / "counted.html").write_text(text.replace("</body>", script), encoding="utf-8")
    found = re.search(r"<title>([\d,]+)</title>", browser(tmp_path / "counted.html"))
    return [int(number) for number in found[1].split(",")]


def browser(path) -> str:
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom"]
    done = subprocess.run([*command, path.as_uri()], capture_output=True, timeout=120, check=True)
    return done.stdout.decode()


def test_the_toy_can_be_won(tmp_path, capsys) -> None:
    assert "8 won" in printed(capsys, toy_run(tmp_path / "x", expert))


def test_the_documents_examples_are_real(tmp_path, capsys) -> None:
    run = finished_run(tmp_path / "run").run_dir
    text = (REPOSITORY / "docs/looking.md").read_text(encoding="utf-8")
    capsys.readouterr()
    for command in re.findall(r"^agenttuning (.*?) *(?:#.*)?$", text, re.M):
        cli.parse(*command.split()[:1], command.split()[1:])
    commands = re.findall(r"^\$ agenttuning (.*)$", text, re.M)
    assert len(commands) == 3
    for command in commands:
        verb, folder, *words = command.split()
        assert cli.main([verb, str(run / folder), *words]) == 0
        lines = [without_place(line) for line in capsys.readouterr().out.splitlines()]
        shown = [without_place(line) for line in text.split(f"$ agenttuning {command}\n")[1].splitlines()]
        assert sorted(shown[: len(lines)]) == sorted(lines), command
    for kind, rule in errors.RULES.items():
        assert rule in text or kind in ("format", "task_limit")


def without_place(line: str) -> str:
    """The line's number in the file depends on which episode ended first."""
    return re.sub(r"^\d+ +", "", line).rstrip()
