"""AgentInstruct as native tool calls: every row comes back byte for byte, or is refused with a reason."""

from __future__ import annotations

import json
import re
import time
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttuning import cli
from agenttuning.chat.turns import RowError
from agenttuning.data.tools import TOOLS, back, drop_opening, forward
from agenttuning.data.tools.convert import NOT_CALLS
from agenttuning.data.tools.export import export
from agenttuning.data.tools.grammars import GRAMMARS
from agenttuning.errors import UserError
from helpers.llama_tokenizer import build_tokenizer

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "agentinstruct_sample"
SMALL_LAYOUT = re.compile(r"(\d+:([ \t\r\n]*|[yn]|[sar]+|, ?|\d+))(\|\d+:([ \t\r\n]*|[yn]|[sar]+|, ?|\d+))*")
REPLY_LAYOUT = re.compile(r"n|\d")

# A template in the manner of Hermes and Qwen, written for this test.
TEMPLATE = """
{%- for tool in tools %}<tool>{{ tool | tojson }}</tool>
{% endfor %}
{%- for message in messages %}<|{{ message.role }}|>{{ message.content }}
{%- for call in message.tool_calls or [] %}{{ "\\n" }}
{%- set arguments = call.function.arguments | tojson %}
{{- '<tool_call>{"name": "' ~ call.function.name ~ '", "arguments": ' ~ arguments ~ "}</tool_call>" }}
{%- endfor %}<|end|>{{ "\\n" }}
{%- endfor %}"""


def row(split, *turns, number=1):
    """A row from (speaker, text, flag) or, for short, from texts in turn: human null, gpt true."""
    made = []
    for place, turn in enumerate(turns):
        speaker, value, loss = turn if isinstance(turn, tuple) else (None, turn, True if place % 2 else None)
        made.append({"from": speaker or ("gpt" if place % 2 else "human"), "loss": loss, "value": value})
    return {"conversations": made, "id": f"{split}_{number}"}


def opening(split):
    return [("human", f"Rules of {split}: say Act and so on.", None), ("gpt", "Understood.", False)]


ROWS = [
    row(
        "os",
        ("human", "You are at a shell. Now, my problem is:\n\nhow many?", None),
        ("gpt", "Think: count.\n\nAct: bash\n\n```bash\nls /etc | wc -l\n```", False),
        ("human", "The output of the OS:\n220", None),
        ("gpt", "Think: done.\n\nAct: answer(220)", False),
        "Now a new problem: make a file.",
        "Think: I make it. \n\nAct: bash\n\n```bash\ncat <<'X' > /a\n  1\tü\nX\n```",
        "The output of the OS:\n\n\x1b]0;root@c: /\x07root@c:/# \x1b[K\r\n",
        "Think: there.\n\nAct: finish",
    ),
    row(
        "db",
        *opening("db"),
        "Which teams?\nThe name of the table is `team`.",
        "I look.\nAction: Operation\n```sql\nSELECT `name` FROM `team`;\n```",
        "[('Rome',), ('Malm\\xf6',)]",
        'Two.\nAction: Answer\nFinal Answer: ["Rome", "Malmö", 7.50, null]',
    ),
    row(
        "kg",
        *opening("kg"),
        "A new question: who?\nEntities: [Goethe, Faust (play), Paris, Texas]",
        "Thought: relations.\nAction: get_relations(Faust (play))",
        "get_relations(Faust (play)) cannot be executed. You may make a mistake and need to fix it.",
        "Thought: neighbours.\n\nAction: get_neighbors(Paris, Texas, film.film.directed_by)",
        "Observation: variable #0, which are instances of film.director",
        "Thought: both.\nAction: intersection(#0,#1)",
        "Observation: variable #1, which is a number",
        "Thought: it is #1.\nFinal Answer: #1",
    ),
    row(
        "webshop",
        *opening("webshop"),
        "WebShop [SEP] Instruction: [SEP] a red mug [SEP] Search",
        "Thought:\nI search.\n\nAction:\nsearch[red mug < 20.00]",
        "Back to Search [SEP] B01 [SEP] Mug [red]",
        "Thought:\nI take it.\n\nAction: \nclick[Mug [red]]",
    ),
    row(
        "alfworld",
        *opening("alfworld"),
        "Here is your task. A desk 1.\nYour task is to: look.",
        "THOUGHT: I go. \n ACTION: go to desk 1",
        "On the desk 1, you see nothing.",
        "ACTION: examine desk 1",
    ),
]


