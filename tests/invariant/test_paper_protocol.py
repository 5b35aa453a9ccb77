"""What a model is shown under `paper-text`, turn by turn, is what AgentBench.old shows it, and is scored as there.

Each list of messages was written down from the original's code, which the test names; the prompts are in our own words
(helpers/agentbench_checkout.py), the worlds are small. Sources: THUDM/AgentTuning, AgentBench.old, and THUDM/AgentBench
at f36853f for its files that are the same. What differs on purpose is in docs/held-in.md.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from agenttuning import protocols
from agenttuning.chat.llama2 import pair_up
from agenttuning.environments import db, kg, os_interaction
from agenttuning.environments.db.episode import Result
from agenttuning.environments.kg import graphs
from agenttuning.environments.kg.ontology import Ontology
from agenttuning.environments.os_interaction.sandbox import Ran
from agenttuning.episodes import status
from agenttuning.protocols.history import count_segments
from helpers import db_items
from helpers.transcripts import whole

PAPER = protocols.load(protocols.FOLDER / "paper-text.yaml")
SAMPLED = protocols.load(protocols.FOLDER / "paper-code.yaml")


def test_both_protocols_hold_the_originals_numbers() -> None:
    """eval/single-task/*.sh and tgi_client.py (decoding), agent.py (segments), the configs and loops of the tasks."""
    for protocol, temperature in ((PAPER, 0.0), (SAMPLED, 0.7)):
        decoding = protocol.decoding
        assert (decoding.max_new_tokens, decoding.truncate_prompt_tokens) == (128, 4096 - 128)
        assert (decoding.temperature, protocol.history_segments, protocol.prompts) == (temperature, 3500, "source")
        turns = {"os": 8, "db": 15 + 1, "kg": 15, "alfworld": 35, "webshop": 10}
        assert {task: protocol.rules(task).max_turns for task in turns} == turns
        n = {"os": 144, "db": 300, "kg": 150, "alfworld": 50, "webshop": 200, "mind2web": 1173}
        assert {task: rules.n for task, rules in protocol.tasks.items()} == n
        metrics = {"db": "category_accuracy", "kg": "reward", "webshop": "reward"}
        assert {task: r.metric for task, r in protocol.tasks.items() if r.metric != "success_rate"} == metrics
        assert {t for t, r in protocol.tasks.items() if r.unfinished == "score"} == {"os", "db"}
        for task in protocol.tasks:
            limits = protocol.limits_of(task)
            assert limits.invalid_in_a_row is None and limits.action_chars > 128 * 50
            assert (limits.repetition, limits.repetition_from) == ((3, 4) if task == "alfworld" else (None, 1))
    assert SAMPLED.tasks == PAPER.tasks


def test_the_prompt_is_fschats_llama_2_without_a_system_block() -> None:
    """tgi_client.py, inference, with fschat 0.2.31: content stripped, no system message, no text after [/INST]."""
    messages = [("user", "\nDo. \n"), ("assistant", " Ok.\n"), ("user", "one\n"), ("assistant", "A"), ("user", "two")]
    pairs = pair_up([{"role": role, "content": text} for role, text in messages], None, "user")
    text = "</s><s>".join(pair.text for pair in pairs)
    assert text == "[INST] Do. [/INST] Ok. </s><s>[INST] one [/INST] A </s><s>[INST] two [/INST]"


# --- os ---------------------------------------------------------------------------------------------------------------


class Machine:
    """A machine whose terminal prints what it is told to, and whose check looks at the answer."""

    def __init__(self, printed: list[str], right: str) -> None:
        self.printed, self.right, self.typed, self.checked = list(printed), right, [], []

    def shell(self):
        return SimpleNamespace(run=self._type, gone=False, plain="", close=lambda: None)

    def _type(self, code: str) -> str:
        self.typed.append(code)
        return self.printed.pop(0)

    def run(self, command: list[str], timeout_s: float) -> Ran:
        self.checked.append(command)
        return Ran(0 if command[-1] == self.right else 1, "")

    def alive(self, wait_s: float) -> bool:
        return True

    def close(self) -> None:
        pass


OS_ITEM = {
    "description": "How many?", "image": "default", "init": [], "start": None, "match": None,
    "check": [["bash", "judge"]], "example": None,
}  # fmt: skip
OS_OPENING = ["Rules.\n\nFirst: count them", "Act: bash", "out", "Act: finish", "Next one: How many?"]


def on(machine: Machine):
    return lambda item: os_interaction.Environment(item, lambda image, host: machine)


def bash(code: str) -> str:
    return f"Think: I look.\n\nAct: bash\n\n```bash\n{code}\n```"


def test_os_is_shown_what_os_interaction_shows_and_judged_when_its_rounds_are_used_up(played) -> None:
    """task.py, _judge: eight rounds; the eighth command is run, its output seen by nobody; then the answer is None, and
    the check gets "None".
    """
    replies = [bash("ls"), bash("cat a\n\nb"), bash("cat c"), bash("true"), "Act: bash", "Act: bash\n" + bash("d"),
               "Act: answer(4)\n" + bash("e"), bash("f"), "never asked"]  # fmt: skip
    machine = Machine(["a b\r\n$ ", "x" * 800, "y" * 801, "", "$ ", "d", "e", "f"], right="None")
    shown, record = played("os", on(machine), OS_ITEM, *replies)
    conversation = [
        *OS_OPENING,
        replies[0], "The output of the OS:\n\na b\r\n$ ",
        replies[1], "The output of the OS:\n\n" + "x" * 800,
        replies[2], "The output of the OS:\n\n" + "y" * 780 + "\n[truncated because the output is too long]",
        replies[3], "The output of the OS is empty.",
        replies[4], "The output of the OS:\n\n$ ",
        replies[5], "The output of the OS:\n\nd",
        replies[6], "The output of the OS:\n\ne",
        replies[7],
    ]  # fmt: skip
    assert shown == whole(conversation, 5) and len(shown) == 8
    assert machine.typed == ["ls", "cat a\n\nb", "cat c", "true", "", "d", "e", "f"]
    assert machine.checked == [["bash", "-c", "judge", "--", "None"]]
    assert (record["status"], record["reward"]) == (status.TASK_LIMIT, 1.0)


@pytest.mark.parametrize(
    ("reply", "answer", "ended"),
    [
        ("Think: so\n\nAct: answer( 4 (of 5) )", " 4 (of 5) ", status.COMPLETED),  # outermost parentheses, not stripped
        ("Think: done\n\nAct: finish", "None", status.COMPLETED),
        ("Act: answer 4", "None", status.INVALID_FORMAT),
        ("", "None", status.INVALID_FORMAT),
        ("I'm sorry, I cannot do that.", "None", status.REFUSAL),
    ],
)
def test_os_ends_at_an_answer_or_at_what_is_none_and_is_judged_either_way(reply, answer, ended, played) -> None:
    """task.py, extract_action and _judge: what has no action returns None, and the check runs all the same."""
    machine = Machine([], right=answer)
    shown, record = played("os", on(machine), OS_ITEM, reply)
    assert shown == [OS_OPENING] and machine.checked == [["bash", "-c", "judge", "--", answer]]
    assert (record["status"], record["reward"]) == (ended, 1.0)
    matched = {**OS_ITEM, "match": {"answer": "None", "strip": True}, "check": None}
    assert played("os", on(Machine([], "")), matched, reply)[1]["reward"] == 0.0, "None is not the text"


def test_the_oldest_messages_give_way_to_a_notice_even_the_task_itself(played) -> None:
    """agent.py, filter_messages. Segments by hand: the first message 6, an output of 800 digits 806, `Act: bash` 3. Six
    and four exchanges are 3,242; the fifth output makes 4,048, so at the eighth turn 10 of 19 messages are left out.
    """
    assert [count_segments(text) for text in ("abcdefg", "abcdefgh", "a1b", "\n ", "a-\tb")] == [1, 2, 3, 0, 4]
    machine = Machine(["1" * 800] * 8, right="None")
    shown, _ = played("os", on(machine), OS_ITEM, *["Act: bash"] * 8)
    output = "The output of the OS:\n\n" + "1" * 800
    assert shown[4] == [*OS_OPENING, *["Act: bash", output] * 4], "3,254 segments are all shown"
    for turn, omitted in ((5, 4), (6, 6), (7, 8), (8, 10)):
        first = f"{OS_OPENING[0]}\n\n[NOTICE] {omitted} messages are omitted."
        assert shown[turn - 1] == ([first, *["Act: bash", output] * 4] if turn > 5 else shown[4])


def test_a_reply_that_fills_the_history_takes_the_newest_observation_along(played) -> None:
    """agent.py, filter_messages: what is left must begin with a reply, so a user's turn without one goes, too."""
    long = "!" * 2700 + "\n" + bash("ls")
    shown, _ = played("os", on(Machine(["1" * 800], "None")), OS_ITEM, long, "")
    assert shown[1] == [f"{OS_OPENING[0]}\n\n[NOTICE] 6 messages are omitted."]


# --- db ---------------------------------------------------------------------------------------------------------------


class Table:
    """A table that shows what it is told to."""

    def __init__(self, shown: list[str], state: str = "") -> None:
        self.shown, self.state, self.run = list(shown), state, []

    def execute(self, statement: str) -> Result:
        self.run.append(statement)
        return Result(self.shown.pop(0))

    def hash(self) -> str:
        return self.state

    def close(self) -> None:
        pass


DB_OPENING = ["SQL rules.", "Fine.", "Who?\nA table."]
HASH = "[('" + "0" * 32 + "',)]"


def over(table: Table):
    return lambda item: db.Environment(item, lambda _: table)


def operation(statement: str) -> str:
    return f"I look.\nAction: Operation\n```sql\n{statement}\n```"


def test_db_runs_fifteen_statements_and_takes_an_answer_from_the_sixteenth_reply(played) -> None:
    """dbbench/__init__.py, process: `while action == "Operation" and rounds < 15`, then `Final Answer` of the last."""
    texts = ["[('bob',)]", "[]", "r" * 800, "s" * 801, "1064 (42000): You have an error", *map(str, range(10))]
    statements = ["SELECT\n1", *(f"SELECT {n}" for n in range(14))]
    replies = [*map(operation, statements), 'Action: Answer\nFinal Answer: ["bob"]']
    table = Table(texts)
    shown, record = played("db", over(table), db_items.item(), *replies)
    seen = [*texts[:3], "s" * 800 + "[TRUNCATED]", *texts[4:]]
    conversation = [*DB_OPENING, *(text for pair in zip(replies, [*seen, ""], strict=True) for text in pair)][:-1]
    assert shown[:5] == whole(conversation, 3)[:5] and len(shown) == 16
    assert table.run == ["SELECT 1", *statements[1:]], "line breaks are blanks"
    assert (record["status"], record["reward"]) == (status.COMPLETED, 1.0)
    assert record["metrics"] == {"category": "SELECT", "type": "other"}


def test_db_does_not_run_a_sixteenth_statement(played) -> None:
    """process: the loop has ended; an order is judged by its table all the same."""
    table = Table(["[]"] * 15, HASH)
    item = db_items.item(kind="INSERT", type="INSERT", answer_md5=HASH)
    shown, record = played("db", over(table), item, *[operation("SELECT 1")] * 17)
    assert len(shown) == 16 and len(table.run) == 15 and record["reward"] == 1.0


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ('Action: Answer\nFinal Answer: ["bob"]', True),
        ("no action at all\nFinal Answer: ['bob']", True),
        ("Action: Operation\nFinal Answer: ['bob']", False),  # an operation without a block
        ("Action: Operation", False),  # no line break after it: no action, and no answer
        ("Final Answer: ['bob']", False),  # the pattern wants a line before it
        ("Action: Answer\nFinal Answer: bob", False),  # eval fails, and the blank stays
        ("", False),
    ],
)
def test_db_ends_at_every_reply_that_is_no_operation(reply, right, played) -> None:
    """process and metrics: the first `Action: ...\\n` decides; the answer is what follows "\\nFinal Answer:"."""
    table = Table([], HASH)
    shown, record = played("db", over(table), db_items.item(), reply)
    assert shown == [DB_OPENING] and table.run == [] and record["reward"] == float(right)
    order = db_items.item(kind="UPDATE", type="UPDATE", answer_md5=HASH)
    assert played("db", over(table), order, reply)[1]["reward"] == 1.0, "an order is judged by its table"


# --- kg ---------------------------------------------------------------------------------------------------------------

TRIPLES = [("m.01", "zoo.keeper.animals", "m.11"), ("m.01", "zoo.keeper.animals", "m.12"),
           ("m.11", "type.object.type", "zoo.animal"), ("m.12", "type.object.type", "zoo.animal")]  # fmt: skip
KG_ITEM = {"question": "which animals?", "entities": {"Ann": "m.01", "Ben": "m.02"}, "actions": [],
           "answer": [{"answer_argument": "m.11"}]}  # fmt: skip
KG_OPENING = ["Tools.", "Understood.", "Q: a", "Action: f(a)", "seen", "Final Answer: #0",
              "Another: which animals?\nEntities: [Ann, Ben]"]  # fmt: skip


def zoo(item: dict) -> kg.Environment:
    ranges = {"zoo.keeper.animals": "zoo.animal"}
    return kg.Environment(item, graphs.build(TRIPLES), Ontology(frozenset(ranges), frozenset(), ranges))


def test_kg_is_shown_what_knowledgegraph_shows(played) -> None:
    """task.py, predict_single: a reply is cut at "Observation:" and its `\\_` mended in the history; what cannot be
    read, run or found is told, and the episode goes on; the error of a call that cannot be read names the arguments of
    the last one that could; the answer is scored by F1.
    """
    fix = "cannot be executed. You may make a mistake and need to fix it."
    turns = [  # what the model says, what stands in the history, what it is told
        ("I think.", None, "No executable function found! Need to recheck the action."),
        ("", None, "No executable function found! Need to recheck the action."),
        ("Action: look around", None, "Function is not executed!"),
        ("Action: get_relations(Ann", None, "I may make a syntax error when calling get_relations (e.g., unmatched "
         "parenthesis). I need to fix it and reuse the tool"),
        ("Action: get_neighbors(Ann, zoo.keeper.animals)", None, f"get_neighbors(Ann, zoo.keeper.animals) {fix}"),
        ("Action: get_relations(Ann", None, f"get_relations(Ann, zoo.keeper.animals) {fix}"),
        ("Action: get_relations(Ann)\nObservation: [made, up]\nAction: count(#0)", "Action: get_relations(Ann)\n",
         "Observation: [zoo.keeper.animals]"),
        ("Final Answer: #0", None, "Invalid variable id! Need to recheck the action."),
        ("Action 2: get\\_neighbors(Ann, zoo.keeper.animals)", "Action 2: get_neighbors(Ann, zoo.keeper.animals)",
         "Observation: variable #0, which are instances of zoo.animal"),
        ("Action: intersection(#0, Ann)", None, "intersection(#0, Ann) cannot be executed. The two variables are not "
         "of the same type. You may further explore them by call get_relations"),
        ("Action: count(#0)\nAction: count(#0)", None, "Observation: variable #1, which is a number"),
        ("Thought: it is.\nFinal Answer: variable #0\nFind Answer: #0", None, ""),
    ]  # fmt: skip
    shown, record = played("kg", zoo, KG_ITEM, *(said for said, _, _ in turns))
    conversation = [*KG_OPENING]
    for said, kept, told in turns:
        conversation += [said if kept is None else kept, told]
    assert shown == whole(conversation[:-1], 7)
    assert record["metrics"] == {"f1": pytest.approx(2 / 3), "exact_match": 0.0, "executability": 1.0}
    assert record["reward"] == pytest.approx(2 / 3)


def test_kg_without_an_answer_in_fifteen_rounds_has_nothing(played) -> None:
    """predict_single and main_metric: the predicted set is empty, F1 is 0, and it counts."""
    shown, record = played("kg", zoo, KG_ITEM, *["Action: get_relations(Ann)"] * 16)
    assert len(shown) == 15 and (record["status"], record["reward"]) == (status.TASK_LIMIT, 0.0)
    assert record["metrics"] == {"f1": 0.0, "exact_match": 0.0, "executability": 0.0}
