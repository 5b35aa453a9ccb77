"""A chain of verbs, as the launchers of slurm/ and jobs/ take it: one command, then others that wait for it.

    VERB RECIPE [words of VERB] [--then VERB [its words]]...

`python -m agenttuning.chain CHAIN` refuses what could not run, before a machine is queued for or paid, lists the steps
on stderr and prints them for a shell's `mapfile -d ''`: of each the number of its words, then the words. Every step is
a command that anybody can type: it gets the recipe, and the first one's overrides and --run-dir, which decide where a
run lies.
"""

from __future__ import annotations

import json
import shlex
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass

from agenttuning.chat.show import escape
from agenttuning.errors import UserError

THEN = "--then"
# Verbs that write to the Hub, and the keys of `publish` of which one at least must say where to.
WRITES = {"push": ("hub_model_id", "hub_dataset_id", "hub_traces_id"), "push-data": ("hub_dataset_id",)}
MANY = ("ablation", "eta-scan")  # verbs that write several runs
ANSWER_SECONDS = 10.0  # for the Hub to say whose the token is


@dataclass(frozen=True)
class Step:
    """One command: a verb and its words, the recipe first."""

    verb: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(["agenttuning", self.verb, *self.words])


def steps(chain: list[str]) -> list[Step]:
    """The steps of a chain. Raises UserError for an empty one, an unknown verb, and words that a verb does not take."""
    groups: list[list[str]] = [[]]
    for word in chain:
        if word == THEN:
            groups.append([])
        else:
            groups[-1].append(word)
    if not all(groups) or len(groups[0]) < 2:
        raise UserError("a chain is VERB RECIPE [words] [--then VERB [words]]...; here a verb or the recipe is missing")
    (verb, recipe, *own), *later = groups
    first = _parsed(verb, [recipe, *own])
    shared = [word for word in first.overrides if "=" in word]
    place = ["--run-dir", first.run_dir] if first.run_dir else []
    found = [Step(verb, (recipe, *own))]
    for verb, *words in later:
        found.append(Step(verb, (recipe, *shared, *words, *place)))
        _parsed(verb, list(found[-1].words))
    return found


def _parsed(verb: str, words: list[str]):
    from agenttuning.cli import parse

    try:
        said = parse(verb, words)
    except SystemExit as ended:
        raise UserError(f"`agenttuning {verb}` does not take {shlex.join(words)}; nothing was started") from ended
    if not hasattr(said, "recipe"):
        raise UserError(f"a step of a chain takes a recipe, and `agenttuning {verb}` has none; run it by itself")
    return said


def check(chain: list[str], one_run: bool = False) -> list[Step]:
    """The steps, when the recipe loads and what they write to is set. one_run: where only the recipe's own run folder
    outlives the machine. Raises UserError.
    """
    from agenttuning.recipe import load

    found = steps(chain)
    if one_run and (many := [step.verb for step in found if step.verb in MANY]):
        raise UserError(
            f"{many[0]} writes a run for every variant, and one folder is kept of this job; run it elsewhere"
        )
    for step in found:
        said = _parsed(step.verb, list(step.words))
        # the folder that export writes is the one word without a key; any other would end its job after the queue
        words = [word for word in said.overrides if "=" in word or step.verb != "export"]
        recipe = load(said.recipe, words, said.run_dir)
        keys = WRITES.get(step.verb, ())
        if not keys or getattr(said, "dry", False):
            continue
        if not any(getattr(recipe.publish, key, None) for key in keys):
            raise UserError(f"{step.verb} has nowhere to write to; add publish.{keys[0]}=owner/name")
        print(may_write(), file=sys.stderr, flush=True)
    return found


def may_write() -> str:
    """A line on what the Hub says about the user's token. Raises UserError where there is none, where the Hub does not
    know it, and where it may only read.
    """
    from agenttuning import preflight

    token = preflight.find_token()
    want = "a push needs a token that may write: `hf auth login`, or HF_TOKEN"
    if token is None:
        raise UserError(f"no Hub token was found, and {want}; nothing was started")
    host = preflight.endpoint()
    request = urllib.request.Request(f"{host}/api/whoami-v2")
    request.add_unredirected_header("Authorization", f"Bearer {token}")  # the token must not travel to another host
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
            who = json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise UserError(f"{host} does not accept the token, and {want}; nothing was started") from None
        return f"the Hub could not say whether the token may write (HTTP {error.code}); the push will tell"
    except (OSError, ValueError):
        return f"{host} gave no answer: whether the token may write, the push will tell"
    role = who.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise UserError(f"the Hub says that the token may only read, and {want}; nothing was started")
    fine = "; a fine-grained one must have the right to write to that very repository" if role == "fineGrained" else ""
    return f"pushes as {escape(str(who.get('name')))}, token {escape(str(role))}{fine}"


def main(argv: list[str]) -> int:
    """[--one-run] CHAIN; the exit status."""
    one_run = argv[:1] == ["--one-run"]
    try:
        found = check(argv[one_run:], one_run)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    for number, step in enumerate(found, 1):
        print(f"{number}. {escape(str(step))}", file=sys.stderr)
        words = [step.verb, *step.words]
        sys.stdout.write("".join(f"{word}\0" for word in (len(words), *words)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