def by_split(split):
    return next(each for each in ROWS if each["id"].startswith(split))


def call(text, split):
    """(content, name, arguments, layout) of an agent's turn."""
    made = forward(row(split, "Do.", text))
    message = made["messages"][1]
    function = message["tool_calls"][0]["function"] if "tool_calls" in message else {"name": None, "arguments": None}
    assert back(made)["conversations"][1]["value"] == text
    return message["content"], function["name"], function["arguments"], made["layout"][1]


@pytest.mark.parametrize("original", ROWS, ids=lambda each: each["id"])
def test_a_row_comes_back_byte_for_byte(original):
    made = json.loads(json.dumps(forward(original)))  # as it is read from a file
    assert json.dumps(back(made)) == json.dumps(original)
    assert [m["role"] == "assistant" for m in made["messages"]] == [n % 2 == 1 for n in range(len(made["messages"]))]
    assert [m["loss"] for m in made["messages"]] == [turn["loss"] for turn in original["conversations"]]


def test_the_messages_are_those_of_native_tool_calls():
    messages = forward(by_split("os"))["messages"]
    assert [m["role"] for m in messages] == [
        "user", "assistant", "tool", "assistant", "user", "assistant", "tool", "assistant",
    ]  # fmt: skip
    function = {"name": "bash_action", "arguments": {"script": "ls /etc | wc -l"}}
    assert messages[1] == {
        "role": "assistant", "content": "count.", "loss": False,
        "tool_calls": [{"id": "call00001", "type": "function", "function": function}],
    }  # fmt: skip
    assert messages[2] == {
        "role": "tool", "name": "bash_action", "tool_call_id": "call00001", "content": "220", "loss": None,
    }  # fmt: skip
    answer, finish = (messages[place]["tool_calls"][0]["function"] for place in (3, 7))
    assert answer == {"name": "answer_action", "arguments": {"answer": "220"}}
    assert finish == {"name": "finish_action", "arguments": {}}
    assert messages[6]["content"] == "\x1b]0;root@c: /\x07root@c:/# \x1b[K\r\n"


@pytest.mark.parametrize(
    ("split", "text", "expected"),
    [
        ("os", "Think: a\n\nAct: bash\n\n```bash\nx\n```", ("a", "bash_action", {"script": "x"}, "")),
        ("os", "Act: bash\n\n```bash\nx\n```", ("", "bash_action", {"script": "x"}, "")),
        ("os", "Think: a\nAct:bash\n```bash\n\nx\n\n```\n",
         ("a", "bash_action", {"script": "\nx\n"}, "3:\n|4:|5:\n|8:\n")),
        ("os", "a\n\nAct: answer( (1) )", ("a", "answer_action", {"answer": "(1)"}, "1:n|6: |7: ")),
        ("os", "Think: Act: is a word\n\nAct: finish", ("Act: is a word", "finish_action", {}, "")),
        ("os", "Think: a\n\nAct: finish\n\nBye.", ("a\n\nBye.", "finish_action", {}, "6:6")),
        ("db", "Action: Operation\n```sql\nSELECT 1\n```", ("", "execute_sql", {"query": "SELECT 1"}, "")),
        ("db", "Action: Operation\n```sqlSELECT 1```", ("", "execute_sql", {"query": "SELECT 1"}, "6:|7:")),
        ("db", "Action: Operation\n```sql\n```", ("", "execute_sql", {"query": ""}, "7:")),
        ("db", 'a\nAction: Answer\nFinal Answer: ["a, \\"b\\"", "]"]',
         ("a", "commit_final_answer", {"answers": ['a, "b"', "]"]}, "")),
        ("db", "Action: Answer\nFinal Answer: []", ("", "commit_final_answer", {"answers": []}, "")),
        ("db", 'Action: Answer\nFinal Answer: [1,"1",NaN]',
         ("", "commit_final_answer", {"answers": ["1", "1", "NaN"]}, "7:,|8:rsr")),
        ("db", 'Action: Answer\nFinal Answer: ["x", "\\u00fc"]',
         ("", "commit_final_answer", {"answers": ["x", "ü"]}, "8:a")),
        ("db", "No action.", ("No action.", None, None, "")),
        ("kg", "Thought: a\nAction: get_neighbors(A, B, c.d)",
         ("a", "get_neighbors", {"variable": "A, B", "relation": "c.d"}, "")),
        ("kg", "Thought: a. Action: count(#0)", ("a.", "count", {"variable": "#0"}, "3: ")),
        ("kg", "Thought: b\nFinal Answer: #2", ("b\nFinal Answer: #2", None, None, "1:y")),
        ("webshop", "Thought:\na\n\nAction:\nclick[< Prev]", ("a", "click_action", {"value": "< Prev"}, "")),
        ("webshop", "Thought: a\nAction: click[b]", ("a", "click_action", {"value": "b"}, "2: |3:\n|4: ")),
        ("alfworld", "THOUGHT: a\n ACTION: go to desk 1", ("a", "take_action", {"action": "go to desk 1"}, "")),
        ("alfworld", "ACTION: open drawer 1\n", ("", "take_action", {"action": "open drawer 1"}, "7:\n")),
    ],
)  # fmt: skip
def test_what_is_read(split, text, expected):
    assert call(text, split) == expected


