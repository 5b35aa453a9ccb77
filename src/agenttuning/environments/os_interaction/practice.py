"""Practice items of the os task, from a generator: questions about a machine, and work to be done on it.

They are AgentBench's kinds of problem in our own words and with our own files, and none of its items. Each family below
draws a small machine, a question, the commands that solve it, and a rule that judges; the rule recomputes the answer in
the machine, or looks at what was left. Training and test never share what a question names: folder, word or both.
"""

from __future__ import annotations

import random
import shlex
from collections.abc import Callable

from agenttuning.environments import build_items, reserved
from agenttuning.environments.words import CITIES, FIRST_NAMES, GOODS

PLACES = ("projects", "archive", "reports", "station", "workshop", "library", "harbour", "studio", "market", "garden")
TOPS = ("/root", "/srv", "/opt", "/var/lib", "/home")
STEMS = (
    "alpha", "anchor", "basalt", "birch", "cinder", "copper", "delta", "ember", "falcon", "glacier", "heron", "indigo",
    "juniper", "kestrel", "lagoon", "maple", "nimbus", "onyx", "pepper", "quartz", "raven", "saffron", "thistle",
    "umber",
)  # fmt: skip
ENDINGS = ("txt", "log", "csv", "conf", "dat", "sh")
LEVELS = ("INFO", "WARN", "ERROR")

# `null` runs the example script; its output is the second argument. White space does not count.
SAME = ["bash", '[ "${1//[[:space:]]/}" = "${2//[[:space:]]/}" ]']


def items(split: str, n: int, seed: int) -> list[dict]:
    """`n` items of "train" or "test"; the same for the same seed on every machine. Raises ValueError for too many."""
    return build_items("os", split, n, seed, _draw)


def _draw(rng: random.Random, test: bool) -> dict | None:
    name = rng.choice(list(FAMILIES))
    folder = f"{rng.choice(TOPS)}/{rng.choice(PLACES)}"
    word = rng.choice(STEMS)
    if reserved("os", name, "" if name in BY_WORD else folder, "" if name in BY_FOLDER else word) != test:
        return None
    item = {"image": "default", "start": None, "match": None, "check": None, "example": None, "labels": [name]}
    return item | FAMILIES[name](rng, folder, word)


def _question(text: str, init: str, example: str, thought: str) -> dict:
    return {
        "description": text,
        "init": [["bash", init]],
        "check": [None, SAME],
        "example": ["bash", example],
        "solution": [[thought, example]],
    }


def _work(text: str, init: str, check: str, steps: list[list[str]]) -> dict:
    return {
        "description": text,
        "init": [["bash", init]],
        "check": [["bash", check]],
        "solution": steps,
        "silent": True,
    }


def _files(rng: random.Random, folder: str, names: list[str]) -> tuple[str, list[str]]:
    """Commands that make the files, some of them in a subfolder, and their paths."""
    below = [f"{folder}/{sub}" for sub in rng.sample(STEMS, 2)]
    paths = [f"{rng.choice([folder, *below])}/{name}" for name in names]
    lines = [f"mkdir -p {folder} {' '.join(below)}"]
    for name, path in zip(names, paths, strict=True):
        lines.append(f"printf '%{rng.randint(5, 60)}s\\n' {name.split('.')[0]} > {path}")
    return "\n".join(lines), paths


def _count_files(rng: random.Random, folder: str, word: str) -> dict:
    ending, other = rng.sample(ENDINGS, 2)
    wanted = [f"{stem}.{ending}" for stem in rng.sample(STEMS, rng.randint(4, 12))]
    init, _ = _files(rng, folder, [*wanted, f"{word}.{other}", *(f"{s}.{other}" for s in rng.sample(STEMS, 5))])
    text = rng.choice((
        f"How many files with the ending .{ending} are in {folder} and its subfolders?",
        f"Count the .{ending} files under {folder}, at any depth. Answer with the number.",
    ))  # fmt: skip
    example = f"find {folder} -type f -name '*.{ending}' | wc -l"
    return _question(text, init, example, f"I count the .{ending} files below {folder} with find.")


def _find_text(rng: random.Random, folder: str, word: str) -> dict:
    names = [f"{stem}.{rng.choice(ENDINGS)}" for stem in rng.sample(STEMS, 8) if stem != word]
    init, paths = _files(rng, folder, names)
    secret = f"{word}-{rng.randint(1000, 9999)}"
    init += f"\necho 'the word is {secret}.' >> {rng.choice(paths)}"
    text = rng.choice((
        f"One file somewhere under {folder} contains the text {secret}. Tell me its full path.",
        f"Which file below {folder} holds the text {secret}? Answer with its full path.",
    ))  # fmt: skip
    return _question(text, init, f"grep -rlF {secret} {folder} --color=never", "grep can look through all the files.")


