"""How fast a mixture of the paper's size is tokenised, masked, mixed and packed, beside TRL's own preparation.

    python benchmarks/data.py [--conversations 62632] [--peer 6000]

Generated conversations (1,866 agent, 3,670 and 57,096 chat, scaled) with the lengths that a simulation of the paper's
mixture has: lognormal, median 1,033 and mean 1,560 tokens. One after another: ours on all, ours on half (memory), and
on `--peer` of them ours and TRL's own preparation, both with as many processes as there are cores, each twice in turn:
the ratio of their tokens per second, and how many conversations got the same ids from both. Memory is what the
processes hold, added over all of them (pages that they share count for each), sampled five times a second; files that
are mapped into memory are not in it, the system takes those back when it needs room. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from itertools import accumulate
from pathlib import Path
from threading import Event, Thread

ROOT = Path(__file__).resolve().parents[1]
SHARES = {"agents": 0.20, "gpt4": 0.16, "gpt35": 0.64}
SIZES = {"agents": 1866, "gpt4": 3670, "gpt35": 57096}
MEDIAN, SIGMA = 1033, math.sqrt(2 * math.log(1560 / 1033))  # tokens; mean = median x exp(sigma^2 / 2)
WORDS = 30_000
TOKENS_PER_WORD = 1.3  # of this text in the tokenizer below, turns included; main() prints what came out
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{% generation %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
)


def words(rng: random.Random) -> list[str]:
    """Invented words of one to four syllables."""
    syllables = [a + b + c for a in "bcdfghklmnprstvw" for b in "aeiou" for c in ("", "n", "r", "s", "t")]
    return ["".join(rng.choices(syllables, k=rng.choice((1, 2, 2, 3, 3, 4)))) for _ in range(WORDS)]


def document_tokens(rng: random.Random) -> float:
    """The length of one conversation of the simulated mixture, in tokens."""
    return rng.lognormvariate(math.log(MEDIAN), SIGMA)


def write_rows(folder: Path, scale: float, shrink: float = 1.0) -> int:
    """JSONL files of the three sources, conversations `shrink` times shorter; returns the number of conversations."""
    rng = random.Random(0)
    vocabulary = words(rng)
    weights = [1 / (rank + 10) for rank in range(WORDS)]  # Zipf
    total = 0
    for name, size in SIZES.items():
        count = max(8, round(size * scale))
        total += count
        with (folder / f"{name}.jsonl").open("w") as out:
            for number in range(count):
                length = max(8, int(document_tokens(rng) / TOKENS_PER_WORD / shrink))
                text = rng.choices(vocabulary, weights, k=length)
                turns = 2 * max(1, min(8, length // 120))
                step = max(1, length // turns)
                parts = [" ".join(text[i * step : (i + 1) * step]) for i in range(turns)]
                conversation = [
                    {"from": "human" if i % 2 == 0 else "gpt", "value": part, "loss": None if i % 2 == 0 else True}
                    for i, part in enumerate(parts)
                ]
                out.write(json.dumps({"id": f"{name}_{number}", "conversations": conversation}) + "\n")
    return total


def write_sources(root: Path, scale: float, entries: int, shrink: float = 1.0) -> int:
    """Cards, rows, accelerate_configs/cpu.yaml and a tokenizer of `entries` entries below `root`; returns the number
    of conversations.
    """
    from agenttuning.chat import save_tokenizer
    from agenttuning.miniature.tokenizer import build_tokenizer

    (root / "raw").mkdir(parents=True)
    total = write_rows(root / "raw", scale, shrink)
    for name in SIZES:
        card = root / "data_cards" / name
        card.mkdir(parents=True)
        format = "agentinstruct" if name == "agents" else "sharegpt"
        (card / "source.yaml").write_text(f"path: raw/{name}.jsonl\nformat: {format}\n")
    rng, vocabulary = random.Random(1), words(random.Random(0))
    texts = [" ".join(rng.choices(vocabulary, k=400)) for _ in range(200)]
    save_tokenizer(build_tokenizer([f"[INST] {text} [/INST]" for text in texts], entries), root / "tokenizer")
    (root / "accelerate_configs").mkdir()
    (root / "accelerate_configs" / "cpu.yaml").write_text((ROOT / "accelerate_configs" / "cpu.yaml").read_text())
    return total


def write_repository(root: Path, scale: float) -> int:
    """The sources, a tokenizer of Llama's size and a recipe over them; returns the number of conversations."""
    total = write_sources(root, scale, 32_000)
    sources = ", ".join(f"{name}: {{share: {share}}}" for name, share in SHARES.items())
    (root / "recipes" / "bench").mkdir(parents=True)
    (root / "recipes" / "bench" / "sft.yaml").write_text(
        f"model_name_or_path: {root / 'tokenizer'}\nmax_steps: 1\nmax_length: 4096\npacking: true\n"
        "per_device_train_batch_size: 1\nlearning_rate: 1.0e-5\nseed: 42\nloss: flags\n"
        f"mixture: {{sources: {{{sources}}}, draws: {total}, overlong: truncate_end}}\n"
        "launch: {global_batch: 64, accelerate_config: cpu}\n"
    )
    return total