@pytest.mark.parametrize(
    ("split", "text", "reason"),
    [
        ("os", "Act: reboot", "grammar does not have"),
        ("os", "Act: bash\n\n```bash\nrm", "not closed"),
        ("os", "Act: answer((1)", "not closed"),
        ("os", "Act: finish\n\nAct: finish", "more than one action"),
        ("db", "Action: Answer\nFinal Answer: ['a']", "not a JSON list"),
        ("db", "Action: Answer\nFinal Answer: [[1]]", "holds a list"),
        ("db", 'Action: Answer\nFinal Answer: ["a",  "b"]', "not a JSON list"),
        ("db", 'Action: Answer\nFinal Answer: ["a", "b","c"]', "even commas"),
        ("db", 'Action: Answer\nFinal Answer: ["\\u0041"]', "uncommon"),
        ("db", 'Action: Answer\nFinal Answer: ["\\ud800"]', "surrogate"),
        ("db", "Action: Answer\nFinal Answer: " + "[" * 100_000, "not a JSON list"),
        ("db", "Action: Answer\nFinal Answer: [" + "1" * 5000 + "]", "not a JSON list"),
        ("kg", "Action: intersection(A, B, C)", "one comma"),
        ("kg", "Action: get_neighbors(#0)", "one comma"),
        ("kg", "Action: union(#0, #1)", "grammar does not have"),
        ("kg", "Action: __import__('os').system('x')", "grammar does not have"),
        ("webshop", "Action:\nclick[a", "not closed"),
        ("alfworld", "ACTION:", "empty"),
        ("alfworld", "ACTION: a\nACTION: b", "more than one action"),
    ],
)
def test_what_is_refused(split, text, reason):
    with pytest.raises(RowError, match=reason):
        forward(row(split, "Do.", text))


@pytest.mark.parametrize(
    ("split", "text", "content", "layout"),
    [
        ("os", "The output of the OS:\n\n  a\r\n", "  a\r\n", ""),
        ("os", "The output of the OS:\n\n\na", "\na", ""),
        ("os", "The output of the OS:\na", "a", "1"),
        ("os", "The output of the OS:a", "a", "3"),
        ("os", "The output of the OS:\n\n", "", ""),
        ("os", "a", "a", "n"),
        ("kg", "Observation: [a.b]", "[a.b]", ""),
        ("kg", "Observation:[a.b]", "[a.b]", "2"),
        ("db", "Observation: x", "Observation: x", ""),
    ],
)
def test_what_is_read_of_a_reply(split, text, content, layout):
    acts = {"os": "Act: bash\n\n```bash\nx\n```", "kg": "Action: count(#0)", "db": "Action: Operation\n```sql\nx\n```"}
    made = forward(row(split, "Do.", acts[split], text, "Well."))
    assert (made["messages"][2]["role"], made["messages"][2]["content"], made["layout"][2]) == ("tool", content, layout)
    assert back(made)["conversations"][2]["value"] == text


