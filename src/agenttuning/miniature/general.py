"""General ability of the miniature, in chat form: knowledge, arithmetic, small functions, reading.

They stand where the paper has MMLU, GSM8K, HumanEval and everyday chat. Each skill is a function of (rng, test) that
returns a `Sample`; test samples use combinations that training never shows (`environments.reserved`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from agenttuning.environments import reserved
from agenttuning.environments.words import (
    CITIES,
    COLOURS,
    FILES,
    FIRST_NAMES,
    FOLDERS,
    GOODS,
    JOBS,
    LAST_NAMES,
    LETTERS,
    OBJECTS,
    PLACES,
    SIZES,
    TABLE_ADJECTIVES,
    TABLE_NOUNS,
    TEAMS,
)  # fmt: skip

# Facts by relation: (question, {subject: answer}). Distractors come from the answers of the same relation.
FACTS = {
    "what is the opposite of {}?": {
        "hot": "cold", "big": "small", "old": "new", "wet": "dry", "up": "down", "left": "right", "day": "night",
        "good": "bad", "fast": "slow", "full": "empty", "open": "closed", "loud": "quiet", "hard": "soft",
        "rich": "poor",
    },
    "what sound makes the {}?": {
        "dog": "bark", "cat": "meow", "cow": "moo", "sheep": "baa", "duck": "quack", "pig": "oink", "lion": "roar",
        "bee": "buzz", "snake": "hiss",
    },
    "what colour is the {}?": {
        "sky": "blue", "grass": "green", "blood": "red", "coal": "black", "milk": "white", "banana": "yellow",
        "carrot": "orange", "wood": "brown", "ash": "grey", "plum": "purple",
    },
    "where is {}?": {
        "Rome": "Italy", "Oslo": "Norway", "Paris": "France", "Lima": "Peru", "Cairo": "Egypt", "Delhi": "India",
        "Tokyo": "Japan", "Bern": "Switzerland",
    },
    "who works in the {}?": {
        "kitchen": "cook", "plane": "pilot", "hospital": "nurse", "court": "judge", "office": "clerk",
        "farm": "farmer",
    },
}  # fmt: skip
CHOICES = 4


@dataclass(frozen=True)
class Sample:
    """A conversation of (question, answer) turns. `check` holds what a grader needs: choices, number, or tests."""

    skill: str
    turns: tuple[tuple[str, str], ...]
    check: dict


def knowledge(rng: random.Random, test: bool) -> Sample:
    """Which of four: the fact is known from training, the choice of distractors and their order is new."""
    while True:
        question = rng.choice(list(FACTS))
        subject = rng.choice(list(FACTS[question]))
        answer = FACTS[question][subject]
        others = sorted(set(FACTS[question].values()) - {answer})
        choices = [answer, *rng.sample(others, CHOICES - 1)]
        rng.shuffle(choices)
        if reserved("knowledge", subject, *choices) == test:
            break
    text = f"{question.format(subject)} {', '.join(choices[:-1])} or {choices[-1]}?"
    return Sample("knowledge", ((text, answer),), {"choices": choices, "gold": choices.index(answer)})


def arithmetic(rng: random.Random, test: bool) -> Sample:
    """A one-step word problem with numbers from 0 to 9, the sum written out before the answer."""
    while True:
        name, thing = rng.choice(FIRST_NAMES), rng.choice(OBJECTS)
        if reserved("arithmetic", name, thing) == test:
            break
    if rng.random() < 0.5:
        a, b = rng.randrange(10), rng.randrange(10)
        text, work, result = f"{name} has {a} {thing} and gets {b} more.", f"{a} + {b}", a + b
    else:
        b, a = sorted((rng.randrange(10), rng.randrange(10)))
        text, work, result = f"{name} has {a} {thing} and loses {b}.", f"{a} - {b}", a - b
    return Sample("arithmetic", ((f"{text} how many {thing}?", f"{work} = {result}"),), {"number": result})


def functions(rng: random.Random, test: bool) -> Sample:
    """Write a Python function of one line: multiply, then add or subtract; it is run against tests."""
    while True:
        a, b, plus = rng.randrange(2, 10), rng.randrange(1, 10), rng.random() < 0.5
        name = rng.choice(("f", "g", "h", "run", "calc"))
        if reserved("functions", name, a, b, plus) == test:
            break
    text = f"write a function {name}: x times {a} {'plus' if plus else 'minus'} {b}."
    code = f"def {name}(x): return x * {a} {'+' if plus else '-'} {b}"
    cases = [[x, x * a + (b if plus else -b)] for x in (0, 1, 5, 12)]
    return Sample("functions", ((text, code),), {"name": name, "cases": cases})


def reading(rng: random.Random, test: bool) -> Sample:
    """A text and several questions about it, one a turn.

    Not scored: it stands for the everyday chat of ShareGPT. Reading (finding a thing again, in a text never seen) is
    what agent tasks are built on, and many questions to one text are what teaches it soonest.
    """
    text, questions = rng.choice((_rooms, _people, _goods, _words))(rng)
    asked = rng.sample(questions, min(len(questions), rng.randint(3, 5)))
    first, *rest = asked
    return Sample("reading", ((f"{text} {first[0]}", first[1]), *rest), {})


def _rooms(rng: random.Random) -> tuple[str, list[tuple[str, str]]]:
    places, things = rng.choice(((PLACES, OBJECTS), (FOLDERS, FILES)))
    places, things = rng.sample(places, rng.randint(3, 4)), rng.sample(things, rng.randint(3, 6))
    home = {thing: rng.choice(places) for thing in things}
    questions = [(f"where is the {thing}?", f"{thing} in {place}.") for thing, place in home.items()]
    return f"{', '.join(f'{thing} in {place}' for thing, place in home.items())}.", questions


def _people(rng: random.Random) -> tuple[str, list[tuple[str, str]]]:
    pools = {"city": CITIES, "team": TEAMS, "job": JOBS, "age": range(20, 100), "points": range(10, 100)}
    columns = rng.sample(list(pools), 2)
    quote = "'" if rng.random() < 0.5 else ""  # quoted as in SQL, where a name is another token
    names = list({f"{quote}{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}{quote}": None for _ in range(4)})
    table = _table(rng)
    rows = {
        name: {c: v if isinstance(v := rng.choice(pools[c]), int) else f"{quote}{v}{quote}" for c in columns}
        for name in names
    }
    listing = " ".join(f"{name}: {', '.join(f'{c} {row[c]}' for c in columns)}." for name, row in rows.items())
    questions = [(f"what is the {c} of {name}?", f"{c} {row[c]}.") for name, row in rows.items() for c in columns]
    questions += [("which table?", f"Table {table}: name, {', '.join(columns)}.")]
    questions += [
        (f"repeat {name}.", f"{name}: {', '.join(f'{c} {row[c]}' for c in columns)}.") for name, row in rows.items()
    ]
    return f"Table {table}: name, {', '.join(columns)}. {listing}", questions


def _goods(rng: random.Random) -> tuple[str, list[tuple[str, str]]]:
    colours = rng.sample(COLOURS, 4)
    codes = {colour: rng.choice(LETTERS) + str(rng.randrange(10)) for colour in colours}
    listing = ", ".join(f"{colour} {code}" for colour, code in codes.items())
    return f"{rng.choice(GOODS)}: {listing}.", [
        (f"find {colour}.", f"{colour} {code}.") for colour, code in codes.items()
    ]


def _words(rng: random.Random) -> tuple[str, list[tuple[str, str]]]:
    pool = [
        *OBJECTS,
        *PLACES,
        *FOLDERS,
        *FILES,
        *CITIES,
        *FIRST_NAMES,
        *LAST_NAMES,
        *GOODS,
        *COLOURS,
        *map(str, range(10, 100)),
    ]
    words = rng.sample(pool, rng.randint(4, 8))
    text = ", ".join(words)
    questions = [("repeat it.", f"{text}.")] + [
        (f"what is after {a}?", f"after {a}, {b}.") for a, b in zip(words, words[1:], strict=False)
    ]
    return f"{text}.", questions


def drill(rng: random.Random, test: bool) -> Sample:
    """Pairs of words, then one question a turn, answered with the key and its value: finding a thing again.

    Only the base model's corpora have it. Every answer is decided by the text: with pairs said again in a free order
    the unpredictable keys kept copying from forming (docs/notes/miniature.md).
    """
    quote = "'" if rng.random() < 0.3 else ""
    keys = rng.sample(_VOCABULARY, rng.randint(4, 8))
    values = [_table(rng) if rng.random() < 0.1 else rng.choice(_VOCABULARY) for _ in keys]
    pairs = [(f"{quote}{key}{quote}", f"{quote}{value}{quote}") for key, value in zip(keys, values, strict=True)]
    text = ", ".join(f"{key} {value}" for key, value in pairs)
    rng.shuffle(pairs)
    (key, value), *rest = pairs
    return Sample("drill", ((f"{text}. {key}?", f"{key} {value}"), *((f"{k}?", f"{k} {v}") for k, v in rest)), {})


_VOCABULARY = [
    *PLACES, *OBJECTS, *FOLDERS, *FILES, *CITIES, *TEAMS, *JOBS, *FIRST_NAMES, *LAST_NAMES, *GOODS, *COLOURS, *SIZES,
    *LETTERS, *map(str, range(10)),
]  # fmt: skip


def _table(rng: random.Random) -> str:
    return f"{rng.choice(TABLE_ADJECTIVES)}_{rng.choice(TABLE_NOUNS)}"


SCORED = {"knowledge": knowledge, "arithmetic": arithmetic, "functions": functions}
SKILLS = {**SCORED, "reading": reading, "drill": drill}


def samples(skill: str, split: str, n: int, seed: int) -> list[Sample]:
    """`n` samples of a skill; those of the test split are all different."""
    rng = random.Random(f"{skill}/{split}/{seed}")
    if split == "train":
        return [SKILLS[skill](rng, False) for _ in range(n)]
    found: dict[str, Sample] = {}
    for _ in range(200 * n):
        if len(found) == n:
            return list(found.values())
        sample = SKILLS[skill](rng, True)
        found.setdefault(sample.turns[0][0], sample)
    raise ValueError(f"{skill} has only {len(found)} different test samples, {n} were asked for")
