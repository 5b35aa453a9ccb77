"""Practice: invented worlds of towns, people, guilds and boats, and questions about them.

A world is drawn from its name (`train/3`), so that an item carries the name only. Test worlds have names of entities
that training never shows. Answers are computed here over the triples, not by SPARQL: the two ways check each other.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from agenttuning.environments import build_items, reserved
from agenttuning.environments.kg import graphs, programs
from agenttuning.environments.kg.graphs import Graph
from agenttuning.environments.kg.ontology import Ontology
from agenttuning.environments.kg.programs import Program

WORLDS = 16  # of a split
# As often as makes the kinds about equal: most intersections share nothing, most sets have one member.
KINDS = ("one_hop", "two_hop", *["count"] * 2, *["superlative"] * 4, *["intersection"] * 6)
SIZES = {
    "isles.town": 10, "isles.person": 48, "isles.festival": 14, "craft.guild": 8, "craft.trade": 8, "craft.ware": 12,
    "sea.boat": 30, "sea.harbour": 8,
}  # fmt: skip
# relation, its reverse, how the question names what each leads to
RELATIONS = (
    ("isles.person.home_town", "isles.town", "isles.town.residents", "the home town of {}", "the residents of {}"),
    ("isles.person.guild", "craft.guild", "craft.guild.members", "the guild of {}", "the members of {}"),
    ("isles.person.trade", "craft.trade", "craft.trade.people", "the trade of {}", "the people who practise {}"),
    ("isles.person.teacher", "isles.person", "isles.person.pupils", "the teacher of {}", "the pupils of {}"),
    ("isles.festival.town", "isles.town", "isles.town.festivals", "the town that holds {}", "the festivals of {}"),
    ("isles.festival.host", "craft.guild", "craft.guild.hosts", "the host of {}", "the festivals hosted by {}"),
    ("craft.ware.trade", "craft.trade", "craft.trade.wares", "the trade that makes {}", "the wares made by {}"),
    ("sea.boat.owner", "isles.person", "isles.person.boats", "the owner of {}", "the boats owned by {}"),
    ("sea.boat.home_port", "sea.harbour", "sea.harbour.boats", "the home port of {}", "the boats at home in {}"),
    ("sea.boat.cargo", "craft.ware", "craft.ware.boats", "the cargo of {}", "the boats that carry {}"),
    ("sea.harbour.town", "isles.town", "isles.town.harbours", "the town of {}", "the harbours of {}"),
)  # fmt: skip
ATTRIBUTES = {
    "isles.person": (("isles.person.birth_year", range(1400, 1900), "born last", "born first"),),
    "isles.town": (("isles.town.population", range(200, 9000), "the largest", "the smallest"),),
    "isles.festival": (("isles.festival.days", range(1, 60), "the longest", "the shortest"),),
    "sea.boat": (
        ("sea.boat.length_m", range(4, 90), "the longest", "the shortest"),
        ("sea.boat.launched", range(1500, 1950), "launched last", "launched first"),
    ),
    "craft.guild": (("craft.guild.founded", range(1000, 1700), "founded last", "founded first"),),
}
_HEADS = (
    "Mar", "Tol", "Ves", "Kor", "Bel", "Ond", "Sil", "Har",
    "Ruk", "Fen", "Gal", "Ith", "Lom", "Nev", "Pas", "Zur",
)  # fmt: skip
_MIDDLES = ("a", "e", "i", "o", "u", "an", "er", "il", "or", "un")
_TAILS = ("dan", "vek", "mir", "lis", "tor", "gan", "bel", "rin", "sko", "wen", "ford", "holm")
PHRASES = {name: text for one, _, back, there, home in RELATIONS for name, text in ((one, there), (back, home))}
MEANT = "m.p"  # practice ids begin with it; Freebase's with m.0


@dataclass(frozen=True)
class World:
    """`names`: id -> label; `types`: id -> type; `triples`: (start, relation, end); `ranges`: relation -> type."""

    names: dict[str, str]
    types: dict[str, str]
    triples: tuple[tuple[str, str, str], ...]
    ranges: dict[str, str]

    def graph(self) -> tuple[Graph, Ontology]:
        """The world as a graph of SPARQL, and what the tools list."""
        attributes = frozenset(name for group in ATTRIBUTES.values() for name, *_ in group)
        types = [(id_, "type.object.type", type_) for id_, type_ in self.types.items()]
        return graphs.build([*self.triples, *types]), Ontology(frozenset(self.ranges), attributes, self.ranges)


def build(name: str) -> World:
    """The world of a name, `train/0` .. `test/15`."""
    rng = random.Random(f"kg/world/{name}")
    test = name.startswith("test/")
    pool = [head + middle + tail for head in _HEADS for middle in _MIDDLES for tail in _TAILS]
    labels = iter(rng.sample([label for label in pool if reserved("kg", label) == test], sum(SIZES.values())))
    ids = {
        type_: [f"{MEANT}{type_.partition('.')[2]}_{number:02d}" for number in range(n)] for type_, n in SIZES.items()
    }
    names = {id_: next(labels) for group in ids.values() for id_ in group}
    triples = []
    for relation, range_, back, _, _ in RELATIONS:
        for start in ids[relation.rpartition(".")[0]]:
            end = rng.choice([id_ for id_ in ids[range_] if id_ != start])
            triples += [(start, relation, end), (end, back, start)]
    for type_, group in ATTRIBUTES.items():
        for attribute, values, *_ in group:
            # Different values, so that an extreme is one entity.
            drawn = rng.sample(values, len(ids[type_]))
            triples += [
                (id_, attribute, f"{value}^^http://www.w3.org/2001/XMLSchema#integer")
                for id_, value in zip(ids[type_], drawn, strict=True)
            ]
    ranges = {relation: range_ for relation, range_, *_ in RELATIONS}
    ranges |= {back: relation.rpartition(".")[0] for relation, _, back, _, _ in RELATIONS}
    types = {id_: type_ for type_, group in ids.items() for id_ in group}
    return World(names, types, tuple(triples), ranges)


def items(split: str, n: int, seed: int) -> list[dict]:
    """`n` different items of a split, of five kinds: one hop, two hops, an intersection, a count, a superlative."""
    worlds: dict[str, _Reader] = {}

    def draw(rng: random.Random, test: bool) -> dict | None:
        name = f"{'test' if test else 'train'}/{rng.randrange(WORLDS)}"
        if name not in worlds:
            worlds[name] = _Reader(build(name))
        return worlds[name].item(name, rng)

    return build_items("kg", split, n, seed, draw)


class _Reader:
    """Draws questions about a world and answers them by walking its triples."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ends: dict[tuple[str, str], set[str]] = {}
        self.values: dict[tuple[str, str], int] = {}
        self.leaving: dict[str, list[str]] = {}
        for start, relation, end in world.triples:
            if "^^" in end:
                self.values[start, relation] = int(end.partition("^^")[0])
                continue
            self.ends.setdefault((start, relation), set()).add(end)
            if relation not in self.leaving.setdefault(start, []):
                self.leaving[start].append(relation)
        self.leading: dict[str, list[tuple[tuple[str, str], set[str]]]] = {}  # type -> the edges that lead to it
        for edge, ends in sorted(self.ends.items()):
            self.leading.setdefault(world.ranges[edge[1]], []).append((edge, ends))

    def item(self, world: str, rng: random.Random) -> dict | None:
        kind = rng.choice(KINDS)
        hops = {"one_hop": 1, "intersection": 1, "two_hop": 2}.get(kind) or rng.randint(1, 2)
        first, phrase, found, calls = self._walk(rng, hops)
        if not found:
            return None
        type_ = self.world.types[min(found)]
        starts = {first[1]: self.world.names[first[1]]}
        program = first[0]
        answer = sorted(found)
        match kind:
            case "one_hop" | "two_hop":
                question = f"Name {phrase}."  # "what is" and "what are" would tell the number
            case "count":
                if len(found) < 2:
                    return None
                question, program, answer = f"What is the number of {phrase}?", ("COUNT", program), [str(len(found))]
                calls.append(f"count(#{_variables(calls) - 1})")
            case "superlative":
                if type_ not in ATTRIBUTES or len(found) < 2:
                    return None
                attribute, _, most, least = rng.choice(ATTRIBUTES[type_])
                largest = rng.random() < 0.5
                question = f"Of {phrase}, which was {most}?" if largest else f"Of {phrase}, which was {least}?"
                question = question.replace("was the", "is the")
                last = _variables(calls) - 1
                calls += [f"get_attributes(#{last})", f"{'argmax' if largest else 'argmin'}(#{last}, {attribute})"]
                program = ("ARGMAX" if largest else "ARGMIN", program, attribute)
                pick = max if largest else min
                answer = [pick(found, key=lambda id_: self.values[id_, attribute])]
            case "intersection":
                other = self._other(rng, found, type_, first[1])
                if other is None:
                    return None
                start, relation = other
                both = found & self.ends[start, relation]
                if both in (found, self.ends[start, relation]):
                    return None
                starts[start] = self.world.names[start]
                question = f"Which are both among {phrase} and among {self._phrase(relation, starts[start])}?"
                calls += [f"get_relations({start})", f"get_neighbors({start}, {relation})", "intersection(#0, #1)"]
                program, answer = ("AND", program, ("JOIN", ("R", relation), start)), sorted(both)
        if starts.keys() & set(answer):
            return None  # where an entity of the question would be its own answer, the query leaves it out
        entries = list(starts.items())
        rng.shuffle(entries)
        return {
            "kind": kind,
            "world": world,
            "question": question,
            "entities": {label: id_ for id_, label in entries},
            "s_expression": programs.write(program),
            "actions": calls,
            "answer": [{"answer_argument": text} for text in answer],
        }

    def _walk(self, rng: random.Random, hops: int) -> tuple[tuple[Program, str], str, set[str], list[str]]:
        start = rng.choice(sorted(self.leaving))
        program: Program | str = start
        phrase, members, calls = self.world.names[start], {start}, []
        for hop in range(hops):
            relation = rng.choice(self.leaving[min(members)])
            variable = start if hop == 0 else f"#{hop - 1}"
            calls += [f"get_relations({variable})", f"get_neighbors({variable}, {relation})"]
            phrase, program = self._phrase(relation, phrase), ("JOIN", ("R", relation), program)
            members = {end for id_ in members for end in self.ends.get((id_, relation), ())} - {start}
            if not members:
                break
        return (program, start), phrase, members, calls

    def _other(self, rng: random.Random, found: set[str], type_: str, first: str) -> tuple[str, str] | None:
        edges = [
            (start, relation)
            for (start, relation), ends in self.leading.get(type_, ())
            if start != first and not ends.isdisjoint(found)
        ]
        return rng.choice(edges) if edges else None

    @staticmethod
    def _phrase(relation: str, of: str) -> str:
        return PHRASES[relation].format(of)


def _variables(calls: list[str]) -> int:
    return sum(not call.startswith(("get_relations", "get_attributes")) for call in calls)
