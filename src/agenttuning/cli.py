"""The command line: parse, call one function, print. Light on purpose: what a verb needs is imported in its branch."""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from agenttuning import arguments as words_of
from agenttuning import hiding
from agenttuning.errors import Stopped, UserError

Arguments = argparse.Namespace


def _recipe(arguments: Arguments):
    from agenttuning.recipe import load

    return load(arguments.recipe, arguments.overrides, arguments.run_dir)


def _pairs(option: str, words: list[str]) -> list[tuple[str, str]]:
    pairs = [text.partition("=") for text in words]
    for name, equals, value in pairs:
        if not (name and equals and value):
            raise UserError(f"{option} {name}{equals}{value} is incomplete; write {option} NAME=VALUE.")
    return [(name, value) for name, _, value in pairs]


def _paths(arguments: Arguments) -> dict[str, Path]:
    return {name: Path(path) for name, path in _pairs("--data", arguments.data)}


def _scalar(text: str) -> str | float | bool:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float) else text


def _options(words: list[str]) -> dict[str, dict[str, str | float | bool]]:
    """--env TASK.OPTION=VALUE ... as {task: {option: value}}."""
    found: dict[str, dict[str, str | float | bool]] = {}
    for name, value in _pairs("--env", words):
        task, dot, option = name.partition(".")
        if not (task and dot and option):
            raise UserError(f"--env {name}={value} names no task; write --env TASK.OPTION=VALUE, e.g. --env db.dsn=...")
        found.setdefault(task, {})[option] = _scalar(value)
    return found


def data(arguments: Arguments) -> None:
    """draw, convert and tokenise the mixture of a recipe; report what was dropped"""
    recipe, paths = _recipe(arguments), _paths(arguments)
    from agenttuning.data.prepare import prepare_cli

    prepare_cli(recipe, paths)


def show_data(arguments: Arguments) -> None:
    """print a few conversations with the trained tokens marked; write a page with hundreds, data.html"""
    recipe, paths = _recipe(arguments), _paths(arguments)
    from agenttuning.report.data_page import show_data as run

    run(recipe, paths, arguments.n, arguments.sample, arguments.sample_seed)


def push_data(arguments: Arguments) -> None:
    """upload the built data with its card to the Hub; --dry writes the folder and sends nothing"""
    recipe, paths = _recipe(arguments), _paths(arguments)
    from agenttuning.hub.push_data import push_data as run

    run(recipe, paths, arguments.reviewed, arguments.dry)


def push(arguments: Arguments) -> None:
    """a run to the Hub: model, data, episodes, collection; --dry-run shows what would go"""
    if arguments.private or arguments.public:
        arguments.overrides.append(f"publish.private={str(arguments.private).lower()}")
    recipe, paths = _recipe(arguments), _paths(arguments)
    from agenttuning.hub.push import push as run

    run(recipe, paths, only=arguments.only, model=arguments.model, reviewed=arguments.reviewed, dry=arguments.dry)


def plan(arguments: Arguments) -> None:
    """print batch, memory, tokens, hours and cost of a recipe; starts nothing"""
    from agenttuning import plan as planning

    made = planning.make(_recipe(arguments), _paths(arguments))
    print(json.dumps(planning.as_json(made), indent=2) if arguments.json else planning.page(made), flush=True)


def train(arguments: Arguments) -> None:
    """fine-tune the model of a recipe; --dry prints the plan and stops"""
    if arguments.dry:
        arguments.json = False
        plan(arguments)
        return
    from agenttuning import preflight

    recipe, paths = _recipe(arguments), _paths(arguments)
    preflight.check(recipe, paths, on_cpu=arguments.cpu_processes is not None)
    from agenttuning.train import train as run

    run(
        recipe,
        data_paths=paths,
        resume=arguments.resume,
        allow_partial=arguments.allow_partial,
        cpu_processes=arguments.cpu_processes,
    )


def evaluate(arguments: Arguments) -> None:
    """judge a model of the tiny twin: its agent tasks and its general tests"""
    recipe = _recipe(arguments)
    from agenttuning.evaluate import evaluate as run

    run(recipe, model=arguments.model, agent_items=arguments.items, general_items=arguments.items)


def eval_held_in(arguments: Arguments) -> None:
    """let the model play the paper's six held-in tasks, in this process or behind a server"""
    recipe = _recipe(arguments)
    from agenttuning.held_in import evaluate_held_in
    from agenttuning.players import player

    make_policy, label, model = player(
        recipe, arguments.model, arguments.server, arguments.served_model, arguments.api_key_env, arguments.concurrency,
        getattr(arguments, "label", None),
    )  # fmt: skip
    evaluate_held_in(
        recipe,
        make_policy,
        label=label,
        model=model,
        protocol=arguments.protocol,
        tasks=arguments.task or None,
        backends=dict(_pairs("--backend", arguments.backend)),
        where=_options(arguments.env),
        data=dict(_pairs("--data", arguments.data)),
        prompts=arguments.prompts,
        most=arguments.items,
        out=arguments.out,
    )


