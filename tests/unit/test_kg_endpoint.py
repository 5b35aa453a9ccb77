"""The SPARQL client against a server that fails in every way: out of order is never an empty answer."""

import time

import pytest

from agenttuning.environments import kg
from agenttuning.environments.kg import endpoint as endpoints
from agenttuning.environments.kg import graphs, programs, sparql, world
from agenttuning.environments.kg.endpoint import Down, Endpoint
from agenttuning.environments.kg.graphs import Refused
from agenttuning.environments.kg.sparql import VIRTUOSO
from agenttuning.errors import UserError
from helpers.fake_sparql import serving

TRIPLES = [("m.a", "p.q", "m.b"), ("m.a", "p.q", "m.c"), ("m.a", "type.object.type", "p.p")]
QUERY = sparql.members(programs.parse("(JOIN (R p.q) m.a)"), VIRTUOSO)
FAILURES = ["500", "503", "garbage", "rows", "truncated", "reset", "404"]


@pytest.fixture
def server():
    with serving(graphs.build(TRIPLES).store) as fake:
        yield fake


@pytest.fixture
def client(server):
    client = Endpoint(server.url, timeout_s=2, wait_s=0.01)
    yield client
    client.close()


def test_an_answer(client, server):
    assert sorted(client.values(QUERY)) == ["m.b", "m.c"] and server.queries == [QUERY]
    assert client.values(sparql.members(programs.parse("(COUNT (JOIN (R p.q) m.a))"), VIRTUOSO)) == ["2"]
    assert client.values(sparql.members(programs.parse("(JOIN (R p.q) m.zzz)"), VIRTUOSO)) == []


@pytest.mark.parametrize("fault", FAILURES)
def test_a_passing_failure_is_asked_again(client, server, fault):
    server.faults += [fault, fault]
    assert len(client.values(QUERY)) == 2 and len(server.queries) == 3


@pytest.mark.parametrize("fault", FAILURES)
def test_a_lasting_failure_is_raised(client, server, fault):
    server.faults += [fault] * 9
    with pytest.raises(Down, match="did not answer in 4 attempts"):
        client.values(QUERY)
    assert len(server.queries) == 4


def test_a_server_that_hangs_is_left(server):
    server.faults += ["hang"] * 9
    server.hang_s = 1.0
    client, start = Endpoint(server.url, timeout_s=0.2, wait_s=0.01), time.monotonic()
    with pytest.raises(Down, match="2 attempts"):
        client.values(QUERY)
    client.close()
    assert time.monotonic() - start < 1.5


def test_nobody_listens():
    with serving(graphs.build(TRIPLES).store) as fake:
        url = fake.url
    client = Endpoint(url, retries=1, wait_s=0.01)
    with pytest.raises(Down, match="2 attempts"):
        client.values(QUERY)
    client.close()


@pytest.mark.parametrize(("fault", "query"), [("costly", QUERY), ("partial", QUERY), (None, "SELECT nonsense")])
def test_a_verdict_on_the_query_is_not_asked_again(client, server, fault, query):
    server.faults += [fault]
    with pytest.raises(Refused):
        client.values(query)
    assert len(server.queries) == 1