def test_flags_and_their_absence_come_back():
    for flag in (None, False, True):
        assert back(forward(row("os", "Do.", ("gpt", "Act: finish", flag))))["conversations"][1]["loss"] is flag
    bare = row("os", "Do.", "Act: finish")
    del bare["conversations"][1]["loss"]
    assert back(forward(bare)) == bare


def test_rows_that_would_lose_something_are_refused():
    for broken, reason in [
        ({**row("os", "Do.", "Act: finish"), "reward": 1}, "keys beyond"),
        ({**row("mind2web", "Do.", "Answer: A.")}, NOT_CALLS["mind2web"]),
        ({**row("poker", "Do.", "Act: finish")}, "no split"),
        ({**row("os", "Do.", "Act: finish"), "conversations": "x"}, "not a list"),
        (row("os", ("gpt", "Act: finish", True), ("human", "x", None)), "roles do not alternate"),
        ([], "no id"),
    ]:
        with pytest.raises(RowError, match=re.escape(reason)):
            forward(broken)


@pytest.mark.parametrize("original", ROWS, ids=lambda each: each["id"])
def test_every_call_fits_the_schema_of_its_tool(original):
    made = forward(original)
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in made["tools"]}
    calls = [m["tool_calls"][0]["function"] for m in made["messages"] if "tool_calls" in m]
    assert calls and made["tools"] == TOOLS[original["id"].partition("_")[0]]
    for each in calls:
        schema = schemas[each["name"]]
        assert set(each["arguments"]) == set(schema["required"]) == set(schema["properties"])
        for key, value in each["arguments"].items():
            kind = schema["properties"][key]["type"]
            assert isinstance(value, str) if kind == "string" else all(isinstance(item, str) for item in value)


WORDS = [
    "Think:", "Thought:", "THOUGHT:", "Act:", "Action:", "ACTION:", " bash", "answer(", "finish", "```bash", "```sql",
    "```", "Operation", "Answer", "Final Answer:", "[", "]", "(", ")", ",", ", ", '"', '"a"', "\\u00e9", "1.50", "NaN",
    "click[", "search[", "get_relations(", "get_neighbors(", "intersection(", "#0", "\n", "\n\n", " ", "\t", "\r\n",
    "|", "1:y", "é", "The output of the OS:", "Observation:",
]  # fmt: skip
PLACES = st.sampled_from(["message", "call", "layout", "arguments", "row"])
HOSTILE = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(WORDS), max_size=24).map("".join))
SPLITS = st.sampled_from(sorted(TOOLS))
GAPS = st.sampled_from(["", " ", "\n", "\n\n", "\r\n", " \n ", "\t"])
VALUES = HOSTILE | st.sampled_from(["a", "#0, b.c", "(a)", "[a]", '"a", 1.50]', "x\n"])
CLOSINGS = {"block": ["```", "\n```"], "bracket": [")", "]"], "list": ["]"], "line": [""], "bare": [""]}


@st.composite
def actions(draw):
    """(split, text) near the grammar: its words in order, any gaps, any thought and argument, now and then a tail."""
    split = draw(SPLITS)
    grammar = GRAMMARS[split]
    form = draw(st.sampled_from(grammar.forms))
    words = "".join(draw(GAPS) + word for word in form.words[1::2])
    head = draw(GAPS) + draw(st.sampled_from([grammar.prefix, ""])) + draw(GAPS) + draw(HOSTILE) + draw(GAPS)
    end = draw(VALUES) + draw(st.sampled_from(CLOSINGS[form.kind]))
    return split, head + grammar.marker + words + end + draw(GAPS) + draw(st.just("") | HOSTILE)


