"""What the episode runner costs a turn, beside a plain loop and inspect-ai, with a model that answers at once.

    python benchmarks/episodes.py [--episodes 300] [--live 64] [--repetitions 5] [--out FILE]

All play the same episodes (counting to a target, 5 or 6 turns) with the same reply. In this process:

    ours           the runner with a batch policy, records on disk with fsync
    ours_async     the runner with an `ask` policy
    loop           reset, reply, step: no messages, no store, one episode after the other
    inspect        inspect-ai's eval with a solver of the same loop and a model API of its own, its log on disk

and through a loopback server (policies/serve.py) in a process of its own:

    ours_server    the runner with OpenAIPolicy
    loop_server    httpx.Client, one question after the other

Each runs in a process of its own, in turn, `repetitions` times; a short run before the clock starts warms it up. Wall
milliseconds a turn are those of the whole run divided by its turns; cpu milliseconds are those of the measuring process
alone, which other load moves less. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from agenttuning.environments import EMBEDDED, Room, Step  # noqa: E402
from agenttuning.protocols import Decoding, Limits, Protocol, TaskRules  # noqa: E402

NAME, INSTRUCTION, ACKNOWLEDGEMENT = "count", "Count up to the target, one at a time.", "Ok."
REPLY = "Thought: one more is needed.\nAction: add 1"
PROTOCOL = Protocol(
    name="count",
    version=1,
    decoding=Decoding(max_new_tokens=128, temperature=0.0),
    limits=Limits(repetition=None, invalid_in_a_row=None, action_chars=100),
    void_above=0.05,
    tasks={NAME: TaskRules(max_turns=20, n=1, seed=0, group="held_in", metric="success_rate")},
)
SIDES = ("ours", "ours_async", "loop", "inspect", "ours_server", "loop_server")


class Count:
    """`add 1` adds one; over at the target."""

    def __init__(self, item: dict) -> None:
        self.target, self.at = item["target"], 0

    def reset(self) -> str:
        return f"Count to {self.target}. You are at 0. " + "The room is quiet and nothing else is in it. " * 5

    def step(self, action: str) -> Step:
        self.at += action == "add 1"
        return Step(f"You are at {self.at}.", done=self.at >= self.target, valid=action == "add 1")

    def score(self) -> float:
        return float(self.at == self.target)

    def actions(self) -> list[str]:
        return ["add 1"]

    def close(self) -> None:
        """Nothing is held."""


def items(n: int) -> list[dict]:
    """`n` items of 5 or 6 turns."""
    return [{"id": f"count_{number}", "target": 5 + number % 2} for number in range(n)]


def batch(turns: list) -> list[str]:
    """A model that answers at once."""
    return [REPLY for _ in turns]


class Asked:
    """The same, to be waited for."""

    async def ask(self, turn) -> str:
        return REPLY


def run_ours(policy, n: int, live: int) -> None:
    from agenttuning.episodes.runner import play
    from agenttuning.episodes.store import EpisodeStore
    from agenttuning.protocols.messages import own

    texts = sys.modules[__name__]
    with tempfile.TemporaryDirectory() as folder, EpisodeStore(folder) as store:
        settings = {"model": "mock", "seed": 0, "width": live, "store": store, "progress": False}
        records = play(Room(NAME, EMBEDDED, Count), items(n), policy, PROTOCOL, own(texts), **settings)
    assert all(record["reward"] == 1 for record in records)


def run_loop(answer: Callable[[list[dict]], str], n: int) -> None:
    from agenttuning.protocols.react import read

    for item in items(n):
        env = Count(item)
        messages = [{"role": "user", "content": INSTRUCTION}, {"role": "assistant", "content": ACKNOWLEDGEMENT}]
        messages.append({"role": "user", "content": env.reset()})
        done = False
        while not done:
            reply = answer(messages)
            step = env.step(read(reply, 100).action)
            messages += [{"role": "assistant", "content": reply}, {"role": "user", "content": step.observation}]
            done = step.done
        assert env.score() == 1


def run_inspect(n: int, live: int) -> None:
    from inspect_ai import Task
    from inspect_ai import eval as inspect_eval
    from inspect_ai import model as of
    from inspect_ai.dataset import Sample
    from inspect_ai.scorer import Score, accuracy, scorer
    from inspect_ai.solver import solver

    from agenttuning.protocols.react import read

    @of.modelapi(name="instant")
    class Instant(of.ModelAPI):
        async def generate(self, input, tools, tool_choice, config):  # noqa: A002
            output = of.ModelOutput.from_content(self.model_name, REPLY)
            output.usage = of.ModelUsage(
                input_tokens=10, output_tokens=10, total_tokens=20
            )  # else it counts with tiktoken
            return output

        def max_connections(self) -> int:
            return live

    @solver
    def episode():
        async def solve(state, generate):
            env = Count({"target": state.metadata["target"]})
            state.messages = [of.ChatMessageUser(content=INSTRUCTION), of.ChatMessageAssistant(content=ACKNOWLEDGEMENT)]
            state.messages.append(of.ChatMessageUser(content=env.reset()))
            done = False
            while not done:
                output = await of.get_model().generate(state.messages)
                state.messages.append(output.message)
                step = env.step(read(output.completion, 100).action)
                state.messages.append(of.ChatMessageUser(content=step.observation))
                done = step.done
            state.metadata["reward"] = env.score()
            return state

        return solve

    @scorer(metrics=[accuracy()])
    def reward():
        async def score(state, target):
            return Score(value=state.metadata["reward"])

        return score

    samples = [Sample(input="count", id=item["id"], metadata={"target": item["target"]}) for item in items(n)]
    with tempfile.TemporaryDirectory() as folder:
        task = Task(dataset=samples, solver=episode(), scorer=reward())
        settings = {"log_dir": folder, "display": "none", "max_samples": live, "max_connections": live}
        (log,) = inspect_eval(task, model="instant/mock", **settings)
    assert log.status == "success" and log.results.scores[0].metrics["accuracy"].value == 1


def run_side(side: str, url: str, n: int, live: int) -> None:
    if side == "inspect":
        run_inspect(n, live)
    elif side in ("ours", "ours_async"):
        run_ours(batch if side == "ours" else Asked(), n, live)
    elif side == "ours_server":
        from agenttuning.policies.openai import OpenAIPolicy

        run_ours(OpenAIPolicy(url, "mock", max_new_tokens=128, slots=live), n, live)
    elif side == "loop":
        run_loop(lambda messages: REPLY, n)
    else:
        import httpx

        with httpx.Client(trust_env=False) as client:
            asked = {"model": "mock", "max_tokens": 128, "temperature": 0.0}

            def answer(messages: list[dict]) -> str:
                response = client.post(f"{url}/chat/completions", json={**asked, "messages": messages})
                return response.json()["choices"][0]["message"]["content"]

            run_loop(answer, n)


def measure(side: str, url: str, n: int, live: int) -> dict:
    """One timed run in this process, after a short one."""
    turns = sum(item["target"] for item in items(n))
    run_side(side, url, 20, live)
    wall, cpu = time.perf_counter(), time.process_time()
    run_side(side, url, n, live)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"wall_ms": 1000 * wall / turns, "cpu_ms": 1000 * cpu / turns}


@contextlib.contextmanager
def server():
    """The mock behind a loopback address, in a process of its own."""
    words = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


def serve_until_told() -> None:
    from agenttuning.policies.serve import serve

    with serve(batch, "mock") as url:
        print(url, flush=True)
        sys.stdin.read()


def compare(arguments: argparse.Namespace) -> dict:
    """All sides in turn, `repetitions` times; the record."""
    found: dict[str, list[dict]] = {side: [] for side in SIDES}
    before = os.getloadavg()[:2]
    with server() as url:
        for number in range(arguments.repetitions):
            for side in SIDES:
                words = [sys.executable, __file__, "--side", side, "--url", url]
                words += ["--episodes", str(arguments.episodes), "--live", str(arguments.live)]
                done = subprocess.run(words, capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
                found[side].append(json.loads(done.stdout.splitlines()[-1]))
                last = found[side][-1]
                print(f"{number + 1} {side:12} {last['wall_ms']:7.3f} ms a turn, cpu {last['cpu_ms']:7.3f}", flush=True)
    sides = {side: _summary(runs) for side, runs in found.items()}
    ratio = [theirs["wall_ms"] / ours["wall_ms"] for ours, theirs in zip(found["ours"], found["inspect"], strict=True)]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": platform.platform(),
        "cores": os.cpu_count(),
        "load": [before, os.getloadavg()[:2]],
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("httpx", "inspect-ai")},
        },
        "episodes": arguments.episodes,
        "turns": sum(item["target"] for item in items(arguments.episodes)),
        "live": arguments.live,
        "n": arguments.repetitions,
        "milliseconds_a_turn": sides,
        "inspect_to_ours": {"median": statistics.median(ratio), "all": ratio},
    }


def _summary(runs: list[dict]) -> dict:
    return {
        name: {"median": statistics.median(values), "least": min(values), "most": max(values)}
        for name in ("wall_ms", "cpu_ms")
        for values in [[run[name] for run in runs]]
    }


def _commit() -> str:
    done = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=300)
    parser.add_argument("--live", type=int, default=64, help="episodes at once")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the record here")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve_until_told()
    elif arguments.side:
        print(json.dumps(measure(arguments.side, arguments.url, arguments.episodes, arguments.live)))
    else:
        record = compare(arguments)
        text = json.dumps(record, indent=1)
        print(text)
        if arguments.out:
            arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
