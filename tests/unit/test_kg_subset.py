"""Exporting a part of a graph over an endpoint: what is in it, its limits, and going on after an interruption."""

import gzip
import json
import re

import pyoxigraph as ox
import pytest

from agenttuning.environments import kg
from agenttuning.environments.kg import graphs, subset, world
from agenttuning.environments.kg.endpoint import Down, Endpoint
from agenttuning.environments.kg.sparql import NAMESPACE
from agenttuning.errors import UserError
from helpers.fake_sparql import serving

WORLD = world.build("train/0")
ITEMS = [item for item in kg.items("train", 200, 0) if item["world"] == "train/0"][:3]


@pytest.fixture
def server():
    graph, _ = WORLD.graph()
    extra = "m.pboat_00", "not.in.the.ontology", "m.ptown_00"
    graph.store.add(ox.Quad(*(ox.NamedNode(NAMESPACE + name) for name in extra)))
    with serving(graph.store) as fake:
        yield fake


@pytest.fixture
def client(server):
    client = Endpoint(server.url, timeout_s=2, retries=0)
    yield client
    client.close()


@pytest.fixture(scope="module")
def known():
    return WORLD.graph()[1]


def edges(path):
    return [line for line in gzip.decompress(path.read_bytes()).decode().split("\n") if line]


def test_one_hop_is_all_edges_of_the_entities_that_the_tools_can_show(client, known, tmp_path):
    starts = sorted({id_ for item in ITEMS for id_ in item["entities"].values()} | {"m.pboat_00"})
    items = [*ITEMS, {"entities": {"a boat": "m.pboat_00", "a type": "sea.boat"}}]
    made = subset.export(items, client, known, tmp_path / "x.nt.gz", hops=1)
    wanted = {(start, relation) for start, relation, _ in WORLD.triples if start in starts}
    wanted |= {(start, subset.TYPE) for start in starts}
    found = [
        re.match(rf"<{re.escape(NAMESPACE)}(.*?)> <{re.escape(NAMESPACE)}(.*?)> ", line)
        for line in edges(tmp_path / "x.nt.gz")
    ]
    assert {match.groups() for match in found} == wanted
    assert (made.triples, made.entities, made.cut, made.full) == (len(found), len(starts), 0, False)
    assert not (tmp_path / "x.nt.gz.part").exists()


def test_the_items_can_be_played_on_their_part(client, known, tmp_path):
    subset.export(ITEMS, client, known, tmp_path / "x.nt.gz", hops=4)
    (tmp_path / "vocab.json").write_text(
        json.dumps({"relations": sorted(known.relations), "attributes": sorted(known.attributes)})
    )
    (tmp_path / "fb_roles").write_text("".join(f"x {name} {range_}\n" for name, range_ in known.ranges.items()))
    with kg.serve("subset", graph=tmp_path / "x.nt.gz", checkout=tmp_path) as room:
        for item in ITEMS:
            env = room.make({name: value for name, value in item.items() if name != "world"})
            env.reset()
            while not env.step(env.oracle().action).done:
                pass
            assert env.score() == 1.0


def test_limits_are_counted(server, client, known, tmp_path, monkeypatch):
    made = subset.export(ITEMS, client, known, tmp_path / "x.nt.gz", hops=3, per_entity=2)
    assert made.cut > 0 and made.triples <= 2 * made.entities
    server.faults += ["kept back"]
    made = subset.export(ITEMS, client, known, tmp_path / "x.nt.gz", hops=1)
    assert made.cut == 1
    monkeypatch.setattr(subset, "ASKED", 3)
    made = subset.export(ITEMS, client, known, tmp_path / "x.nt.gz", hops=2)
    assert made.cut > 1 and "LIMIT 3" in server.queries[-1]
    monkeypatch.undo()
    made = subset.export(ITEMS, client, known, tmp_path / "x.nt.gz", hops=9, max_triples=50)
    assert made.full and 50 <= made.triples < 120 and len(edges(tmp_path / "x.nt.gz")) == made.triples


