"""The command line: parse, call one function, print. Light on purpose: what a verb needs is imported in its branch."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

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
    """let the trained model (or --model) play the tasks and take the general tests"""
    recipe = _recipe(arguments)
    from agenttuning.evaluate import evaluate as run

    run(recipe, model=arguments.model)


def eval_held_in(arguments: Arguments) -> None:
    """let the model play the paper's six held-in tasks, in this process or behind a server"""
    recipe = _recipe(arguments)
    from agenttuning.held_in import evaluate_held_in
    from agenttuning.players import player

    make_policy, label, model = player(
        recipe, arguments.model, arguments.server, arguments.served_model, arguments.api_key_env, arguments.concurrency
    )
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


def doctor(arguments: Arguments) -> None:
    """say which environments would run here, what is missing, and the command that supplies it"""
    from agenttuning.doctor import doctor as run

    run(_options(arguments.env))


def compare(arguments: Arguments) -> None:
    """put the scores of a run beside the published ones, with n and an interval"""
    recipe = _recipe(arguments)
    from agenttuning.scoring.compare import compare as run

    run(recipe)


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
    """train and judge the tiny ablations: agent-only, general-only, mixed"""
    from agenttuning.miniature.ablation import ablation as run

    run(arguments.path)


def quickstart(arguments: Arguments) -> None:
    """the whole method in minutes on a CPU: base, collect, data, train, eval, report"""
    from agenttuning.miniature.quickstart import quickstart as run

    run(arguments.path)


def _takes_recipe(
    parser: argparse.ArgumentParser, words: str = "key=value", said: str = "e.g. learning_rate=1e-5 mixture.seed=3"
) -> None:
    parser.add_argument("recipe", help="a recipe, e.g. recipes/agentlm-13b/sft.yaml (a folder means its sft.yaml)")
    parser.add_argument("overrides", nargs="*", metavar=words, help=said)
    parser.add_argument("--run-dir", help="where the run is written; default runs/<folder>/<stem>")


def _takes_data(parser: argparse.ArgumentParser) -> None:
    _takes_recipe(parser)
    parser.add_argument(
        "--data", action="append", default=[], metavar="NAME=PATH", help="read a source from a local path (repeatable)"
    )


def _takes_n(parser: argparse.ArgumentParser) -> None:
    _takes_data(parser)
    parser.add_argument("--n", type=int, default=3, help="conversations printed per source (default 3)")
    parser.add_argument("--sample", type=int, default=300, help="conversations on the page (default 300)")
    parser.add_argument("--sample-seed", type=int, help="draws other ones; default the mixture's seed")


def _takes_push(parser: argparse.ArgumentParser) -> None:
    _takes_data(parser)
    parser.add_argument("--reviewed", metavar="FILE", help="findings of secrets.jsonl that you judge harmless")
    parser.add_argument("--dry", action="store_true", help="check, write the folder that would be sent, and stop")


def _takes_json(parser: argparse.ArgumentParser) -> None:
    _takes_data(parser)
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")


def _takes_training(parser: argparse.ArgumentParser) -> None:
    _takes_data(parser)
    parser.add_argument("--dry", action="store_true", help="print the plan and stop")
    parser.add_argument(
        "--resume", default="auto", help="auto (default): newest good checkpoint; never: start afresh; or a path"
    )
    parser.add_argument(
        "--allow-partial",
        action="store_true",
        help="go on from --resume PATH even without its optimizer, schedule or random state; says what is lost",
    )
    parser.add_argument(
        "--cpu-processes", type=int, metavar="N",
        help="rehearse: run the accelerate config with N processes on this machine's CPU in place of its GPUs",
    )  # fmt: skip


def _takes_model(parser: argparse.ArgumentParser) -> None:
    _takes_recipe(parser)
    parser.add_argument("--model", help="a local folder or Hub id to judge instead of the run's own model")


def _takes_env(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--env", action="append", default=[], metavar="TASK.OPTION=VALUE",
        help="an option of a task's backend (repeatable), e.g. kg.url=http://127.0.0.1:8890/sparql",
    )  # fmt: skip


def _takes_held_in(parser: argparse.ArgumentParser) -> None:
    _takes_model(parser)
    parser.add_argument("--server", metavar="URL", help="ask an OpenAI-compatible server instead, e.g. of vLLM")
    parser.add_argument("--served-model", metavar="NAME", help="the model's name at the server")
    parser.add_argument("--api-key-env", metavar="NAME", help="the environment variable that holds the server's key")
    parser.add_argument("--concurrency", type=int, metavar="N", help="requests in flight at the server (default 64)")
    parser.add_argument("--protocol", default="paper-text", help="paper-text (default), paper-code or practice")
    parser.add_argument("--prompts", metavar="PATH", help="AgentInstruct's rows or a checkout of AgentBench: where "
                        "the paper's prompts are (default: AgentInstruct on the Hub)")  # fmt: skip
    many = {"action": "append", "default": []}
    parser.add_argument("--task", **many, help="os, db, kg, alfworld, webshop or mind2web (repeatable; default all)")
    parser.add_argument("--data", **many, metavar="TASK=PATH", help="the benchmark's items (default: practice items)")
    parser.add_argument("--backend", **many, metavar="TASK=NAME", help="default: the best here, see agenttuning doctor")
    parser.add_argument("--items", type=int, help="at most so many items a task")
    parser.add_argument("--out", help="the folder to write (default: in the run's folder)")
    _takes_env(parser)