def eval_general(arguments: Arguments) -> None:
    """ask the model the paper's general benchmarks: MMLU, GSM8K, HumanEval, MT-Bench"""
    recipe = _recipe(arguments)
    from agenttuning.general.evaluate import evaluate_general
    from agenttuning.general.judged import judge_of
    from agenttuning.general.players import player

    judge = judge_of(arguments.judge, arguments.judge_model, arguments.judge_key_env, arguments.judgings)
    who = player(
        recipe, arguments.model, server=arguments.server, served_model=arguments.served_model,
        api_key_env=arguments.api_key_env, concurrency=arguments.concurrency, backend=arguments.backend,
    )  # fmt: skip
    if hasattr(arguments, "label"):
        from agenttuning.released import under_label

        who = under_label(who, arguments.label)
    evaluate_general(
        recipe, who, protocol=arguments.protocol, tasks=arguments.task or None,
        data=dict(_pairs("--data", arguments.data)), prompts=arguments.prompts, judge=judge, most=arguments.items,
        out=arguments.out,
    )  # fmt: skip


def eval_released(arguments: Arguments) -> None:
    """score the authors' released weights by both evaluations, before anybody trains"""
    from agenttuning import released

    verbs = {"general": eval_general, "held-in": eval_held_in}
    todo = released.parts(_recipe(arguments), arguments)
    released.run({name: partial(verbs[name], given) for name, given in todo.items()})


def doctor(arguments: Arguments) -> None:
    """say which environments would run here, what is missing, and the command that supplies it"""
    from agenttuning.doctor import doctor as run

    run(_options(arguments.env))


def compare(arguments: Arguments) -> None:
    """put the scores of a run beside the published ones, with n and an interval"""
    recipe = _recipe(arguments)
    from agenttuning.scoring.compare import compare as run

    run(recipe, arguments.results, arguments.json)


def report(arguments: Arguments) -> None:
    """write the results page of a run"""
    recipe = _recipe(arguments)
    from agenttuning.report import report as run

    run(recipe)


def export(arguments: Arguments) -> None:
    """write the trained model, in bfloat16 and checked, as a folder for the Hub"""
    outs = [word for word in arguments.overrides if "=" not in word]
    if len(outs) > 1:
        raise UserError(f"export writes one folder, and {', '.join(outs)} were given; overrides are key=value")
    arguments.overrides = [word for word in arguments.overrides if "=" in word]
    recipe = _recipe(arguments)
    from agenttuning import export as room

    out = outs[0] if outs else None
    if arguments.adapter and arguments.max_shard_size:
        raise UserError("--adapter writes one small file; --max-shard-size would do nothing; leave one of them out")
    if arguments.adapter:
        room.export_adapter(recipe, out, arguments.checkpoint)
    else:
        room.export(recipe, out, arguments.checkpoint, arguments.max_shard_size)


def collect(arguments: Arguments) -> None:
    """collect trajectories with a teacher and keep the rewarded ones"""
    from agenttuning.collect import collect as run
    from agenttuning.collect import episodes_of, table

    folder = run(arguments.path)
    print(f"{table(folder)}\nwritten: {folder}", flush=True)
    if episodes_of(folder).is_dir():
        print(f"every episode, refused ones too: agenttuning episodes {episodes_of(folder)}", flush=True)


def decontaminate(arguments: Arguments) -> None:
    """find evaluation examples that stand in the training data, by the paper's check"""
    recipe, paths = _recipe(arguments), _paths(arguments)
    from agenttuning.decontaminate import decontaminate as run

    run(recipe, arguments.against, paths, [name for name in arguments.fields.split(",") if name])


def export_tools(arguments: Arguments) -> None:
    """write AgentInstruct as native tool calls, with JSON schemas, for models that have them"""
    from agenttuning.data.tools.export import export

    export(arguments.out, arguments.data, arguments.drop_opening)


def episodes(arguments: Arguments) -> None:
    """look at episodes: a table, one to read, successes, a page, or an export"""
    from agenttuning.episodes.filters import Filters
    from agenttuning.episodes.look import look

    filters = Filters(arguments.task, arguments.status, arguments.item, arguments.kind)
    look(
        arguments.folder, filters, show=arguments.show, full=arguments.full, summary=arguments.summary,
        html=arguments.html, form=arguments.export, out=arguments.out, limit=arguments.limit,
    )  # fmt: skip


def errors(arguments: Arguments) -> None:
    """draw the paper's error figure with a run's own bars beside it"""
    recipe = _recipe(arguments)
    from agenttuning.report.error_page import errors as run

    run(recipe, arguments.episodes)


def base(arguments: Arguments) -> None:
    """make the tiny base model that the CPU twin starts from"""
    from agenttuning.miniature.quickstart import base as run

    run(arguments.path)


