"""Practice worlds, the small graphs made for the benchmark's items, and whole episodes through the runner."""

import json
from pathlib import Path

import pytest

from agenttuning import protocols
from agenttuning.environments import held_in, kg
from agenttuning.environments.kg import gold, graphs, pattern, programs, sparql, witness, world
from agenttuning.episodes.runner import play
from agenttuning.errors import UserError
from agenttuning.policies.expert import expert
from agenttuning.policies.random_policy import random_policy
from agenttuning.policies.teacher import teacher
from agenttuning.protocols.messages import own

DEV = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "agentbench" / "knowledgegraph" / "dev.json"
PRACTICE = protocols.load(protocols.FOLDER / "practice.yaml")
# get_relations(common.topic): a type is no entity to the original's tools either
NOT_PLAYABLE = {"WebQTrn-1215_20ae9a3ac5a1d4d40671f15de04edb15_cwq"}


def played(items, policy, **where):
    from agenttuning.protocols import kg as texts

    with kg.serve("embedded", **where) as room:
        return play(room, items, policy, PRACTICE, own(texts), model="test", seed=0, progress=False)


def test_the_expert_wins_every_practice_item_and_chance_few():
    items = kg.items("test", 60, 0) + kg.items("train", 60, 0)
    records = played(items, expert)
    assert {record["status"] for record in records} == {"completed"}
    assert all(record["metrics"] == {"f1": 1.0, "exact_match": 1.0, "executability": 1.0} for record in records)
    assert not any(step["error"] or not step["valid"] for record in records for step in record["steps"])
    assert records[0]["messages"][2]["content"].startswith(f"Question: {items[0]['question']}\nEntities: [")
    chance = [record["reward"] for record in played(items, random_policy(0))]
    assert sum(chance) / len(chance) < 0.25


def test_a_teacher_that_slips_finds_back():
    records = played(kg.items("train", 40, 3), teacher(0.15, 0.0, 0))
    slipped = [record for record in records if any("not sure" in m["content"] for m in record["messages"])]
    assert len(slipped) > 20 and sum(record["reward"] == 1.0 for record in slipped) >= len(slipped) / 2


def test_practice_items_repeat_and_splits_share_no_name():
    assert kg.items("test", 30, 5) == kg.items("test", 30, 5) != kg.items("test", 30, 6)
    names = {
        split: {label for item in kg.items(split, 300, 1) for label in item["entities"]} for split in ("train", "test")
    }
    assert names["train"] and names["test"] and not names["train"] & names["test"]
    questions = [json.dumps(item, sort_keys=True) for item in kg.items("train", 200, 0)]
    assert len(set(questions)) == 200
    assert {item["kind"] for item in kg.items("train", 200, 0)} == set(world.KINDS)


def test_sparql_gives_the_answers_that_walking_the_triples_gives():
    graph = {}
    for item in kg.items("test", 150, 2):
        if item["world"] not in graph:
            graph[item["world"]] = world.build(item["world"]).graph()[0]
        found = graph[item["world"]].values(sparql.members(programs.parse(item["s_expression"])))
        assert sorted(found) == sorted(answer["answer_argument"] for answer in item["answer"]), item["question"]
        assert programs.write(gold.program(item["actions"])) == item["s_expression"]


def row(s_expression, actions, answers, entities, **more):
    answer = [{"answer_argument": text} for text in answers]
    fields = {"question": "?", "s_expression": s_expression, "actions": actions, "answer": answer, "entities": entities}
    return {"id": "kg-x_0", **fields, **more}