def _largest(rng: random.Random, folder: str, word: str) -> dict:
    names = [f"{stem}.{rng.choice(ENDINGS)}" for stem in rng.sample(STEMS, 7) if stem != word]
    sizes = rng.sample(range(100, 9000), len(names))
    sized = zip(names, sizes, strict=True)
    lines = [f"head -c {size} /dev/zero | tr '\\0' x > {folder}/{name}" for name, size in sized]
    init = "\n".join([f"mkdir -p {folder}/{word}", *lines])
    text = rng.choice((
        f"Which file in {folder} is the largest? Answer with its name, without the folder.",
        f"Find the biggest file that lies directly in {folder} and tell me its name (no path).",
    ))  # fmt: skip
    example = f"find {folder} -maxdepth 1 -type f -printf '%s %f\\n' | sort -n | tail -1 | cut -d' ' -f2"
    return _question(text, init, example, "I list the sizes, sort them and take the last.")


def _log(rng: random.Random, folder: str, word: str) -> dict:
    people = rng.sample(FIRST_NAMES, 4)
    lines = [f"{rng.choice(LEVELS)} {rng.choice(people)} {rng.choice(GOODS)}" for _ in range(rng.randint(40, 90))]
    level, person = lines[0].split()[:2]
    init = f"mkdir -p {folder}\nprintf '%s\\n' {' '.join(map(shlex.quote, lines))} > {folder}/{word}.log"
    text = rng.choice((
        f"Each line of {folder}/{word}.log is a level, a name and a thing. How many lines have level {level} and name "
        f"{person}?",
        f"{folder}/{word}.log has lines of the form LEVEL NAME THING. Count the {level} lines of {person}.",
    ))  # fmt: skip
    return _question(text, init, f"grep -c '^{level} {person} ' {folder}/{word}.log", "grep -c counts such lines.")


def _total(rng: random.Random, folder: str, word: str) -> dict:
    cities = rng.sample(CITIES, 3)
    rows = [f"{rng.choice(cities)},{rng.choice(GOODS)},{rng.randint(1, 99)}" for _ in range(rng.randint(12, 30))]
    city = rows[0].split(",")[0]
    init = f"mkdir -p {folder}\nprintf '%s\\n' city,thing,amount {' '.join(rows)} > {folder}/{word}.csv"
    text = rng.choice((
        f"{folder}/{word}.csv has the columns city, thing and amount. What is the sum of the amounts of {city}?",
        f"Add up the last column of {folder}/{word}.csv over the rows of the city {city}. Answer with the number.",
    ))  # fmt: skip
    example = f"awk -F, '$1 == \"{city}\" {{ total += $3 }} END {{ print total }}' {folder}/{word}.csv"
    return _question(text, init, example, "awk can add up the column for that city.")


def _processes(rng: random.Random, folder: str, word: str) -> dict:
    number = rng.randint(4, 9)
    other = rng.choice([stem for stem in STEMS if stem != word])
    copies = f"mkdir -p {folder}\ncp /usr/bin/sleep {folder}/{word}\ncp /usr/bin/sleep {folder}/{other}"
    start = f"for i in $(seq {number}); do {folder}/{word} 600 > /dev/null 2>&1 & done; {folder}/{other} 600 &"
    text = rng.choice((
        f"How many processes of the program {word} are running?",
        f"Somebody started the program {word} several times. Tell me how many of its processes are running now.",
    ))  # fmt: skip
    return _question(text, f"{copies}\n{start}", f"pgrep -x -c {word}", "pgrep counts processes by name.")


def _users(rng: random.Random, folder: str, word: str) -> dict:
    shells = rng.choices(("/bin/bash", f"/bin/{word}"), k=rng.randint(6, 10))
    names = rng.sample([name.lower() for name in FIRST_NAMES], len(shells))
    lines = [f"{name}:x:{3000 + i}:100::{folder}/{name}:{shells[i]}" for i, name in enumerate(names)]
    shell = shells[0]
    init = f"printf '%s\\n' {' '.join(lines)} >> /etc/passwd"
    text = rng.choice((
        f"How many users have their home directly in {folder} and {shell} as login shell?",
        f"Count the users of this machine whose home lies in {folder} and whose login shell is {shell}.",
    ))  # fmt: skip
    example = f"getent passwd | grep -c ':{folder}/[^:/]*:{shell}$'"
    return _question(text, init, example, "The homes and shells are in the user database.")


def _variable(rng: random.Random, folder: str, word: str) -> dict:
    name, value = f"{word.upper()}_HOME", f"{folder}/{rng.choice(STEMS)}-{rng.randint(10, 99)}"
    text = rng.choice((
        f"What is the value of the environment variable {name}?",
        f"Tell me what {name} is set to in your shell.",
    ))  # fmt: skip
    return {
        "description": text,
        "init": [["bash", f"echo 'export {name}={value}' >> /root/.profile"]],
        "match": {"answer": value, "strip": True},
        "solution": [["I print the variable.", f'echo "${name}"']],
    }