class Memory(Thread):
    """The most memory that this process and its children held at a time, in bytes, mapped files left out (Linux)."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self._done = 0, Event()
        self.start()

    def run(self) -> None:
        while not self._done.wait(0.2):
            self.peak = max(self.peak, _held(os.getpid()))

    def stop(self) -> float:
        """End, and return the peak in GiB."""
        self._done.set()
        self.join()
        return max(self.peak, _held(os.getpid())) / 2**30


def _held(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has ended
        return 0
    own = sum(int(line.split()[1]) for line in status.splitlines() if line.startswith(("RssAnon", "VmSwap")))
    return own * 1024 + sum(_held(int(child)) for child in children)


def ours(root: Path) -> dict:
    """Build the mixture of the repository and measure it."""
    import numpy
    from trl import pack_dataset  # noqa: F401 (imported now: some seconds, which the peer's clock does not count either)

    from agenttuning.chat import load_tokenizer
    from agenttuning.data.prepare import prepare
    from agenttuning.data.rows import trainable_rows
    from agenttuning.recipe import load

    recipe = load(root / "recipes" / "bench" / "sft.yaml", (), root / "run")
    tokenizer = load_tokenizer(str(root / "tokenizer"))
    memory, begun = Memory(), time.perf_counter()
    prepared = prepare(recipe, tokenizer, root / "run" / "data")
    middle = time.perf_counter()
    rows = trainable_rows(prepared, recipe)
    seconds, held = time.perf_counter() - begun, memory.stop()
    tokens, window = prepared.mixture["tokens"], 50 * 64
    agent = numpy.array([[(row["labels"] != -100).sum(), _agent(row)] for row in rows])
    windows = [agent[i : i + window].sum(0) for i in range(0, max(1, len(agent) - window + 1), 64)]
    shares = [int(one[1]) / int(one[0]) for one in windows]
    return {
        "conversations": prepared.mixture["draws"],
        "tokens": tokens,
        "seconds": seconds,
        "seconds_packing": seconds - (middle - begun),
        "tokens_per_second": tokens / seconds,
        "filled": tokens / (len(rows) * 4096),
        "peak_memory_gib": held,
        "digests": sorted({_digest(row) for row in prepared.load() if len(row["input_ids"]) < 4096}),
        "agent_share_of_supervised": int(agent[:, 1].sum()) / int(agent[:, 0].sum()),
        "agent_share_in_windows": [min(shares), max(shares)],
    }


def _digest(row: dict) -> str:
    return hashlib.sha256(json.dumps([list(row["input_ids"]), list(row["labels"])]).encode()).hexdigest()[:16]


def _parts(row: dict) -> list[dict]:
    """The conversations of a packed row of TRL's."""
    ends = list(accumulate(row["seq_lengths"]))
    places = list(zip([0, *ends[:-1]], ends, strict=True))
    return [{name: row[name][begin:end] for name in ("input_ids", "labels")} for begin, end in places]


