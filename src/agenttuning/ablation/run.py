"""Train and judge the variants of a recipe, and compare them: `agenttuning ablation` and `agenttuning eta-scan`.

The cost comes first, and what cannot be scored here. Every run resumes: the same command goes on where it ended, and
what is finished is not made again. A step that fails ends its variant, not the others; it is told at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from agenttuning import run_record
from agenttuning.ablation import cost, judging, outcome, steps, text
from agenttuning.ablation.variants import Variant, kinds, lacking, only, scan, variants
from agenttuning.errors import UserError
from agenttuning.recipe import Recipe, Source
from agenttuning.stopping import stoppable

UNITS = {True: ("mean scores x 100 over the tasks of a group", 1), False: ("overall scores of the paper", 2)}

HOPELESS = (
    "nothing of this can be scored here (above), so days of training would end in no comparison; give what the "
    "evaluations lack, or train alone with --train-only: each run can be judged by itself, e.g. behind a server, and "
    "--compare-only puts together what is there"
)


@dataclass(frozen=True)
class Options:
    """What the command line said. etas: those of a scan, or () for the ablations; seeds: () for the recipe's own;
    names: of variants, () for all; data: {source: path}; given: {verb: the words for it}.
    """

    etas: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    data: Mapping[str, Path] = field(default_factory=dict)
    given: Mapping[str, list[str]] = field(default_factory=dict)
    train_only: bool = False
    compare_only: bool = False
    dry: bool = False


@stoppable()
def ablation(
    main: Recipe, options: Options, here: steps.Verbs, parse: judging.Parse, known: Mapping[str, Callable]
) -> dict[str, list[dict]]:
    """Plan, run and compare; return the rows of each kind of ablation, {} for a plan alone (`dry`).

    here, parse, known: the command line in this process, its parser, and its verbs. Writes results/ablation-KIND.json
    below the main recipe's run folder. Raises UserError for what cannot be, before anything starts, and, when all that
    could be done is done and written, for steps that failed.
    """
    wanted = {"eta": scan(main, options.etas)} if options.etas else kinds(main, options.data)
    runs = {kind: _chosen(main, sources, options) for kind, sources in wanted.items()}
    runs = {kind: found for kind, found in runs.items() if found}
    _check_names(options, [one for found in wanted.values() for one in found])
    every = [one for found in runs.values() for one in found]
    _check_data(options.data, every)
    if options.compare_only:
        return {kind: _compared(main, kind, found, judging.has_suite(main)) for kind, found in runs.items()}
    planned = cost.costs(every, options.data)
    print(cost.page(planned), flush=True)
    judge = judging.Judging() if options.train_only else judging.judging(main, options.given, parse, known)
    print("", cost.evaluation(main, judge.tasks, planned), "", *judge.lines, sep="\n", flush=True)
    hopeless = not judge.verbs and not options.train_only
    if options.dry:
        print(*[HOPELESS] * hopeless, sep="\n", flush=True)
        return {}
    if hopeless:
        raise UserError(HOPELESS)
    failed = _make(main, every, options, judge, here)
    found = {kind: _compared(main, kind, runs[kind], judge.suite) for kind in runs} if judge.verbs else {}
    if failed:
        lines = "".join(f"\n  {name}: {what}" for name, what in failed.items())
        raise UserError(
            f"{len(failed)} of {len({one.recipe.run_dir for one in every})} runs are not complete; what they said "
            f"stands above; the same command goes on with them alone. What failed:{lines}"
        )
    return found


def _chosen(main: Recipe, sources: Mapping[str, dict[str, Source]], options: Options) -> list[Variant]:
    names = [name for name in options.names if name in sources]
    if options.names and not names:
        return []
    return [lacking(one, options.data) for one in only(variants(main, sources, options.seeds), names)]


def _check_names(options: Options, known: list[str]) -> None:
    from agenttuning.errors import nearest

    for name in options.names:
        if name not in known:
            raise UserError(f"there is no variant {name!r} of this recipe; {nearest(name, known)}")


def _check_data(data: Mapping[str, Path], runs: list[Variant]) -> None:
    for name, path in data.items():
        if not any(name in one.recipe.mixture.sources for one in runs):
            known = sorted({source for one in runs for source in one.recipe.mixture.sources})
            raise UserError(f"--data names {name}, which no variant draws from; they draw from {', '.join(known)}")
        if not Path(path).exists():
            raise UserError(f"--data {name}={path}: there is nothing there; nothing was started")


def _make(
    main: Recipe, runs: list[Variant], options: Options, judge: judging.Judging, here: steps.Verbs
) -> dict[str, str]:
    """Train and judge; {variant: the command that failed}."""
    failed: dict[str, str] = {}
    if judge.suite:
        from agenttuning.miniature.quickstart import ready

        ready(main)
        base = main.values["model_name_or_path"]
        if not steps.run(steps.words("eval", main, ["--model", base, *judge.verbs["eval"]]), main, here):
            failed[outcome.BASE] = f"agenttuning eval --model {base}"
    done: set[Path] = set()
    for one in runs:
        if one.lacks or one.recipe.run_dir in done:
            continue
        done.add(one.recipe.run_dir)
        name = f"{one.name}, seed {one.seed}"
        print(f"\n== {name} -> {one.recipe.run_dir}", flush=True)
        if what := _make_one(one, options, judge, here):
            failed[name] = what
    return failed


def _make_one(one: Variant, options: Options, judge: judging.Judging, here: steps.Verbs) -> str | None:
    """Train, judge and compare one variant; the command that failed, or None."""
    recipe = one.recipe
    # in this process `train` itself sees, in seconds, whether everything is as it was, its rows included
    if steps.apart(recipe) and run_record.finished(recipe):
        print(
            "trained already by this very recipe; to train it again: `agenttuning train` with --resume never",
            flush=True,
        )
    else:
        what = steps.words("train", recipe, steps.data_words(recipe, options.data))
        if not steps.run(what, recipe, here):
            return steps.command(what)
    worked = [what for what in judge.verbs if not steps.run(steps.words(what, recipe, judge.verbs[what]), recipe, here)]
    if judge.verbs and not judge.suite:  # also of what one evaluation left, where the other failed
        compare = steps.words("compare", recipe)
        worked += [] if here(compare) == 0 else ["compare"]
    return steps.command(steps.words(worked[0], recipe, judge.verbs.get(worked[0]))) if worked else None


def _compared(main: Recipe, kind: str, runs: list[Variant], suite: bool) -> list[dict]:
    """Read, print and write one kind of ablation; its rows."""
    if suite:
        scored = [(one, outcome.of_suite(one.recipe.run_dir / "eval" / "tuned")) for one in runs]
        base = outcome.of_suite(main.run_dir / "eval" / "base")
    else:
        scored = [(one, outcome.of_paper(one.recipe.run_dir)) for one in runs]
        base = outcome.of_paper(main.run_dir, "base")
    rows, (unit, digits) = outcome.rows(scored, kind, main, base), UNITS[suite]
    made = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": run_record.commit(main.root)}
    path = outcome.write(main.run_dir, kind, {"recipe": main.name, "unit": unit, "rows": rows, **made})
    print(f"\n{main.name}, {kind}: {text.page(kind, rows, unit, digits, outcome.REFERENCE.get(kind))}")
    print(f"written: {path}", flush=True)
    return rows