def _permissions(rng: random.Random, folder: str, word: str) -> dict:
    ending, other = rng.sample(ENDINGS, 2)
    names = [f"{word}.{ending}", *(f"{stem}.{rng.choice((ending, other))}" for stem in rng.sample(STEMS, 6))]
    init, _ = _files(rng, folder, names)
    init += f"\nfind {folder} -type f -exec chmod 664 {{}} +"
    mode, meaning = rng.choice((
        ("600", "only their owner can read and write them, and nobody can do anything else"),
        ("444", "everybody can read them and nobody has any other right"),
        ("750", "their owner can do everything, their group can read and run them, and others nothing"),
    ))  # fmt: skip
    text = f"Set the permissions of all .{ending} files in {folder} and its subfolders so that {meaning}. "
    text += "Leave all other files as they are."
    check = (
        f'[ -z "$(find {folder} -type f -name \'*.{ending}\' ! -perm {mode})" ] && [ -f "$(find {folder} -name '
        f"'{word}.{ending}' -print -quit)\" ] && [ -z \"$(find {folder} -type f ! -name '*.{ending}' ! -perm 664)\" ]"
    )
    steps = [
        ["find can hand the files to chmod.", f"find {folder} -type f -name '*.{ending}' -exec chmod {mode} {{}} +"],
        # not `ls -l`: it shows the time of the run, and the same seeds are to give the same bytes
        ["I look whether it worked.", f"find {folder} -type f -name '*.{ending}' -printf '%m %p\\n' | sort"],
    ]
    return _work(text, init, check, steps)


def _move(rng: random.Random, folder: str, word: str) -> dict:
    ending, other = rng.sample(ENDINGS, 2)
    moved, kept = rng.sample(STEMS, 5), rng.sample(STEMS, 4)
    names = [*(f"{stem}.{ending}" for stem in moved), *(f"{stem}.{other}" for stem in kept)]
    init = f"mkdir -p {folder}\n" + "\n".join(f"echo {name} > {folder}/{name}" for name in names)
    target = f"{folder}/{word}"
    text = rng.choice((
        f"Move every .{ending} file of {folder} into a new folder {target}. Leave the other files where they are.",
        f"Make the folder {target} and put all files of {folder} that end in .{ending} there; the rest stays.",
    ))  # fmt: skip
    stay = " && ".join(f"[ -f {folder}/{stem}.{other} ]" for stem in kept)
    gone = " && ".join(
        f'[ ! -e {folder}/{stem}.{ending} ] && [ "$(cat {target}/{stem}.{ending})" = {stem}.{ending} ]'
        for stem in moved
    )
    steps = [["I make the folder and move the files.", f"mkdir -p {target} && mv {folder}/*.{ending} {target}/"]]
    return _work(text, init, f"{stay} && {gone}", steps)


def _command(rng: random.Random, folder: str, word: str) -> dict:
    says, body, wanted = rng.choice((
        ("the number of words in it", 'wc -w < "$1"', "5"),
        ("the number of lines in it", 'wc -l < "$1"', "3"),
        ("its first line", 'head -n 1 "$1"', "one two"),
        ("its lines in the opposite order", 'tac "$1"', "five\nthree four\none two"),
    ))  # fmt: skip
    text = rng.choice((
        f"Make a command {word}, which can be called from any folder: `{word} FILE` prints {says}. "
        f"{folder}/sample.txt is a file to try it on.",
        f"I need a new command called {word}. It gets the path of a file and prints {says}, and it must work "
        f"wherever I am. You can test it with {folder}/sample.txt.",
    ))  # fmt: skip
    init = f"mkdir -p {folder}\nprintf 'a b c\\nd e\\n' > {folder}/sample.txt"
    check = (
        "printf 'one two\\nthree four\\nfive\\n' > /tmp/checked.txt && cd / && "
        f'[ "$({word} /tmp/checked.txt)" = {shlex.quote(wanted)} ]'
    )
    script = f"cat > /usr/local/bin/{word} <<'END'\n#!/bin/bash\n{body}\nEND\nchmod +x /usr/local/bin/{word}"
    steps = [
        ["A script in /usr/local/bin can be called from anywhere.", script],
        ["I try it.", f"{word} {folder}/sample.txt"],
    ]
    return _work(text, init, check, steps)


# What the question of a family names; the others name both. It is what tells training from test.
BY_WORD = ("processes", "variable")
BY_FOLDER = ("count files", "largest file", "users", "permissions")
FAMILIES: dict[str, Callable[[random.Random, str, str], dict]] = {
    "count files": _count_files,
    "find text": _find_text,
    "largest file": _largest,
    "log": _log,
    "sum": _total,
    "processes": _processes,
    "users": _users,
    "variable": _variable,
    "permissions": _permissions,
    "move": _move,
    "command": _command,
}
