"""Programs and their queries: what an s-expression means, in both dialects, on a graph to check by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.environments.kg import graphs, programs, sparql
from agenttuning.environments.kg.graphs import Refused
from agenttuning.environments.kg.sparql import STANDARD, VIRTUOSO, NoQuery
from agenttuning.errors import UserError

XSD = "http://www.w3.org/2001/XMLSchema#"
TRIPLES = [
    *((f"m.{town}", "type.object.type", "geo.town") for town in "abcd"),
    ("m.a", "geo.town.near", "m.b"),
    ("m.b", "geo.town.near", "m.a"),
    ("m.b", "geo.town.near", "m.c"),
    ("m.c", "geo.town.near", "m.d"),
    ("m.d", "geo.town.near", "m.c"),
    *((f"m.{town}", "geo.town.size", f"{n}^^{XSD}integer") for town, n in (("a", 5), ("b", 9), ("c", 10), ("d", 10))),
    ("m.a", "geo.town.founded", f"1200^^{XSD}gYear"),
    ("m.a", "geo.town.motto", '"Onward'),
    ("m.c", "geo.town.mayor", "m.term1"),
    ("m.c", "geo.town.mayor", "m.term2"),
    ("m.term1", "geo.term.holder", "m.ann"),
    ("m.term2", "geo.term.holder", "m.ben"),
    ("m.term1", "geo.term.from", f"1990-01-01T00:00:00Z^^{XSD}dateTime"),
    ("m.term1", "geo.term.to", f"1999-01-01T00:00:00Z^^{XSD}dateTime"),
    ("m.term2", "geo.term.from", f"1999-01-02T00:00:00Z^^{XSD}dateTime"),
]
NEAR = "geo.town.near"


@pytest.fixture(scope="module")
def graph():
    return graphs.build(TRIPLES)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (f"(JOIN {NEAR} m.c)", "b d"),
        (f"(JOIN (R {NEAR}) m.b)", "a c"),
        (f"(JOIN (R {NEAR}) (JOIN (R {NEAR}) m.a))", "c"),  # m.a itself is not an answer
        (f"(AND geo.town (JOIN {NEAR} (JOIN {NEAR} m.c)))", "a"),  # and m.c, which is not an answer
        (f"(AND (JOIN (R {NEAR}) m.b) (JOIN {NEAR} m.d))", "c"),
        (f"(OR (JOIN (R {NEAR}) m.b) (JOIN {NEAR} m.c))", "a d"),  # m.b and m.c are asked from
        ("(ARGMAX geo.town geo.town.size)", "c d"),
        ("(ARGMIN geo.town geo.town.size)", "a"),
        (f"(ARGMAX (JOIN (R {NEAR}) m.b) geo.town.size)", "c"),  # numbers, not texts: 10 is more than 5
        (f"(ARGMAX geo.town (JOIN {NEAR} geo.town.size))", "b c d"),
        (f"(ARGMIN geo.town (JOIN (R {NEAR}) geo.town.size))", "b"),
        (
            f"(JOIN (R {NEAR}) (ARGMIN (JOIN {NEAR} m.c) geo.town.size))",
            "a c",
        ),  # m.c counts again once the size is found
        (f"(ARGMAX (JOIN (R {NEAR}) (JOIN (R {NEAR}) m.c)) geo.town.size)", ""),  # m.c would be the only one
        (f"(ge geo.town.size 9^^{XSD}integer)", "b c d"),
        (f"(lt geo.town.size 9^^{XSD}integer)", "a"),
        (f"(JOIN geo.town.founded 1200^^{XSD}gYear)", "a"),
        ("(JOIN geo.town.motto Onward)", "a"),
        ("(JOIN (R geo.term.holder) (TC (JOIN (R geo.town.mayor) m.c) geo.term.from 1995))", "ann"),
        ("(JOIN (R geo.term.holder) (TC (JOIN (R geo.town.mayor) m.c) geo.term.from NOW))", "ben"),
    ],
)
def test_what_a_program_means(graph, text, wanted):
    program = programs.parse(text)
    assert programs.write(program) == text
    assert sorted(graph.values(sparql.members(program))) == [f"m.{name}" for name in wanted.split()]
    flat = sparql.members(program, VIRTUOSO)
    assert flat.count("SELECT") <= 2 and sorted(graph.values(flat.replace(" OR ", " || "))) == sorted(
        graph.values(sparql.members(program))
    )


def test_a_number_and_its_dialect(graph):
    program = programs.parse(f"(COUNT (JOIN {NEAR} m.c))")
    assert graph.values(sparql.members(program)) == ["2"]
    flat = sparql.members(program, VIRTUOSO)
    assert flat.startswith("SELECT COUNT DISTINCT ?x WHERE") and " OR lang(?x) = ''" in flat
    with pytest.raises(Refused):
        graph.values(flat)


def test_relations_of_an_entity_and_of_a_variable(graph):
    assert sorted(graph.values(sparql.relations("m.term1"))) == ["geo.term.from", "geo.term.holder", "geo.term.to"]
    for dialect in (STANDARD, VIRTUOSO):
        query = sparql.relations(programs.parse("(JOIN (R geo.town.mayor) m.c)"), dialect).replace(" OR ", " || ")
        assert sorted(graph.values(query)) == ["geo.term.from", "geo.term.holder", "geo.term.to"]


@pytest.mark.parametrize(
    "text",
    [
        "(COUNT (ARGMAX geo.town geo.town.size))",
        "(ARGMAX (ARGMIN geo.town geo.town.size) geo.town.size)",
        "(ARGMAX (OR geo.town geo.town) geo.town.size)",
        "(NOT geo.town)",
        "(JOIN geo.town.near)",
        '(JOIN geo.town.near> m.c)',
        "(JOIN (R geo.town.near) m.c>)",
        '(lt geo.town.size 9"^^x)',
        "(TC geo.town geo.term.from 19x5)",
    ],
)  # fmt: skip
def test_what_has_no_query(text):
    with pytest.raises(NoQuery):
        sparql.members(programs.parse(text))


@given(st.text(alphabet='().ab^#"<> \\m', max_size=40))
def test_any_text_is_a_program_or_a_value_error(text):
    try:
        sparql.members(programs.parse(text))
    except ValueError:
        return


@pytest.mark.parametrize("text", ["", "m.a", "(JOIN a", "JOIN a)", "()", "(a) (b)"])
def test_what_is_no_s_expression(text):
    with pytest.raises(ValueError, match="s-expression"):
        programs.parse(text)


def test_a_file_of_the_users_own(tmp_path, graph):
    import gzip

    lines = f'<{sparql.NAMESPACE}m.a> <{sparql.NAMESPACE}p.q> "1"^^<{XSD}int> .\n'.encode()
    (tmp_path / "one.nt.gz").write_bytes(gzip.compress(lines * 3))
    (tmp_path / "two.ttl").write_bytes(b"@prefix ns: <http://rdf.freebase.com/ns/> . ns:m.a ns:p.q ns:m.b .")
    assert graphs.read(tmp_path / "one.nt.gz").values(sparql.relations("m.a")) == ["p.q"]
    assert graphs.read(tmp_path / "two.ttl").values(sparql.members(programs.parse("(JOIN (R p.q) m.a)"))) == ["m.b"]
    (tmp_path / "half.nt.gz").write_bytes(gzip.compress(lines * 9000)[:200])
    (tmp_path / "bad.nt").write_bytes(lines + b"nonsense")
    (tmp_path / "empty.nt").write_bytes(b"")
    for name in ("half.nt.gz", "bad.nt", "empty.nt", "none.nt", "one.csv"):
        with pytest.raises(UserError, match=name):
            graphs.read(tmp_path / name)


def test_more_rows_than_anybody_would_read_are_refused(graph, monkeypatch):
    monkeypatch.setattr(graphs, "MAX_ROWS", 3)
    assert len(graph.values(sparql.members(programs.parse(f"(JOIN {NEAR} m.c)")))) == 2
    with pytest.raises(Refused, match="more than 3 rows"):
        graph.values("SELECT ?x WHERE { ?x ?y ?z }")
