"""Practice items for the DB task: small tables from a generator, with questions and orders of dbbench's kinds.

Never an item of the benchmark: tables and rows are made up here. Train and test share neither table names nor the names
in their rows.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from agenttuning.environments import build_items, reserved
from agenttuning.environments.db.episode import quoted
from agenttuning.environments.db.scoring import table_hash

# dbbench has a third each of questions, INSERT and UPDATE; DELETE is not in it but in AgentInstruct.
TYPES = (
    *("other", "counting", "comparison", "ranking", "pattern", "aggregation-SUM", "aggregation-MIN", "aggregation-MAX"),
    *("aggregation-AVG", "INSERT", "INSERT", "INSERT", "INSERT", "UPDATE", "UPDATE", "UPDATE", "UPDATE", "DELETE"),
)
ROWS = (8, 10, 16, 20)  # an average over so many whole numbers has few digits
REGIONS = (
    "Northern", "Southern", "Eastern", "Western", "Upper", "Lower", "Coastal", "Inland", "Royal", "Village", "Old Town",
    "Riverside", "Highland", "Lakeside", "Border", "Island", "Central", "Valley", "Harbour", "Forest",
)  # fmt: skip
FIRST = (
    "Amber", "Birch", "Copper", "Dapple", "Ember", "Fallow", "Granite", "Hazel", "Ivory", "Juniper", "Kestrel",
    "Linden", "Maple", "Nettle", "Ochre", "Pewter", "Quartz", "Rowan", "Sable", "Thistle", "Umber",
    "Violet", "Willow", "Yarrow",
)  # fmt: skip
LAST = (
    "Acre", "Bank", "Cross", "Dene", "Edge", "Fold", "Gate", "Hollow", "Isle", "Junction", "Knoll", "Landing", "Mead",
    "Nook", "Oaks", "Point", "Quay", "Ridge", "Steps", "Terrace", "Vale", "Wharf",
)  # fmt: skip
COUNTIES = ("Aldshire", "Brackmoor", "Cressley", "Dunmarch", "Eskford", "Farnwold", "Glenmere")
# theme: (plural, name column, text columns with their values, number columns with their ranges)
THEMES = (
    ("Orchards", "Orchard", {"Fruit": "apple,pear,plum,cherry,quince"}, {"Trees": (40, 900), "Planted": (1901, 1999)}),
    ("Ferries", "Ferry", {"Crossing": "lake,river,strait,bay"}, {"Seats": (20, 400), "Built": (1920, 2010)}),
    ("Windmills", "Windmill", {"Type": "post,smock,tower"}, {"Height (ft)": (30, 120), "Opened": (1700, 1890)}),
    ("Museums", "Museum", {"Subject": "coins,clocks,trains,glass"}, {"Visitors": (100, 9000), "Rooms": (3, 60)}),
    ("Bridges", "Bridge", {"Material": "stone,iron,timber,steel"}, {"Length": (12, 800), "Year": (1750, 2005)}),
    ("Chess Clubs", "Club", {"Division": "first,second,third"}, {"Members": (8, 150), "Points": (0, 60)}),
    ("Bakeries", "Bakery", {"Speciality": "rye bread,fruit tart,oat cake"}, {"Loaves": (60, 900), "Staff": (2, 40)}),
    ("Lighthouses", "Lighthouse", {"Light": "white,red,green"}, {"Steps": (40, 300), "First lit": (1780, 1950)}),
)


def items(split: str, n: int, seed: int) -> list[dict]:
    """`n` practice items of a split, as `benchmark.load` gives the benchmark's; gold is SQL for questions too."""
    return build_items("db", split, n, seed, _draw)


def _draw(rng: random.Random, test: bool) -> dict | None:
    plural, key, texts, numbers = rng.choice(THEMES)
    table = f"{rng.choice(REGIONS)} {plural} {rng.randint(1950, 2020)}"
    if reserved("table", table) != test:
        return None
    texts = {"County": COUNTIES, **{column: values.split(",") for column, values in texts.items()}}
    columns = [key, *rng.sample([*texts, *numbers], len(texts) + len(numbers))]
    count = rng.choice(ROWS)
    names = _names(rng, test, count + 1)
    # Numbers differ from row to row, so that the first and the last are unique.
    drawn = {c: rng.sample(range(*numbers[c]), count + 1) if c in numbers else None for c in columns}
    made = [
        [names[i], *(str(drawn[c][i]) if drawn[c] else rng.choice(texts[c]) for c in columns[1:])]
        for i in range(count + 1)
    ]
    *rows, spare = made
    kind = rng.choice(TYPES)
    world = _World(rng, table, columns, rows, spare, list(texts), list(numbers))
    task = _KINDS[kind.partition("-")[0]](world, kind)
    if task is None:
        return None
    changes = kind in ("INSERT", "UPDATE", "DELETE")
    description, gold, wanted = task
    return {
        "kind": kind if changes else "SELECT",
        "type": kind,
        "description": description,
        "add_description": f"The table is {table}; its columns are {', '.join(columns)}.",
        "table": table,
        "columns": columns,
        "rows": rows,
        "gold": gold,
        **({"answer_md5": table_hash(wanted)} if changes else {"label": wanted}),
    }