@settings(max_examples=1500, deadline=None)
@given(st.tuples(SPLITS, HOSTILE) | actions(), HOSTILE, HOSTILE, st.sampled_from([None, False, True]))
def test_any_text_comes_back_or_is_refused(turn, reply, last, flag):
    split, text = turn
    original = row(split, "Do.", ("gpt", text, flag), ("human", reply, None), ("gpt", last, True))
    try:
        made = forward(original)
    except RowError as error:
        assert str(error) and "cannot be brought back exactly" not in str(error), "refused for want of a way back"
        return
    assert json.dumps(back(json.loads(json.dumps(made)))) == json.dumps(original)
    for message, layout in zip(made["messages"], made["layout"], strict=True):
        pattern = SMALL_LAYOUT if message["role"] == "assistant" else REPLY_LAYOUT
        assert not layout or pattern.fullmatch(layout), "the layout holds words, not layout"


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["3:\n", "7:9", "9:sr", "tool"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "name"]), inner),
    max_leaves=8,
)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(ROWS), st.integers(0, 20), PLACES, JUNK)
def test_a_damaged_export_is_refused_and_nothing_else(original, place, where, junk):
    made = json.loads(json.dumps(forward(original)))
    place %= len(made["messages"])
    calls = made["messages"][place].get("tool_calls") or [{"function": {}}]
    if where == "message":
        made["messages"][place] = junk
    elif where == "call":
        made["messages"][place]["tool_calls"] = junk
    elif where == "layout":
        made["layout"][place] = junk
    elif where == "arguments":
        calls[0]["function"]["arguments"] = junk
    else:
        made = junk
    try:
        back(made)
    except UserError as error:
        assert str(error)


@pytest.mark.parametrize("split", sorted(TOOLS))
@pytest.mark.parametrize("piece", [" ", "\n", "Act:", "Action:", "ACTION: a", "(", "[", "```", '"', "Action: count("])
def test_long_hostile_text_takes_linear_time(split, piece):
    starts = {"os": "Act: answer(", "db": "Action: Answer\nFinal Answer: [", "kg": "Action: count("}
    start = time.monotonic()
    for text in ("Thought: a" + piece * 50_000, starts.get(split, "Action:\nclick[") + piece * 50_000):
        try:
            forward(row(split, "Do.", text))
        except RowError:
            continue
    assert time.monotonic() - start < 5


def test_dropping_the_opening_leaves_the_task():
    for original in ROWS:
        made = drop_opening(forward(original))
        turns = back(made)["conversations"]
        assert turns == original["conversations"][-len(turns) :] and turns[0]["from"] == "human"
        assert all(turn["loss"] for turn in turns if turn["from"] == "gpt")
        assert turns[0]["value"].startswith(("Now a new", "Which teams", "A new question", "WebShop", "Here is your"))
    with pytest.raises(RowError, match="no turn is trained"):
        drop_opening(forward(row("os", "Do.", ("gpt", "Act: finish", False))))
    late = row("alfworld", "Do.", "ACTION: look", "A desk.", ("gpt", "ACTION: look", False))
    with pytest.raises(RowError, match="untrained turn follows"):
        drop_opening(forward(late))


def rendered(tokenizer, made):
    return tokenizer.apply_chat_template(made["messages"], tools=made["tools"], tokenize=False)


def test_a_tool_template_renders_it():
    tokenizer = build_tokenizer()
    tokenizer.chat_template = TEMPLATE
    text = rendered(tokenizer, forward(by_split("kg")))
    assert '<tool>{"type": "function", "function": {"name": "get_relations", ' in text
    assert (
        "<|assistant|>neighbours.\n"
        '<tool_call>{"name": "get_neighbors", "arguments": {"variable": "Paris, Texas", "relation": '
        '"film.film.directed_by"}}</tool_call><|end|>\n'
        "<|tool|>variable #0, which are instances of film.director<|end|>\n"
    ) in text
    assert "null" not in text and "None" not in text


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "llama3_1", "glm4moe"])
def test_templates_of_todays_models_render_it(name):
    templates = resources.files(pytest.importorskip("trl")) / "chat_templates"
    if not (templates / f"{name}.jinja").is_file():
        pytest.skip(f"this trl has no template {name}")
    tokenizer = build_tokenizer()
    tokenizer.chat_template = (templates / f"{name}.jinja").read_text(encoding="utf-8")
    for original in ROWS:
        made = forward(original)
        text = rendered(tokenizer, made)
        for message in made["messages"]:
            for each in message.get("tool_calls", []):
                for value in each["function"]["arguments"].values():
                    for item in value if isinstance(value, list) else [value]:
                        assert json.dumps(item, ensure_ascii=False)[1:-1] in text or item in text


@pytest.fixture
def written(tmp_path):
    file = tmp_path / "rows.jsonl"
    more = [*ROWS, row("mind2web", "Do.", "Answer: A."), row("os", "Do.", "Act: reboot", number=2), ROWS[0]]
    file.write_text("".join(json.dumps(each) + "\n" for each in more) + "{broken\n", encoding="utf-8")
    return file