TWO_NAMES = row(
    "(AND club.member (AND (JOIN club.member.clubs (JOIN (R town.town.clubs) m.01)) (JOIN club.member.sport m.02)))",
    [
        "get_relations(m.02)",
        "get_neighbors(m.02,club.sport.members)",
        "get_relations(m.01)",
        "get_neighbors(m.01,town.town.clubs)",
        "get_relations(#1)",
        "get_neighbors(#1,club.club.members)",
        "intersection(#0,#2)",  # the other way round than the s-expression
    ],
    ["m.0a", "m.0b"],
    {"Northam": "m.01", "chess": "m.02"},
)
FORMS = {
    "intersection": TWO_NAMES,
    "count": row(
        "(COUNT (AND club.member (JOIN club.member.sport m.02)))",
        ["get_relations(m.02)", "get_neighbors(m.02,club.sport.members)", "count(#0)"],
        ["17"],
        {"chess": "m.02"},
    ),
    "largest": row(
        "(ARGMAX (JOIN (R town.town.clubs) m.01) club.club.size)",
        [
            "get_relations(m.01)",
            "get_neighbors(m.01,town.town.clubs)",
            "get_attributes(#0)",
            "argmax(#0,club.club.size)",
        ],
        ["m.0a"],
        {"Northam": "m.01"},
    ),
    "earliest, by a path": row(
        "(ARGMIN (AND club.club (JOIN (R town.town.clubs) m.01)) (JOIN club.club.opening event.event.date))",
        [],
        ["m.0a", "m.0b"],
        {"Northam": "m.01"},
    ),
    "comparison": row(
        "(AND club.club (ge club.club.size 12^^http://www.w3.org/2001/XMLSchema#integer))", [], ["m.0a"], {}
    ),
    "less than a date": row(
        "(AND club.club (lt club.club.founded 1950-01-01^^http://www.w3.org/2001/XMLSchema#date))", [], ["m.0a"], {}
    ),
    "at a time": row(
        "(JOIN (R club.tenure.holder) (TC (JOIN (R club.club.presidents) m.01) club.tenure.from 1994))",
        [],
        ["m.0a"],
        {},
    ),
    "value": row(
        "(JOIN (R club.club.motto) m.01)",
        ["get_relations(m.01)", "get_neighbors(m.01,club.club.motto)"],
        ["Never late"],
        {"Northam": "m.01"},
    ),
    "a call that cannot be executed": row(
        "(JOIN (R town.town.clubs) m.01)",
        ["get_relations(common.topic)", "get_relations(m.01)", "get_neighbors(m.01,town.town.clubs)"],
        ["m.0a"],
        {"Northam": "m.01"},
    ),
    "calls that are none": row("(AND club.club (JOIN club.club.members m.02))", ["get_relations(m.01"], ["m.0a"], {}),
    "calls of another shape": row(
        "(AND club.club (JOIN club.club.members m.02))",
        ["get_relations(m.01)", "get_neighbors(m.01,town.town.clubs)"],
        ["m.0a"],
        {"Northam": "m.01"},
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_gold_answers_are_true_in_an_items_graph(name):
    item = FORMS[name]
    graph, _ = witness.build(item)
    found = graph.values(sparql.members(programs.parse(item["s_expression"])))
    assert sorted(found) == sorted(answer["answer_argument"] for answer in item["answer"])
    if item["actions"] and name != "calls that are none":
        (record,) = played([item], expert)
        assert record["status"] == "completed" and record["reward"] == 1.0, record["messages"]


def test_an_edge_has_the_name_of_the_calls_too():
    whole = pattern.read(programs.parse(TWO_NAMES["s_expression"]))
    assert pattern.overlay(whole, gold.program(TWO_NAMES["actions"]))
    assert [node.edges for node in whole.every() if node.kind == "join"] == [
        [("club.member.clubs", False), ("club.club.members", True)],
        [("town.town.clubs", True)],
        [("club.member.sport", False), ("club.sport.members", True)],
    ]
    assert not pattern.overlay(whole, programs.parse("(COUNT (JOIN (R town.town.clubs) m.01))"))


def test_what_must_have_one_type_has_one():
    texts = (
        "(JOIN (R a.b.next) (AND t.said (JOIN (R a.b.next) m.1)))",
        "(AND (JOIN (R a.b.one) m.1) (JOIN (R c.d.other) m.2))",
        "(AND (JOIN (R a.b.one) m.1) (JOIN e.f.back m.2))",
    )
    ranges = [pattern.ranges([pattern.read(programs.parse(text))]) for text in texts]
    assert ranges[0] == {"a.b.next": "t.said"} and ranges[1]["a.b.one"] == ranges[1]["c.d.other"]
    assert ranges[2] == {"a.b.one": "e.f", "e.f.back": pattern.ANY}


def test_an_items_graph_has_wrong_turns():
    (record,) = played([TWO_NAMES], lambda turns: [_early(turn) for turn in turns])
    assert 0.0 < record["reward"] < 1.0
    with kg.serve("embedded") as room:
        env = room.make(TWO_NAMES)
        env.reset()
        assert env.step("get_relations(chess)").observation.count(",") >= 3
    one, other = (sorted(map(str, witness.build(TWO_NAMES)[0].store)) for _ in range(2))
    assert one == other and len(one) > 40


def _early(turn):
    # chess, its members, and that for an answer, without the second condition
    calls = ["get_relations(chess)", "get_neighbors(chess, club.sport.members)", "Final Answer: #0"]
    return turn.write("x.", calls[turn.number])


def test_a_graph_that_does_not_give_the_gold_answers_is_not_played():
    wrong = row("(JOIN (R club.club.members) m.01)", [], ["m.01"], {"Northam": "m.01"})  # the entity asked from
    with pytest.raises(ValueError, match="kg-x_0"):
        witness.build(wrong)
    (record,) = played([wrong], expert)
    assert record["status"] == "environment_error" and record["reward"] is None


def test_labels_that_cannot_be_written_in_a_call_go_by_their_id():
    kept, not_kept = ("Ann", "A (b", "“So”"), ("A, B", "Mass (1742)", "A(b", "#1", "a variable x", " x", "x\\_y")
    assert [gold.spoken(label, "m.01") for label in kept] == list(kept)
    assert [gold.spoken(label, "m.01") for label in not_kept] == ["m.01"] * len(not_kept)


def test_a_file_of_items(tmp_path):
    path = tmp_path / "dev.json"
    path.write_text(json.dumps([{**TWO_NAMES, "id": "other", "qid": "7"}]))
    (item,) = kg.load(path)
    assert item["id"] == "kg-dev_0" and item["qid"] == "7" and held_in("kg") is kg
    for text in (
        "[]",
        "{}",
        "nonsense",
        '["x"]',
        '[{"question": "x"}]',
        json.dumps([{**TWO_NAMES, "answer": ["m.01"]}]),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match="dev.json"):
            kg.load(path)
    with pytest.raises(UserError, match="none.json"):
        kg.load(tmp_path / "none.json")


@pytest.mark.skipif(not DEV.is_file(), reason="needs shared/data/agentbench/knowledgegraph/dev.json")
def test_the_dev_split_is_played_by_its_gold_calls():
    items = kg.load(DEV)
    for item in items:
        graph, _ = witness.build(item)
        found = set(graph.values(sparql.members(programs.parse(item["s_expression"]))))
        assert found == {answer["answer_argument"] for answer in item["answer"]}, item["qid"]
    records = played(items, expert)
    lost = {item["qid"] for item, record in zip(items, records, strict=True) if record["reward"] != 1.0}
    assert len(items) == 20 and lost == NOT_PLAYABLE


def test_a_subset_is_played_with_the_ontology_of_a_checkout(tmp_path):
    made = world.build("train/1")
    graph, known = made.graph()
    (tmp_path / "vocab.json").write_text(
        json.dumps({"relations": sorted(known.relations - {"sea.boat.cargo"}), "attributes": sorted(known.attributes)})
    )
    (tmp_path / "fb_roles").write_text("".join(f"x {name} {range_}\n" for name, range_ in known.ranges.items()))
    path = tmp_path / "world.nt"
    path.write_bytes(graph.store.dump(format=_ntriples(), from_graph=_default()))
    items = [item for item in kg.items("train", 300, 0) if item["world"] == "train/1"]
    with kg.serve("subset", graph=path, checkout=tmp_path) as room:
        assert not room.backend.comparable
        env = room.make({name: value for name, value in items[0].items() if name != "world"})
        env.reset()
        boat = next(id_ for id_, type_ in made.types.items() if type_ == "sea.boat")
        listed = env.step(f"get_relations({boat})").observation
        assert listed == "Observation: [sea.boat.home_port, sea.boat.owner]"  # the cargo is not in the vocabulary
    assert isinstance(graphs.read(path), graphs.Graph)


def _ntriples():
    import pyoxigraph

    return pyoxigraph.RdfFormat.N_TRIPLES


def _default():
    import pyoxigraph

    return pyoxigraph.DefaultGraph()