def test_bytes_and_rows_are_bounded(client, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(endpoints, "MAX_ROWS", 1)
        with pytest.raises(Refused, match="more than 1 rows"):
            client.values(QUERY)
    monkeypatch.setattr(endpoints, "MAX_BYTES", 20)
    with pytest.raises(Refused, match="more than 20 bytes"):
        client.values(QUERY)


def test_an_address_that_is_none():
    with pytest.raises(UserError, match="no address"):
        Endpoint("localhost:3001/sparql")


@pytest.fixture
def checkout(tmp_path):
    """The ontology files of the practice worlds, as an AgentBench checkout has Freebase's."""
    import json

    folder = tmp_path / "src/server/tasks/knowledgegraph/ontology"
    folder.mkdir(parents=True)
    _, known = world.build("test/0").graph()
    vocabulary = {"relations": sorted(known.relations), "attributes": sorted(known.attributes)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    lines = [f"{relation.rpartition('.')[0]} {relation} {range_}\n" for relation, range_ in known.ranges.items()]
    (folder / "fb_roles").write_text("".join(lines))
    return tmp_path


def expert(room, item, turns=15):
    env = room.make(item)
    env.reset()
    for _ in range(turns):
        if env.step(env.oracle().action).done:
            break
    return env


def test_a_world_behind_an_endpoint_plays_as_in_this_process(checkout):
    mine = [item for item in kg.items("test", 250, 0) if item["world"] == "test/3"]
    with serving(world.build("test/3").graph()[0].store) as fake:
        where = {"url": fake.url, "checkout": checkout}
        assert kg.missing("endpoint", **where) == []
        with kg.serve("endpoint", **where) as room:
            assert room.isolation == "thread" and room.slots
            assert not room.backend.comparable and room.backend.label.endswith("; 0 people in it"), "no Freebase"
            with pytest.raises(UserError, match="invented world"):
                room.make(mine[0])
            mine = [{name: value for name, value in item.items() if name != "world"} for item in mine]
            assert [expert(room, item).score() for item in mine] == [1.0] * len(mine)
            assert {item["kind"] for item in mine} >= {"intersection", "count", "superlative"}
            fake.faults += ["garbage"] * 9
            with pytest.raises(Down):
                expert(room, mine[0])


def test_only_a_server_with_as_many_people_as_freebase_is_comparable(checkout, monkeypatch):
    people = [(f"m.0{number}", "type.object.type", "people.person") for number in range(3)]
    with serving(graphs.build(people).store) as fake:
        for least, comparable in ((3, True), (4, False)):
            monkeypatch.setattr(endpoints, "PEOPLE", least)
            with kg.serve("endpoint", url=fake.url, checkout=checkout) as room:
                assert room.backend.comparable is comparable and room.backend.label.endswith("; 3 people in it")
        fake.faults += ["garbage"]
        unknown = endpoints.judged(Endpoint(fake.url, retries=0), kg.ENDPOINT)
        assert not unknown.comparable and "could not be counted" in unknown.label


def test_a_refused_query_is_the_models_affair(checkout, server):
    with kg.serve("endpoint", url=server.url, checkout=checkout) as room:
        env = room.make({"question": "?", "entities": {"A": "m.a"}, "answer": [], "actions": []})
        env.reset()
        server.faults.append("costly")
        step = env.step("get_relations(A)")
        assert not step.valid and "cannot be executed" in step.observation


def test_what_is_missing(checkout, server, tmp_path):
    def lacks(backend, **where):
        return [lacking.what for lacking in kg.missing(backend.name, **where)]

    assert [what.partition(" ")[2][:16] for what in lacks(kg.ENDPOINT)] == ["address of a SPA", "ontology of Agen"]
    assert lacks(kg.ENDPOINT, url=server.url, checkout=checkout) == []
    server.store.clear()
    assert "holds no type" in lacks(kg.ENDPOINT, url=server.url, checkout=checkout)[0]
    server.faults.append("garbage")
    assert "not a result" in lacks(kg.ENDPOINT, url=server.url, checkout=checkout)[0]
    assert lacks(kg.EMBEDDED) == [] and len(lacks(kg.EMBEDDED, checkout=tmp_path / "none")) == 1
    assert (
        len(lacks(kg.SUBSET)) == 2 and "none.nt" in lacks(kg.SUBSET, graph=tmp_path / "none.nt", checkout=checkout)[0]
    )


def test_options_are_told_apart(checkout, tmp_path):
    for backend, where, said in (
        (kg.ENDPOINT, {"checkout": checkout}, "no 'url'"),
        (kg.ENDPOINT, {"url": "http://localhost/sparql"}, "no 'checkout'"),
        (kg.SUBSET, {"checkout": checkout}, "no 'graph'"),
        (kg.EMBEDDED, {"url": "http://localhost/sparql"}, "has no option 'url'"),
        (kg.EMBEDDED, {"checkout": tmp_path / "none"}, "vocab.json"),
    ):
        with pytest.raises(UserError, match=said), kg.serve(backend.name, **where):
            pass
    with pytest.raises(UserError, match="no backend .freebase."), kg.serve("freebase"):
        pass
    (checkout / "src/server/tasks/knowledgegraph/ontology/vocab.json").write_text("[]")
    with pytest.raises(UserError, match="not AgentBench's ontology"), kg.serve("embedded", checkout=checkout):
        pass