def _agent(row: dict) -> int:
    return int((row["origin"] == 0).sum())  # sources are in alphabetical order: agents, gpt35, gpt4


def peer(root: Path) -> dict:
    """TRL's SFTTrainer preparing the same conversations: its constructor does it, with a model that costs nothing."""
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    from agenttuning.chat import load_tokenizer

    tokenizer = load_tokenizer(str(root / "tokenizer"))
    tokenizer.chat_template = TEMPLATE
    rows = [json.loads(line) for name in SIZES for line in (root / "raw" / f"{name}.jsonl").open()]
    role = {"human": "user", "gpt": "assistant"}
    messages = [[{"role": role[t["from"]], "content": t["value"]} for t in row["conversations"]] for row in rows]
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(**shape, vocab_size=len(tokenizer)))
    settings = SFTConfig(
        output_dir=str(root / "peer"), max_length=4096, packing=True, assistant_only_loss=True, report_to="none",
        use_cpu=True, bf16=False, disable_tqdm=True, dataset_num_proc=os.cpu_count(),
    )  # fmt: skip
    data = Dataset.from_dict({"messages": messages})
    memory, begun = Memory(), time.perf_counter()
    trainer = SFTTrainer(model, args=settings, train_dataset=data, processing_class=tokenizer)
    seconds = time.perf_counter() - begun
    held = memory.stop()
    tokens = sum(len(row["input_ids"]) for row in trainer.train_dataset)
    return {
        "conversations": len(rows),
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "peak_memory_gib": held,
        "digests": sorted({_digest(part) for row in trainer.train_dataset for part in _parts(row)}),
    }


def measured(part: str, scale: float) -> dict:
    """Run `part` in a process of its own, so that one's memory is not the other's."""
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
        env |= {"HF_DATASETS_CACHE": f"{folder}/cache", "TOKENIZERS_PARALLELISM": "true"}
        words = [sys.executable, __file__, "--part", part, "--root", f"{folder}/repository", "--scale", str(scale)]
        done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{part} failed: {done.stderr[-2000:]}")
        return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--conversations", type=int, default=sum(SIZES.values()))
    parser.add_argument("--peer", type=int, default=6000, help="conversations that TRL prepares too")
    for hidden in ("--part", "--root", "--scale"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        root = Path(given.root)
        write_repository(root, float(given.scale))
        print(json.dumps({"ours": ours, "peer": peer}[given.part](root)))
        return
    load = os.getloadavg()
    full, small = given.conversations / sum(SIZES.values()), given.peer / sum(SIZES.values())
    results = {name: measured(part, scale) for name, part, scale in (
        ("ours", "ours", full), ("ours, half the rows", "ours", full / 2), ("ours, small", "ours", small),
        ("TRL, small", "peer", small), ("ours, again", "ours", small), ("TRL, again", "peer", small),
    )}  # fmt: skip
    digests = {name: set(found.pop("digests")) for name, found in results.items()}
    for name, found in results.items():
        print(f"{name:<20}", ", ".join(f"{key} {_short(value)}" for key, value in found.items()))
    ratios = [
        results[f"ours, {run}"]["tokens_per_second"] / results[f"TRL, {run}"]["tokens_per_second"]
        for run in ("small", "again")
    ]
    print(
        f"ours is {ratios[0]:.2f} and {ratios[1]:.2f} times as fast as TRL on the same "
        f"{results['TRL, small']['conversations']:,} conversations"
    )
    same = len(digests["ours, small"] & digests["TRL, small"])
    print(f"{same:,} of {len(digests['ours, small']):,} different conversations have the same ids and labels in both")
    print(f"{os.cpu_count()} cores, load average {load[0]:.1f} before, {os.getloadavg()[0]:.1f} after")


def _short(value) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_short, value))}]"
    return f"{value:,.3f}" if isinstance(value, float) else f"{value:,}"


if __name__ == "__main__":
    main()
