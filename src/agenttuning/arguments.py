"""What each verb takes: one function a set of arguments, used by cli.VERBS."""

import argparse


def takes_recipe(
    parser: argparse.ArgumentParser, words: str = "key=value", said: str = "e.g. learning_rate=1e-5 mixture.seed=3"
) -> None:
    parser.add_argument("recipe", help="a recipe, e.g. recipes/agentlm-13b/sft.yaml (a folder means its sft.yaml)")
    parser.add_argument("overrides", nargs="*", metavar=words, help=said)
    parser.add_argument("--run-dir", help="where the run is written; default runs/<folder>/<stem>")


def takes_data(parser: argparse.ArgumentParser) -> None:
    takes_recipe(parser)
    parser.add_argument(
        "--data", action="append", default=[], metavar="NAME=PATH", help="read a source from a local path (repeatable)"
    )


def takes_n(parser: argparse.ArgumentParser) -> None:
    takes_data(parser)
    parser.add_argument("--n", type=int, default=3, help="conversations printed per source (default 3)")
    parser.add_argument("--sample", type=int, default=300, help="conversations on the page (default 300)")
    parser.add_argument("--sample-seed", type=int, help="draws other ones; default the mixture's seed")


def takes_push(parser: argparse.ArgumentParser) -> None:
    takes_data(parser)
    parser.add_argument("--reviewed", metavar="FILE", help="findings of secrets.jsonl that you judge harmless")
    parser.add_argument(
        "--dry-run", "--dry", dest="dry", action="store_true", help="check, write the folder that would be sent, stop"
    )


def takes_push_all(parser: argparse.ArgumentParser) -> None:
    takes_push(parser)
    parser.add_argument("--only", metavar="STEP", help="one of model, data, traces, collection (default: all named)")
    parser.add_argument("--model", metavar="FOLDER", help="another export than the run's own")
    visible = parser.add_mutually_exclusive_group()
    visible.add_argument("--private", action="store_true", help="whatever publish.private says")
    visible.add_argument("--public", action="store_true", help="the same")


def takes_json(parser: argparse.ArgumentParser) -> None:
    takes_data(parser)
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")


def takes_training(parser: argparse.ArgumentParser) -> None:
    takes_data(parser)
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


def takes_model(parser: argparse.ArgumentParser) -> None:
    takes_recipe(parser)
    parser.add_argument("--model", help="a local folder or Hub id to judge instead of the run's own model")


def takes_items(parser: argparse.ArgumentParser) -> None:
    takes_model(parser)
    parser.add_argument("--items", type=int, help="at most so many items a task")


def takes_env(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--env", action="append", default=[], metavar="TASK.OPTION=VALUE",
        help="an option of a task's backend (repeatable), e.g. kg.url=http://127.0.0.1:8890/sparql",
    )  # fmt: skip


def takes_player(parser: argparse.ArgumentParser) -> None:
    takes_model(parser)
    parser.add_argument("--server", metavar="URL", help="ask an OpenAI-compatible server instead, e.g. of vLLM")
    parser.add_argument("--served-model", metavar="NAME", help="the model's name at the server")
    parser.add_argument("--api-key-env", metavar="NAME", help="the environment variable that holds the server's key")
    parser.add_argument("--concurrency", type=int, metavar="N", help="requests in flight at the server (default 64)")


def takes_general(parser: argparse.ArgumentParser) -> None:
    takes_player(parser)
    many = {"action": "append", "default": []}
    parser.add_argument("--protocol", default="paper", help="paper (default), corrected, stock or sampled")
    parser.add_argument("--backend", default="transformers", help="transformers (default) or vllm; --server is its own")
    parser.add_argument("--task", **many, help="mmlu, gsm8k, humaneval or mt_bench (repeatable; default all)")
    parser.add_argument("--data", **many, metavar="TASK=PATH", help="the official items (default: the Hub's)")
    parser.add_argument("--prompts", metavar="PATH", help="a checkout of THUDM/AgentTuning, which has the paper's")
    parser.add_argument("--judge", metavar="URL", help="an OpenAI-compatible server that grades mt_bench")
    parser.add_argument("--judge-model", metavar="NAME", help="the judge's name there, e.g. gpt-4-0613")
    parser.add_argument("--judge-key-env", metavar="NAME", help="the environment variable with the judge's key")
    parser.add_argument("--judgings", type=int, metavar="K", help="times that each answer is judged (default 3)")
    parser.add_argument("--items", type=int, help="at most so many items a task")
    parser.add_argument("--out", help="the folder to write (default: in the run's folder)")


