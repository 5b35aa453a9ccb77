"""Programs to SPARQL, as AgentBench's utils/logic_form_util.py (lisp_to_sparql) means them.

Kept from there: the entities a program starts from are no answers, nor are literals in another language than English
(of a superlative this holds for the search of its value, not of those that have it); a superlative is the extremum over
all that the program asks of the entity, ties included; two superlatives, or a count of a superlative, have no query.
Other than there, a union has a query. Two dialects: `STANDARD` SPARQL 1.1, in which every step is a DISTINCT
subquery, so that the work stays within steps x edges however the model chains relations; and `VIRTUOSO`, the flat form
with Virtuoso's own COUNT and OR, which is what the original sends.

Nothing reaches a query but names that pass `iri` and literals that pass `literal`.
"""

from __future__ import annotations

import re
from itertools import count

from agenttuning.environments.kg import programs
from agenttuning.environments.kg.programs import COMPARISONS, SUPERLATIVES, Program

NAMESPACE = "http://rdf.freebase.com/ns/"
XSD = "http://www.w3.org/2001/XMLSchema#"
STANDARD, VIRTUOSO = "standard", "virtuoso"
NOW = "2015-08-10"  # lisp_to_sparql: the date of the Freebase dump

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")
_TYPED = re.compile(r"([^\"\\\s<>]+)\^\^(https?://[A-Za-z0-9_./#\-]+)")
_ZONELESS = ("integer", "float", "dateTime", "double")


class NoQuery(ValueError):
    """A program that has no query."""


def iri(name: object) -> str:
    """A name of Freebase as IRI. Raises NoQuery for another text."""
    if not is_name(name):
        raise NoQuery(f"not a name of the knowledge graph: {str(name)[:80]!r}")
    return f"<{NAMESPACE}{name}>"


def is_name(text: object) -> bool:
    """True for what may stand in a query as a name: letters, digits, `_`, `-` and `.`."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


def typed(text: str) -> tuple[str, str] | None:
    """(lexical form, datatype IRI) of `value^^type`, None for another text.

    Dates and years get the time zone of Freebase's dump, -08:00, as in lisp_to_sparql.
    """
    found = _TYPED.fullmatch(text)
    if found is None:
        return None
    value, datatype = found.groups()
    return (value if datatype.rpartition("#")[2] in _ZONELESS else f"{value}-08:00"), datatype


def literal(text: str) -> str:
    """`value^^type` as a literal of SPARQL. Raises NoQuery for another text."""
    found = typed(text)
    if found is None:
        raise NoQuery(f"not a literal: {text[:80]!r}")
    return f'"{found[0]}"^^<{found[1]}>'


def members(program: Program, dialect: str = STANDARD) -> str:
    """The query for a program's members, or for their number where it counts. Raises NoQuery."""
    whole = [node[0] for node in programs.nodes(program)]
    counts, superlatives = whole.count("COUNT"), [name for name in whole if name in SUPERLATIVES]
    if len(superlatives) > 1 or (superlatives and (counts or "OR" in whole)):
        raise NoQuery("two superlatives, or one with a count or a union, have no query")
    either = "OR" if dialect == VIRTUOSO else "||"
    english = f"FILTER (!isLiteral(?x) {either} lang(?x) = '' {either} langMatches(lang(?x), 'en'))"
    others = [f"FILTER (?x != {iri(entity)})" for entity in programs.entities(program)]
    if superlatives:
        order = "DESC(?sk0)" if superlatives == ["ARGMAX"] else "?sk0"
        body = "\n".join(_Pattern(dialect).of(program, "?x"))
        inner = "\n".join([english, body, *others])
        extremum = f"SELECT ?sk0 WHERE {{\n{inner}\n}} ORDER BY {order} LIMIT 1"
        return f"SELECT DISTINCT ?x WHERE {{\n{body}\n{{ {extremum} }}\n}}"
    body = "\n".join([english, *_Pattern(dialect).of(program, "?x"), *others])
    head = "DISTINCT ?x"
    if counts:
        head = "COUNT DISTINCT ?x" if dialect == VIRTUOSO else "(COUNT(DISTINCT ?x) AS ?value)"
    return f"SELECT {head} WHERE {{\n{body}\n}}"