@pytest.mark.parametrize("calls", [1, 7, 20])
def test_an_interrupted_export_goes_on_where_it_was(server, client, known, tmp_path, calls):
    whole = subset.export(ITEMS, client, known, tmp_path / "whole.nt.gz", hops=3)
    asked = len(server.queries)
    assert asked > calls
    server.faults += [None] * calls + ["garbage"]
    with pytest.raises(Down):
        subset.export(ITEMS, client, known, tmp_path / "half.nt.gz", hops=3)
    assert not (tmp_path / "half.nt.gz").exists()
    with (tmp_path / "half.nt.gz.part").open("a") as file:
        file.write("<http://rdf.freebase.com/ns/m.x> <cut")  # as a killed process leaves it
    server.faults.clear()
    server.queries.clear()
    assert subset.export(ITEMS, client, known, tmp_path / "half.nt.gz", hops=3) == whole
    assert len(server.queries) == asked - calls
    assert (tmp_path / "half.nt.gz").read_bytes() == (tmp_path / "whole.nt.gz").read_bytes()


def test_halves_of_different_settings_are_not_joined(server, client, known, tmp_path):
    server.faults += [None, "garbage"]
    with pytest.raises(Down):
        subset.export(ITEMS, client, known, tmp_path / "x.nt.gz")
    with pytest.raises(UserError, match="other settings"):
        subset.export(ITEMS, client, known, tmp_path / "x.nt.gz", per_entity=5)
    with pytest.raises(UserError, match=".nt.gz"):
        subset.export(ITEMS, client, known, tmp_path / "x.csv")


def test_values_survive(tmp_path):
    nasty = 'a "quote" \\ \n\r\t # done m.x\n é \u2028'
    store = graphs.build([("m.01", "a.b", "m.02")]).store
    terms = [
        ox.Literal(nasty),
        ox.Literal("hello", language="en-gb"),
        ox.Literal("1.5", datatype=ox.NamedNode("http://www.w3.org/2001/XMLSchema#float")),
        ox.NamedNode("http://example.org/x"),
        ox.BlankNode(),
    ]
    for term in terms:
        store.add(ox.Quad(ox.NamedNode(NAMESPACE + "m.01"), ox.NamedNode(NAMESPACE + "a.b"), term))
    known = kg.ontology.Ontology(frozenset(["a.b"]), frozenset(), {})
    with serving(store) as fake:
        client = Endpoint(fake.url)
        subset.export([{"entities": {"x": "m.01"}}], client, known, tmp_path / "x.nt.gz", hops=2)
        client.close()
    found = {quad.object for quad in graphs.read(tmp_path / "x.nt.gz").store}
    assert found == {ox.NamedNode(NAMESPACE + "m.02"), *terms[:4]}


def test_the_command_line(server, known, tmp_path, capsys):
    (tmp_path / "vocab.json").write_text(json.dumps({"relations": sorted(known.relations), "attributes": []}))
    (tmp_path / "fb_roles").write_text("a b c\n")
    (tmp_path / "dev.json").write_text(json.dumps(ITEMS))
    told = ["--items", f"{tmp_path}/dev.json", "--url", server.url, "--checkout", str(tmp_path), "--hops", "1"]
    assert subset.main([*told, "--out", f"{tmp_path}/x.nt.gz"]) == 0
    assert f"{len(edges(tmp_path / 'x.nt.gz'))} triples" in capsys.readouterr().out
    assert subset.main([*told, "--out", f"{tmp_path}/x.nt.gz", "--max-triples", "1"]) == 0
    assert "stopped at 1 triples" in capsys.readouterr().out
    assert subset.main([*told, "--out", f"{tmp_path}/x.gz"]) == 2
    assert "end in .nt.gz" in capsys.readouterr().err