def test_datasets_reads_it_back_and_structs_would_not(written, tmp_path, monkeypatch):
    from datasets import Dataset, load_dataset

    more = row("os", "Do.", "Think: a\n\nAct: answer(1)", number=3)
    with written.open("a", encoding="utf-8") as file:
        file.write(json.dumps(more) + "\n")
    export(tmp_path / "out", written)
    read = list(load_dataset(str(tmp_path / "out"), "os", split="train", cache_dir=str(tmp_path / "cache")))
    rows = [forward(each) for each in (ROWS[0], more)]
    assert read == rows and [back(each) for each in read] == [ROWS[0], more]
    tokenizer = build_tokenizer()
    tokenizer.chat_template = TEMPLATE
    assert [rendered(tokenizer, each) for each in read] == [rendered(tokenizer, each) for each in rows]
    mixed = Dataset.from_list(rows, on_mixed_types="use_json")
    assert list(mixed) == rows
    structs = list(Dataset.from_list(rows))  # the trap: every call gets every argument of the table
    arguments = structs[0]["messages"][1]["tool_calls"][0]["function"]["arguments"]
    assert arguments == {"script": "ls /etc | wc -l", "answer": None}
    assert "null" in rendered(tokenizer, structs[0])


def test_an_export_counts_everything_and_repeats_itself(written, tmp_path, capsys):
    counts = export(tmp_path / "one", written)
    printed = capsys.readouterr().out
    assert counts.read.total() == 9 and counts.exported.total() == 5 and counts.refused.total() == 4
    refused = [json.loads(line) for line in (tmp_path / "one" / "refused.jsonl").read_text().splitlines()]
    assert [(each["split"], each["id"]) for each in refused] == [
        ("mind2web", "mind2web_1"), ("os", "os_2"), ("os", "os_1"), ("rows", None),
    ]  # fmt: skip
    assert re.search(r"^all +9 +5 +4 ", printed, re.M) and "1 x os: an action that the grammar does not have" in printed
    for split in TOOLS:
        lines = (tmp_path / "one" / "data" / f"{split}.jsonl").read_text(encoding="utf-8").split("\n")
        assert [back(json.loads(line)) for line in lines if line] == [by_split(split)]
    export(tmp_path / "two", written)
    ours, theirs = ({p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*.*")}
                    for name in ("one", "two"))  # fmt: skip
    assert ours == theirs and len(ours) == 7
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two", "rows.jsonl"}


def test_the_verb(written, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["export-tools", str(out), "--data", str(written), "--drop-opening"]) == 0
    assert "load_dataset(" in capsys.readouterr().out
    lines = (out / "data" / "os.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0])["messages"][0]["content"] == "Now a new problem: make a file."
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    assert cli.main(["export-tools", str(out), "--data", str(written)]) == 2
    assert "would have been overwritten" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps(row("poker", "Do.", "Act: finish")) + "\n")
    assert cli.main(["export-tools", str(tmp_path / "new"), "--data", str(bad)]) == 2
    assert "none of 1 rows can be exported (1 x bad: " in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(not REAL.is_dir(), reason="no agentinstruct_sample folder beside the repository")
def test_real_rows_come_back():
    exported, layout = {}, {}
    for file in sorted(REAL.glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            original, split = json.loads(line), file.stem
            if split == "mind2web":
                with pytest.raises(RowError, match="no function"):
                    forward(original)
                continue
            made = forward(original)
            assert json.dumps(back(json.loads(json.dumps(made)))) == json.dumps(original)
            task = drop_opening(made)["messages"]
            assert all(message["loss"] for message in task if message["role"] == "assistant")
            assert task[0]["role"] == "user" and len(task) < len(made["messages"])
            exported[split] = exported.get(split, 0) + 1
            layout[split] = layout.get(split, 0) + len("".join(made["layout"]))
    assert exported == {"alfworld": 5, "db": 5, "db_more": 260, "kg": 5, "os": 5, "webshop": 5}
    assert all(layout[split] / exported[split] < 12 for split in exported), layout  # bytes a row, of 2,000 to 11,000