def takes_held_in(parser: argparse.ArgumentParser) -> None:
    takes_player(parser)
    parser.add_argument("--protocol", default="paper-text", help="paper-text (default), paper-code or practice")
    parser.add_argument("--prompts", metavar="PATH", help="AgentInstruct's rows or a checkout of AgentBench: where "
                        "the paper's prompts are (default: AgentInstruct on the Hub)")  # fmt: skip
    many = {"action": "append", "default": []}
    parser.add_argument("--task", **many, help="os, db, kg, alfworld, webshop or mind2web (repeatable; default all)")
    parser.add_argument("--data", **many, metavar="TASK=PATH", help="the benchmark's items (default: practice items)")
    parser.add_argument("--backend", **many, metavar="TASK=NAME", help="default: the best here, see agenttuning doctor")
    parser.add_argument("--items", type=int, help="at most so many items a task")
    parser.add_argument("--out", help="the folder to write (default: in the run's folder)")
    takes_env(parser)


def takes_released(parser: argparse.ArgumentParser) -> None:
    """All that the two evaluations take, but the protocol, which is the paper's, and the folder."""
    said = {
        "model": "a local copy of the released weights, or another Hub id (default: evaluation/released.yaml)",
        "task": "a held-in or a general task (repeatable; default all ten)",
        "prompts": "a checkout of THUDM/AgentTuning, which has all of the paper's prompts",
        "backend": "TASK=NAME of a held-in task (repeatable); transformers (default) or vllm for the general ones",
    }
    taken = {action.dest for action in parser._actions}
    for takes in (takes_held_in, takes_general):
        other = argparse.ArgumentParser(add_help=False)
        takes(other)
        for action in other._actions:
            if action.dest not in taken | {"protocol", "out"}:
                taken.add(action.dest)
                action.help = said.get(action.dest, action.help)
                parser._add_action(action)


def takes_comparison(parser: argparse.ArgumentParser) -> None:
    takes_recipe(parser)
    parser.add_argument(
        "--results", nargs="+", default=[], metavar="FOLDER",
        help="results from elsewhere, too: a run's folder, its eval folder, or SIDE=FOLDER (base, tuned, released) "
        "as in tuned=runs/agentlm-13b/sft/eval/served-agentlm-13b",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the JSON that is written, not the text")


def takes_export(parser: argparse.ArgumentParser) -> None:
    takes_recipe(parser, "OUT, and key=value", "the folder to write (default: export in the run's folder), and the "
                  "overrides that it was trained with")  # fmt: skip
    parser.add_argument(
        "--checkpoint", help="a checkpoint's folder, best, or last; default the finished model, else the newest"
    )
    parser.add_argument("--adapter", action="store_true", help="of a LoRA run the adapter alone, not merged")
    parser.add_argument("--max-shard-size", metavar="SIZE", help="e.g. 5GB; default that of transformers")


def takes_against(parser: argparse.ArgumentParser) -> None:
    takes_data(parser)
    parser.add_argument(
        "--against", action="append", required=True, metavar="NAME[=PATH]",
        help="a name in evaluation/contamination/ or evaluation/suites/, NAME=PATH for rows of your own, or all[=PATH]",
    )  # fmt: skip
    parser.add_argument(
        "--fields", default="", help="text fields of NAME=PATH, comma-separated (default: the name's, or every string)"
    )


def takes_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", help="the folder to write; it must not be there, or be empty")
    parser.add_argument("--data", metavar="PATH", help="AgentInstruct rows, instead of the data card agentinstruct")
    parser.add_argument(
        "--drop-opening", action="store_true",
        help="leave out instruction, acknowledgement and demonstration, which show the text grammar; not reversible",
    )  # fmt: skip


def takes_episodes(parser: argparse.ArgumentParser) -> None:
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


def takes_errors(parser: argparse.ArgumentParser) -> None:
    takes_recipe(parser)
    parser.add_argument("--episodes", metavar="FOLDER", help="draw these, not eval/base and eval/tuned of the run")


def takes_ablation(parser: argparse.ArgumentParser) -> None:
    takes_data(parser)
    parser.add_argument("--dry", action="store_true", help="print cost and what can be scored here, and stop")
    parser.add_argument("--only", action="append", default=[], metavar="VARIANT", help="of the table (repeatable)")
    parser.add_argument("--seeds", metavar="N,N", help="train every variant with each; default the recipe's own seed")
    some = parser.add_mutually_exclusive_group()
    some.add_argument("--train-only", action="store_true", help="judge nothing")
    some.add_argument("--compare-only", action="store_true", help="train and judge nothing, compare what is there")
    for verb in ("eval-held-in", "eval-general", "eval"):
        parser.add_argument(
            f"--{verb}", metavar="WORDS",
            help=f"for the `{verb}` of every variant, in quotes: --{verb}='--items 5'",
        )  # fmt: skip


def takes_etas(parser: argparse.ArgumentParser) -> None:
    takes_ablation(parser)
    parser.add_argument("--etas", metavar="N,N", help="shares of agent data; default 0,0.1 .. 1, as the paper")


def takes_path(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", help="a recipe file, or a folder of recipes/")


def takes_collection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="FILE", help="what to collect, e.g. recipes/collect/tiny.yaml (its README.md)")