def _names(rng: random.Random, test: bool, count: int) -> list[str]:
    names: dict[str, None] = {}
    while len(names) < count:
        first, last = rng.choice(FIRST), rng.choice(LAST)
        if reserved("name", first, last) == test:
            names[f"{first} {last}"] = None
    return list(names)


class _World:
    """One table, and what questions about it need."""

    def __init__(self, rng, table, columns, rows, spare, texts, numbers) -> None:
        self.rng, self.columns, self.rows, self.spare = rng, columns, rows, spare
        self.table, self.texts, self.numbers = quoted(table), texts, numbers
        self.key = columns[0]

    def values(self, column: str) -> list[str]:
        place = self.columns.index(column)
        return [row[place] for row in self.rows]

    def where(self, column: str, test: Callable[[str], bool]) -> list[list[str]]:
        place = self.columns.index(column)
        return [row for row in self.rows if test(row[place])]


Task = tuple[str, str, list] | None


def _other(w: _World, _: str) -> Task:
    row, column = w.rng.choice(w.rows), w.rng.choice(w.columns[1:])
    question = w.rng.choice(("What is the {} of {}?", "Which {} does the table give for {}?"))
    gold = f"SELECT {quoted(column)} FROM {w.table} WHERE {quoted(w.key)} = '{row[0]}'"
    return question.format(column, row[0]), gold, [row[w.columns.index(column)]]


def _counting(w: _World, _: str) -> Task:
    column = w.rng.choice(w.texts)
    value = w.rng.choice(w.values(column))
    found = w.where(column, lambda x: x == value)
    gold = f"SELECT COUNT(*) FROM {w.table} WHERE {quoted(column)} = '{value}'"
    return f"How many rows have '{value}' as their {column}?", gold, [str(len(found))]


def _comparison(w: _World, _: str) -> Task:
    column = w.rng.choice(w.numbers)
    bound = int(w.rng.choice(w.values(column)))
    found = [row[0] for row in w.where(column, lambda x: int(x) > bound)]
    if not 1 < len(found) < 8:
        return None
    gold = f"SELECT {quoted(w.key)} FROM {w.table} WHERE {quoted(column)} > {bound}"
    return f"List each {w.key} whose {column} is greater than {bound}.", gold, found


def _pattern(w: _World, _: str) -> Task:
    start = w.rng.choice(w.rows)[0].split()[0]
    found = [row[0] for row in w.where(w.key, lambda x: x.startswith(start + " "))]
    gold = f"SELECT {quoted(w.key)} FROM {w.table} WHERE {quoted(w.key)} LIKE '{start} %'"
    return f"List each {w.key} whose name begins with the word {start}.", gold, found


def _ranking(w: _World, _: str) -> Task:
    column, most = w.rng.choice(w.numbers), w.rng.random() < 0.5
    pick = max if most else min
    place = w.columns.index(column)
    best = pick(w.rows, key=lambda row: int(row[place]))
    order = f"CAST({quoted(column)} AS SIGNED) {'DESC' if most else 'ASC'}"
    gold = f"SELECT {quoted(w.key)} FROM {w.table} ORDER BY {order} LIMIT 1"
    return f"Which {w.key} has the {'highest' if most else 'lowest'} {column}?", gold, [best[0]]


def _aggregation(w: _World, kind: str) -> Task:
    name, column = kind.partition("-")[2], w.rng.choice(w.numbers)
    numbers = [int(value) for value in w.values(column)]
    result = {"SUM": sum, "MIN": min, "MAX": max, "AVG": lambda x: sum(x) / len(x)}[name](numbers)
    words = {"SUM": "total", "MIN": "smallest", "MAX": "largest", "AVG": "average"}[name]
    gold = f"SELECT {name}(CAST({quoted(column)} AS SIGNED)) FROM {w.table}"
    return f"What is the {words} {column} over all rows?", gold, [str(result)]


def _insert(w: _World, _: str) -> Task:
    told = ", ".join(f"{column} '{value}'" for column, value in zip(w.columns, w.spare, strict=True))
    names, values = ", ".join(map(quoted, w.columns)), ", ".join(f"'{value}'" for value in w.spare)
    gold = f"INSERT INTO {w.table} ({names}) VALUES ({values})"
    return f"Add a row with {told}.", gold, [*w.rows, w.spare]


def _update(w: _World, _: str) -> Task:
    row, column = w.rng.choice(w.rows), w.rng.choice(w.columns[1:])
    place = w.columns.index(column)
    value = w.spare[place]
    if value == row[place]:
        return None
    gold = f"UPDATE {w.table} SET {quoted(column)} = '{value}' WHERE {quoted(w.key)} = '{row[0]}'"
    wanted = [[value if r is row and i == place else x for i, x in enumerate(r)] for r in w.rows]
    return f"Change the {column} of {row[0]} to '{value}'.", gold, wanted


def _delete(w: _World, _: str) -> Task:
    row = w.rng.choice(w.rows)
    gold = f"DELETE FROM {w.table} WHERE {quoted(w.key)} = '{row[0]}'"
    return f"Remove {row[0]} from the table.", gold, [r for r in w.rows if r is not row]


_KINDS: dict[str, Callable[[_World, str], Task]] = {
    "other": _other, "counting": _counting, "comparison": _comparison, "pattern": _pattern, "ranking": _ranking,
    "aggregation": _aggregation, "INSERT": _insert, "UPDATE": _update, "DELETE": _delete,
}  # fmt: skip