def ablation(arguments: Arguments) -> None:
    """the paper's ablations of a recipe, cost first: train, judge, compare agent-only, general-only, mixed"""
    _ablation(arguments, ())


def eta_scan(arguments: Arguments) -> None:
    """the same for the share of agent data, eta: 0 to 1 in steps of 0.1, or --etas"""
    from agenttuning.ablation import ETAS

    _ablation(arguments, _numbers("--etas", arguments.etas, float) or ETAS)


def _ablation(arguments: Arguments, etas: tuple[float, ...]) -> None:
    recipe, given = _recipe(arguments), vars(arguments)
    from agenttuning.ablation import Options
    from agenttuning.ablation import ablation as run

    verbs = {verb: given[verb.replace("-", "_")] for verb in ("eval", "eval-held-in", "eval-general")}
    options = Options(
        etas=etas,
        seeds=_numbers("--seeds", arguments.seeds, int),
        names=tuple(arguments.only),
        data=_paths(arguments),
        given={verb: _words(f"--{verb}", text) for verb, text in verbs.items() if text is not None},
        train_only=arguments.train_only,
        compare_only=arguments.compare_only,
        dry=arguments.dry,
    )
    run(recipe, options, main, parse, VERBS)


def _numbers(option: str, text: str | None, kind: type) -> tuple:
    try:
        return tuple(kind(one) for one in text.split(",")) if text else ()
    except ValueError:
        raise UserError(f"{option} {text}: numbers with commas between them are wanted, e.g. {option} 1,0") from None


def _words(option: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"{option}={text!r}: {error}; it holds words as a shell would take them") from None


def quickstart(arguments: Arguments) -> None:
    """the whole method in minutes on a CPU: base, collect, data, train, eval, report"""
    from agenttuning.miniature.quickstart import quickstart as run

    run(arguments.path)


VERBS: dict[str, tuple[Callable[[Arguments], None], Callable[[argparse.ArgumentParser], None]]] = {
    "data": (data, words_of.takes_data),
    "show-data": (show_data, words_of.takes_n),
    "push-data": (push_data, words_of.takes_push),
    "push": (push, words_of.takes_push_all),
    "plan": (plan, words_of.takes_json),
    "train": (train, words_of.takes_training),
    "eval": (evaluate, words_of.takes_items),
    "eval-held-in": (eval_held_in, words_of.takes_held_in),
    "eval-general": (eval_general, words_of.takes_general),
    "eval-released": (eval_released, words_of.takes_released),
    "doctor": (doctor, words_of.takes_env),
    "compare": (compare, words_of.takes_comparison),
    "report": (report, words_of.takes_recipe),
    "episodes": (episodes, words_of.takes_episodes),
    "errors": (errors, words_of.takes_errors),
    "export": (export, words_of.takes_export),
    "collect": (collect, words_of.takes_collection),
    "decontaminate": (decontaminate, words_of.takes_against),
    "export-tools": (export_tools, words_of.takes_out),
    "base": (base, words_of.takes_path),
    "ablation": (ablation, words_of.takes_ablation),
    "eta-scan": (eta_scan, words_of.takes_etas),
    "quickstart": (quickstart, words_of.takes_path),
}


def _help() -> str:
    lines = [f"  {verb:<14}{run.__doc__}" for verb, (run, _) in VERBS.items()]
    usage = "usage: agenttuning VERB ... (`agenttuning VERB --help` says what it takes)"
    return "\n".join([usage, "", "AgentTuning rebuilt in the open on the Hugging Face stack.", "", *lines])


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return the exit status: 0, 2 for a mistake of the user (message on stderr), 130 for Ctrl-C,
    143 for SIGTERM in `train`.
    """
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if words else 2
    if not sys.stderr.isatty():  # log lines, no bars: what libraries draw with tqdm would fill a log with their frames
        os.environ.setdefault("TQDM_DISABLE", "1")
    hiding.in_logs()
    try:
        arguments = parse(words[0], words[1:])
        VERBS[words[0]][0](arguments)
        return 0
    except UserError as error:
        print(f"agenttuning {words[0]}: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:  # it has said how to go on
        return stopped.status
    except KeyboardInterrupt:
        print(f"agenttuning {words[0]}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `... plan X | head` has read enough; Python would complain again while it exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def parse(verb: str, words: list[str]) -> Arguments:
    """The arguments of a verb. Raises UserError for an unknown verb, SystemExit for words it does not take."""
    if verb not in VERBS:
        from agenttuning.errors import nearest

        raise UserError(f"there is no verb `{verb}`; {nearest(verb, VERBS)}")
    run, takes = VERBS[verb]
    parser = argparse.ArgumentParser(prog=f"agenttuning {verb}", description=run.__doc__, allow_abbrev=False)
    takes(parser)
    # overrides may stand before and after options, as people (and make's ARGS) write them
    return parser.parse_intermixed_args(words)
