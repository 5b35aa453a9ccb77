"""Trajectories from a teacher, filtered by reward, in AgentInstruct's own format.

    teacher: {slip: 0.1, give_up: 0.05, seed: 0}             # or {server: URL, model: NAME, seed: 0, api_key_env: NAME}
    tasks: {household: {items: 800, threshold: 1.0}, ...}    # threshold: the least reward that is kept; 0: no filter
    seed: 0                                                  # draws the training items
    protocol: miniature                                      # practice for the paper's six tasks
    out: data/agentinstruct-mini

`out` becomes README.md (the data card), a <task>.jsonl for each task and meta/stats.json. The same file gives the same
bytes. What a served teacher has played is kept in <out>.episodes/<task>, and gone on with after a stop, also with more
items and at another address of the server. What was played by other rules (protocol, prompts, temperature, options of
the backend, the user's items) is put aside there and played again.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

from agenttuning import protocols
from agenttuning.collect.card import PRACTICE, STATS, check_place, table, write
from agenttuning.collect.plan import Plan, Scripted, Task, read_plan
from agenttuning.collect.rows import conversation, kept, statistics, total
from agenttuning.disk import needs_room
from agenttuning.environments import HELD_IN, TASKS, room
from agenttuning.episodes import status
from agenttuning.errors import UserError
from agenttuning.protocols.messages import own
from agenttuning.stages import Stage, digest, prepare
from agenttuning.stopping import stoppable

__all__ = ["STATS", "collect", "conversation", "table"]
NOT_ASKED_WITH = ("server", "api_key_env", "concurrency")  # of a teacher: they change no reply
COMPARED = 200  # practice test items of a task that the rows are compared with


@stoppable()
def collect(path: str | Path, out: str | Path | None = None, progress: bool = True) -> Path:
    """Play the training items of a collection file with its teacher, write what the filter keeps, return the folder.

    `out` overrides the file's, which is relative to the current directory. An older collection there is replaced, whole
    or not at all. Raises UserError for a bad file, for an `out` that holds something else, for a task that cannot be
    played here, and when more episodes were lost to infrastructure than the protocol allows.
    """
    path = Path(path)
    plan = read_plan(path)
    out = Path(out or plan.out)
    check_place(out)
    with needs_room(out):
        return _collected(path, plan, out, progress)


def _collected(path: Path, plan: Plan, out: Path, progress: bool) -> Path:
    rules = protocols.find(plan.protocol)
    if plan.prompts and rules.prompts == "ours":
        raise UserError(f"{path}: protocol {rules.name} has prompts of its own; `prompts` would do nothing")
    policy = _policy(plan)
    if set(plan.tasks) & set(HELD_IN) and progress:
        print(f"{plan.teacher.name} by {rules.label}; into {out}", flush=True)
    rows, stats, compared = {}, {}, {}
    for name, task in plan.tasks.items():
        with ExitStack() as held:
            stage = _stage(name, task, plan, rules, held)
            source = PRACTICE if stage.practice else "items of your own"
            if name in HELD_IN and progress:
                said = f"{len(stage.items):>5} {source} in {stage.room.backend.name}"
                print(f"{name:<9} {said:<36} kept from reward {task.threshold:g}", flush=True)
            records = _play(stage, plan, rules, policy, out, progress)
            if name in HELD_IN:
                compared[name] = _texts(stage, task)
        fresh = protocols.format_of(rules.rules(name).format).fresh
        rows[name] = kept(name, records, task.threshold, fresh)
        stats[name] = statistics(records, rows[name], task.threshold)
        if name in HELD_IN:
            backend = stage.room.backend
            played_in = backend.label.partition(": ")[0]  # what follows is about the machine
            stats[name] |= {"backend": backend.name, "played_in": played_in, "items": source}
        _check_lost(name, stats[name], rules)
    teacher = {"kind": "scripted" if isinstance(plan.teacher, Scripted) else "served", **vars(plan.teacher)}
    summary = {"teacher": teacher, "seed": plan.seed, "protocol": rules.label, "prompts": rules.prompts, "tasks": stats}
    if compared:
        from agenttuning.collect.overlap import overlap

        summary["overlap"] = overlap(rows, compared)
    write(out, rows, {**summary, "total": total(stats)})
    return out


def _stage(name: str, task: Task, plan: Plan, rules: protocols.Protocol, held: ExitStack) -> Stage:
    if name in TASKS:
        module = TASKS[name]
        items = module.items("train", task.items, plan.seed)
        return Stage(name, module, room(module), {}, items, True, own(module), rules.rules(name).n, rules)
    return prepare(
        name, rules, held, split="train", seed=plan.seed, most=task.items, backend=task.backend,
        where=task.env, data=task.data, prompts=plan.prompts,
    )  # fmt: skip


def _policy(plan: Plan) -> Any:
    teacher = plan.teacher
    if isinstance(teacher, Scripted):
        from agenttuning.policies.teacher import teacher as scripted

        return scripted(teacher.slip, teacher.give_up, teacher.seed)
    from agenttuning.policies.openai import OpenAIPolicy, must_answer

    must_answer(teacher.server)
    return OpenAIPolicy(
        teacher.server,
        teacher.model,
        max_new_tokens=teacher.max_new_tokens,
        temperature=teacher.temperature,
        seed=teacher.seed,
        key_variable=teacher.api_key_env,
        slots=teacher.concurrency,
    )


def _play(stage: Stage, plan: Plan, rules: protocols.Protocol, policy: Any, out: Path, progress: bool) -> list[dict]:
    from agenttuning.episodes.runner import play
    from agenttuning.episodes.store import EpisodeStore

    # a scripted teacher plays again in seconds; the replies of a served one cost money
    scripted = isinstance(plan.teacher, Scripted)
    place = episodes_of(out) / stage.room.task
    with nullcontext() if scripted else EpisodeStore(place, _rules_digest(stage, plan, rules)) as store:
        try:
            return play(
                stage.room, stage.items, policy, rules, stage.prompts,
                model=plan.teacher.name, seed=plan.seed, store=store, progress=progress,
            )  # fmt: skip
        except KeyboardInterrupt:
            if store is not None:
                print(f"episodes that ended are kept in {place}; the same command goes on there", file=sys.stderr)
            raise


def episodes_of(out: str | Path) -> Path:
    """Where every episode of a served teacher is kept, also those that the filter refused."""
    return Path(out).with_name(f"{Path(out).name}.episodes")


def _rules_digest(stage: Stage, plan: Plan, rules: protocols.Protocol) -> str:
    """sha256, in hex, of all that decides how an episode goes and that its key does not say."""
    taken = {name: value for name, value in vars(plan.teacher).items() if name not in NOT_ASKED_WITH}
    items = stage.whole or stage.items[:1]  # more practice items begin with the same ones
    asked = [repr(rules), taken, stage.where, items, sorted({stage.prompts(item).digest for item in stage.items})]
    return digest(asked)


def _texts(stage: Stage, task: Task) -> list[tuple[str, str]]:
    """(id, first observation) of the evaluation items."""
    seed, found = stage.protocol.rules(stage.task).seed, []
    for item in stage.module.load(task.against) if task.against else stage.module.items("test", COMPARED, seed):
        environment = stage.room.make(item)
        try:
            found.append((item["id"], environment.reset()))
        finally:
            environment.close()
    return found


def _check_lost(name: str, stats: dict, protocol: protocols.Protocol) -> None:
    lost = sum(n for kind, n in stats["statuses"].items() if not status.is_result(kind))
    if lost > protocol.void_above * stats["instructions"]:
        raise UserError(
            f"{name}: {lost} of {stats['instructions']} episodes were lost to infrastructure ({stats['statuses']}); "
            "the collection would be a biased part of what was asked; see the warnings above"
        )