def relations(start: Program | str, dialect: str = STANDARD) -> str:
    """The query for the relations that lead from an entity, or from the members of a program. Raises NoQuery."""
    if isinstance(start, str):
        return f"SELECT DISTINCT ?rel WHERE {{ {iri(start)} ?rel ?obj . }}"
    if any(node[0] == "COUNT" for node in programs.nodes(start)):
        # The original's query would ask for the relations of everything there is.
        raise NoQuery("a number has no relations")
    return f"SELECT DISTINCT ?rel WHERE {{\n?x ?rel ?obj .\n{{\n{members(start, dialect)}\n}}\n}}"


class _Pattern:
    """The graph pattern of one query; every variable of it has its own name."""

    def __init__(self, dialect: str) -> None:
        self.nested = dialect == STANDARD
        self.names = (f"?y{number}" for number in count())

    def of(self, node: Program | str, x: str) -> list[str]:
        """Clauses that hold of the variable `x` when it is a member of `node`."""
        if isinstance(node, str):
            return [f"{x} {iri('type.object.type')} {iri(node)} ."]
        name, *parts = node
        match name:
            case "JOIN" if len(parts) == 2:
                return self._join(*parts, x)
            case "AND" if len(parts) == 2:
                return [*self._step(parts[0], x), *self._step(parts[1], x)]
            case "OR" if len(parts) == 2:
                either = ["\n".join(self._step(part, x)) for part in parts]
                return [f"{{ {either[0]} }} UNION {{ {either[1]} }}"]
            case "COUNT" if len(parts) == 1:
                return self.of(parts[0], x)
            case "ARGMAX" | "ARGMIN" if len(parts) == 2:
                *path, last = programs.chain(parts[1])
                clauses, start = self._step(parts[0], x), x
                for relation in path:
                    end = next(self.names)
                    clauses, start = [*clauses, _edge(start, relation, end)], end
                return [*clauses, _edge(start, last, "?sk0")]
            case "le" | "lt" | "ge" | "gt" if len(parts) == 2:
                y = next(self.names)
                return [_edge(x, parts[0], y), f"FILTER ({y} {COMPARISONS[name]} {literal(parts[1])})"]
            case "TC" if len(parts) == 3:
                return [*self._step(parts[0], x), *self._at_time(parts[1], parts[2], x)]
        raise NoQuery(f"not a program: {programs.write(node)[:200]}")

    def _join(self, relation: Program | str, of: Program | str, x: str) -> list[str]:
        forward = isinstance(relation, str)
        if isinstance(of, tuple):
            y = next(self.names)
            edge = _edge(x, relation, y) if forward else _edge(y, relation[1], x)
            return [*self._step(of, y), edge]
        if "^^" in of:
            end = literal(of)
        elif programs.is_entity(of) or not forward or re.fullmatch(r"[a-z_]+\.[a-z_.]+", of):
            end = iri(of)  # also a type that stands in an entity's place, as common.topic does in some items
        else:
            y = next(self.names)
            quoted = of.replace("\\", "\\\\").replace('"', '\\"')
            return [_edge(x, relation, y), f'FILTER (str({y}) = "{quoted}")']
        return [f"{x} {iri(relation)} {end} ." if forward else f"{end} {iri(relation[1])} {x} ."]

    def _step(self, node: Program | str, x: str) -> list[str]:
        if isinstance(node, str) or not self.nested:
            return self.of(node, x)
        ranked = any(part[0] in SUPERLATIVES for part in programs.nodes(node))
        inner = "\n".join(self.of(node, x))
        return [f"{{ SELECT DISTINCT {x}{' ?sk0' if ranked else ''} WHERE {{ {inner} }} }}"]

    def _at_time(self, start: str, year: str, x: str) -> list[str]:
        # The relation that ends the period is named after the one that begins it: from, to; from_date, to_date.
        end = re.sub(r"from(_date)?$", r"to\1", start)
        first, last = (NOW, NOW) if year == "NOW" else (f"{year[:4]}-01-01", f"{year[:4]}-12-31")
        clauses = []
        for relation, sign, date in ((start, "<=", last), (end, ">=", first)):
            if not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
                raise NoQuery(f"not a year: {year[:40]!r}")
            y = next(self.names)
            bound = f'<{XSD}dateTime>({y}) {sign} "{date}T00:00:00Z"^^<{XSD}dateTime>'
            edge = f"{x} {iri(relation)} {y}"
            clauses.append(f"FILTER (NOT EXISTS {{ {edge} }} || EXISTS {{ {edge} FILTER ({bound}) }})")
        return clauses


def _edge(start: str, relation: Program | str, end: str) -> str:
    if isinstance(relation, tuple):
        return f"{end} {iri(relation[1])} {start} ."
    return f"{start} {iri(relation)} {end} ."
