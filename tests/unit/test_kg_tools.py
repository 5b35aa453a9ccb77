"""The seven tools over a small graph: observations, error texts, what unlocks what, and what hostile text can do."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttuning.environments.kg import graphs, tools
from agenttuning.environments.kg.ontology import Ontology
from agenttuning.environments.kg.play import BAD_VARIABLE, Environment

AGE = "zoo.animal.age"
TRIPLES = [
    ("m.01", "zoo.keeper.animals", "m.11"),
    ("m.01", "zoo.keeper.animals", "m.12"),
    ("m.01", "zoo.keeper.house", "m.21"),
    ("m.02", "zoo.keeper.animals", "m.12"),
    ("m.02", "zoo.keeper.animals", "m.13"),
    ("m.11", "zoo.animal.keeper", "m.01"),
    ("m.12", "zoo.animal.keeper", "m.01"),
    ("m.12", "zoo.animal.keeper", "m.02"),
    ("m.13", "zoo.animal.keeper", "m.02"),
    ("m.12", "zoo.animal.name", '"Bo'),
    *((f"m.1{n}", AGE, f"{age}^^http://www.w3.org/2001/XMLSchema#integer") for n, age in ((1, 7), (2, 9), (3, 10))),
    *((f"m.1{n}", "type.object.type", "zoo.animal") for n in (1, 2, 3)),
]
RANGES = {
    "zoo.keeper.animals": "zoo.animal",
    "zoo.keeper.house": "zoo.house",
    "zoo.animal.keeper": "zoo.keeper",
    "zoo.animal.name": "type.text",
}
ONTOLOGY = Ontology(frozenset(RANGES), frozenset([AGE]), RANGES)
ITEM = {
    "question": "which animal do both keep?",
    "entities": {"Ann": "m.01", "Ben Young": "m.02"},
    "answer": [{"answer_argument": "m.12"}],
    "actions": [],
}


@pytest.fixture
def env():
    return opened()


def opened(item=ITEM, graph=None):
    env = Environment(item, graph or graphs.build(TRIPLES), ONTOLOGY)
    assert env.reset() == "which animal do both keep?\nEntities: [Ann, Ben Young]"
    return env


def told(env, *actions):
    return [env.step(action).observation for action in actions]


def test_the_tools_answer_as_the_original_does(env):
    assert told(
        env,
        "get_relations(Ann)",
        "get_neighbors(Ann, zoo.keeper.animals)",
        "get_relations(Ben Young)",
        "get_neighbors(Ben Young ,zoo.keeper.animals)",
        "intersection(#0, variable #1)",
        "get_attributes(#1)",
        "argmax(#1, zoo.animal.age)",
        "argmin(Variable #1, zoo.animal.age)",
        "count(#1)",
        "union(#0, #1)",
    ) == [
        "Observation: [zoo.keeper.animals, zoo.keeper.house]",
        "Observation: variable #0, which are instances of zoo.animal",
        "Observation: [zoo.keeper.animals]",
        "Observation: variable #1, which are instances of zoo.animal",
        "Observation: variable #2, which are instances of zoo.animal",
        "Observation: [zoo.animal.age]",
        "Observation: variable #3, which are instances of zoo.animal",
        "Observation: variable #4, which are instances of zoo.animal",
        "Observation: variable #5, which is a number",
        "Observation: variable #6, which are instances of zoo.animal",
    ]
    found = [sorted(env.tools.members(variable)) for variable in env.tools.variables]
    assert found == [["m.11", "m.12"], ["m.12", "m.13"], ["m.12"], ["m.13"], ["m.12"], ["2"], ["m.11", "m.12", "m.13"]]
    assert env.step("Final Answer: #2").done and env.score() == 1.0


def test_an_entity_of_the_question_is_never_an_answer(env):
    told(env, "get_relations(Ann)", "get_neighbors(Ann, zoo.keeper.animals)", "get_relations(#0)")
    told(env, "get_neighbors(#0, zoo.animal.keeper)")
    assert env.tools.members(env.tools.variables[1]) == ["m.02"]


FIX = "cannot be executed. You may make a mistake and need to fix it."
TYPES = (
    "cannot be executed. The two variables are not of the same type. You may further explore them by call get_relations"
)


@pytest.mark.parametrize(
    ("action", "observation"),
    [
        ("get_relations(zoo.keeper)", f"get_relations(zoo.keeper) {FIX}"),
        ("get_relations( Ann)", f"get_relations( Ann) {FIX}"),  # only around commas is white space taken off
        ("get_relations(Ann,Ann)", f"get_relations(Ann, Ann) {FIX}"),
        ("get_neighbors(Ann, zoo.keeper.house)", f"get_neighbors(Ann, zoo.keeper.house) {FIX}"),  # not shown yet
        ("get_neighbors(#0, zoo.animal.keeper)", f"get_neighbors(#0, zoo.animal.keeper) {FIX}"),
        ("get_relations(#x)", f"get_relations(#x) {FIX}"),
        ("get_relations(#99999999999999999999)", f"get_relations(#99999999999999999999) {FIX}"),
        ("get_attributes(Ann)", f"get_attributes(Ann) {FIX}"),
        ("count(Ann)", f"count(Ann) {FIX}"),
        ("intersection(Ann, Ben Young)", f"intersection(Ann, Ben Young) {TYPES}"),
    ],
)
def test_a_call_that_fails_says_what_the_original_says(env, action, observation):
    step = env.step(action)
    assert (step.observation, step.valid, step.error, step.done) == (observation, False, "function_call", False)


def test_types_must_agree_and_a_number_has_no_relations(env):
    told(env, "get_relations(Ann)", "get_neighbors(Ann, zoo.keeper.animals)", "get_neighbors(Ann, zoo.keeper.house)")
    assert told(env, "intersection(#0, #1)") == [f"intersection(#0, #1) {TYPES}"]
    assert told(env, "argmax(#0, zoo.animal.age)") == [f"argmax(#0, zoo.animal.age) {FIX}"]  # get_attributes first
    assert told(env, "count(#0)", "get_relations(#2)", "get_attributes(#2)")[1:] == [
        f"get_relations(#2) {FIX}",
        f"get_attributes(#2) {FIX}",
    ]


def test_a_call_that_cannot_be_read(env):
    # Before any call was read the original says one thing, afterwards another, with the arguments of that call.
    assert told(env, "get_relations(Ann", "look(Ann)", "count()") == [
        tools.syntax_error("get_relations"),
        tools.syntax_error("look"),
        tools.syntax_error("count"),
    ]
    assert told(env, "get_relations(Ann)", "look(Ben Young)")[1] == f"look(Ann) {FIX}"
    step = env.step("none of the tools")
    assert (step.observation, step.valid, step.error) == ("Function is not executed!", False, None)


def test_of_a_line_the_first_call_that_works_is_the_only_one(env):
    step = env.step("count(#7), get_relations(Ann) and get_relations(Ben Young)")
    assert step.observation == "Observation: [zoo.keeper.animals, zoo.keeper.house]" and step.valid
    assert list(env.tools.relations) == ["m.01"]


def test_the_word_variable_before_an_argument_is_dropped(env):
    assert env.step("get_relations(variable Ann)").valid and list(env.tools.relations) == ["m.01"]


def test_a_repeated_call_is_played_and_noted(env):
    first, second, third = (env.step(f"get_relations({text})") for text in ("Ann", "m.01", "Ben Young"))
    assert (first.error, second.error, third.error) == (None, "function_repetition", None)
    assert second.valid and second.observation == first.observation


def test_a_bad_variable_is_told_and_the_episode_goes_on(env):
    for number in ("0", "7", "9" * 4000):
        step = env.step(f"Final Answer: #{number}")
        assert (step.observation, step.valid, step.done) == (BAD_VARIABLE, False, False)
    assert env.metrics() == {"f1": 0.0, "exact_match": 0.0, "executability": 0.0}


def test_scores(env):
    told(env, "get_relations(Ann)", "get_neighbors(Ann, zoo.keeper.animals)", "Final Answer: #0")
    assert env.metrics() == {"f1": pytest.approx(2 / 3), "exact_match": 0.0, "executability": 1.0}
    assert env.score() == env.metrics()["f1"]


def test_what_was_shown_in_one_episode_unlocks_nothing_in_another():
    graph = graphs.build(TRIPLES)
    one, other = opened(graph=graph), opened(graph=graph)
    one.step("get_relations(Ann)")
    assert not other.step("get_neighbors(Ann, zoo.keeper.animals)").valid
    one.reset()
    assert not one.step("get_neighbors(Ann, zoo.keeper.animals)").valid and one.tools.variables == []


def test_without_an_ontology_all_relations_are_listed():
    env = Environment(ITEM, graphs.build(TRIPLES), Ontology(None, None, RANGES))
    env.reset()
    assert told(env, "get_relations(m.12)") == [
        "Observation: [type.object.type, zoo.animal.age, zoo.animal.keeper, zoo.animal.name]"
    ]


def test_a_final_answer_without_a_query_predicts_nothing(env):
    told(env, "get_relations(Ann)", "get_neighbors(Ann, zoo.keeper.animals)", "get_attributes(#0)")
    told(env, "argmax(#0, zoo.animal.age)", "count(#1)", "union(#0, #1)")
    assert told(env, "get_relations(#3)") == [f"get_relations(#3) {FIX}"]
    assert env.step("Final Answer: #2").done and env.metrics()["executability"] == 0.0


def test_literals_can_be_an_answer(env):
    told(env, "get_relations(m.12)", "get_neighbors(m.12, zoo.animal.name)", "Final Answer: #0")
    assert env.predicted == {"Bo"}


HOSTILE = [
    "m.01> ?p ?o } #",
    "m.01 . DROP ALL",
    'm.01"',
    "m.01\\",
    "<m.01>",
    "?x",
    "m.01/../m.02",
    "ns:m.01",
    "m.é",
    "m.",
]


class Spy:
    """A graph that keeps what it was asked."""

    dialect = "standard"

    def __init__(self):
        self.graph, self.asked = graphs.build(TRIPLES), []

    def values(self, query):
        self.asked.append(query)
        return self.graph.values(query)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_the_model_reaches_a_query(text):
    env = opened(graph=Spy())
    told(env, "get_relations(Ann)")
    before = list(env.graph.asked)
    for action in (f"get_relations({text})", f"get_neighbors(Ann, {text})", f"get_neighbors({text}, {text})"):
        assert not env.step(action).valid
    assert env.graph.asked == before


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.text(max_size=30) | st.sampled_from([*HOSTILE, *tools.ARITY, "(", ")", ",", "#0", "Ann"]), max_size=9)
)
def test_any_action_gets_an_answer(parts):
    env = opened()
    for action in ("".join(parts), f"get_relations({''.join(parts)})", f"get_neighbors(Ann, {''.join(parts)})"):
        assert isinstance(env.step(action).observation, str)


def test_a_variable_cannot_grow_without_end(env):
    told(env, "get_relations(Ann)", "get_neighbors(Ann, zoo.keeper.animals)")
    start = time.perf_counter()
    steps = [env.step(f"intersection(#{number}, #{number})") for number in range(40)]
    assert [step.valid for step in steps[:6]] == [True] * 6 and not any(step.valid for step in steps[7:])
    assert env.step("get_relations(#6)").valid and time.perf_counter() - start < 5


class Refusing(Spy):
    def values(self, query):
        self.asked.append(query)
        raise graphs.Refused("too costly")


def test_a_line_full_of_calls_asks_once():
    env = opened(graph=Refusing())
    start = time.perf_counter()
    assert env.step("get_relations(Ann) " * 1000).observation == f"get_relations(Ann) {FIX}"
    assert len(env.graph.asked) == 1
    for line in ("count(" * 3300 + ")", "a(" * 9000 + "b)", "count(#0" + "," * 19000 + ")", "#" * 19000 + "count(#1)"):
        assert not env.step(line).valid
    assert time.perf_counter() - start < 5


def test_walking_to_and_fro_costs_no_more_than_the_edges():
    # 60 x 60 edges there and back: the flat query has 60^14 paths
    ends = [("m.a", "zoo.keeper.animals", f"m.b{n}") for n in range(60)]
    hub = [(f"m.c{k}", "zoo.keeper.animals", f"m.b{n}") for k in range(60) for n in range(60)]
    back = [(end, "zoo.animal.keeper", start) for start, _, end in [*ends, *hub]]
    env = opened({**ITEM, "entities": {"Ann": "m.a", "Ben Young": "m.02"}}, graphs.build([*ends, *hub, *back]))
    start = time.perf_counter()
    told(env, "get_relations(Ann)", "get_neighbors(Ann, zoo.keeper.animals)")
    for place in range(13):
        relation = "zoo.animal.keeper" if place % 2 == 0 else "zoo.keeper.animals"
        assert env.step(f"get_relations(#{place})").valid
        assert env.step(f"get_neighbors(#{place}, {relation})").valid
    assert env.step("Final Answer: #13").done and len(env.predicted) == 60
    assert time.perf_counter() - start < 20