def _takes_export(parser: argparse.ArgumentParser) -> None:
    _takes_recipe(parser, "OUT, and key=value", "the folder to write (default: export in the run's folder), and the "
                  "overrides that it was trained with")  # fmt: skip
    parser.add_argument(
        "--checkpoint", help="a checkpoint's folder, best, or last; default the finished model, else the newest"
    )
    parser.add_argument("--adapter", action="store_true", help="of a LoRA run the adapter alone, not merged")
    parser.add_argument("--max-shard-size", metavar="SIZE", help="e.g. 5GB; default that of transformers")


def _takes_against(parser: argparse.ArgumentParser) -> None:
    _takes_data(parser)
    parser.add_argument(
        "--against", action="append", required=True, metavar="NAME[=PATH]",
        help="a name in evaluation/contamination/ or evaluation/suites/, NAME=PATH for rows of your own, or all[=PATH]",
    )  # fmt: skip
    parser.add_argument(
        "--fields", default="", help="text fields of NAME=PATH, comma-separated (default: the name's, or every string)"
    )


def _takes_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", help="the folder to write; it must not be there, or be empty")
    parser.add_argument("--data", metavar="PATH", help="AgentInstruct rows, instead of the data card agentinstruct")
    parser.add_argument(
        "--drop-opening", action="store_true",
        help="leave out instruction, acknowledgement and demonstration, which show the text grammar; not reversible",
    )  # fmt: skip


def _takes_episodes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="what an evaluation wrote, e.g. runs/agentlm-13b/sft/eval/tuned")
    parser.add_argument("--task", help="only episodes of this task")
    parser.add_argument("--status", help="only episodes that ended so, e.g. task_limit")
    parser.add_argument("--item", help="only items whose id contains this")
    parser.add_argument("--kind", help="only episodes with this error, e.g. invalid_action")
    parser.add_argument("--show", metavar="ITEM", help="print the trajectory of this item")
    parser.add_argument("--full", action="store_true", help="with --show: long messages whole")
    parser.add_argument("--summary", action="store_true", help="successes with intervals, by task and backend")
    parser.add_argument("--html", metavar="FILE", help="write a page to look through")
    parser.add_argument("--export", metavar="FORMAT", help="inspect, traces or agentinstruct, into --out")
    parser.add_argument("--out", metavar="FOLDER", help="where the export is written; a new folder")
    parser.add_argument("--limit", type=int, metavar="N", help="most episodes of table (40) or page (200); 0: all")


def _takes_errors(parser: argparse.ArgumentParser) -> None:
    _takes_recipe(parser)
    parser.add_argument("--episodes", metavar="FOLDER", help="draw these, not eval/base and eval/tuned of the run")


def _takes_path(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", help="a recipe file, or a folder of recipes/")


def _takes_collection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="FILE", help="what to collect, e.g. recipes/collect/tiny.yaml (its README.md)")


VERBS: dict[str, tuple[Callable[[Arguments], None], Callable[[argparse.ArgumentParser], None]]] = {
    "data": (data, _takes_data),
    "show-data": (show_data, _takes_n),
    "push-data": (push_data, _takes_push),
    "plan": (plan, _takes_json),
    "train": (train, _takes_training),
    "eval": (evaluate, _takes_model),
    "eval-held-in": (eval_held_in, _takes_held_in),
    "doctor": (doctor, _takes_env),
    "compare": (compare, _takes_recipe),
    "report": (report, _takes_recipe),
    "episodes": (episodes, _takes_episodes),
    "errors": (errors, _takes_errors),
    "export": (export, _takes_export),
    "collect": (collect, _takes_collection),
    "decontaminate": (decontaminate, _takes_against),
    "export-tools": (export_tools, _takes_out),
    "base": (base, _takes_path),
    "ablation": (ablation, _takes_path),
    "quickstart": (quickstart, _takes_path),
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
        from agenttuning.recipe.keys import nearest

        raise UserError(f"there is no verb `{verb}`; {nearest(verb, VERBS)}")
    run, takes = VERBS[verb]
    parser = argparse.ArgumentParser(prog=f"agenttuning {verb}", description=run.__doc__, allow_abbrev=False)
    takes(parser)
    # overrides may stand before and after options, as people (and make's ARGS) write them
    return parser.parse_intermixed_args(words)
