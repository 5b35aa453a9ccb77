"""The samples of the data cards: what the code makes of data_cards/NAME/samples/raw.jsonl, at each stage.

`PYTHONPATH=src:tests python tests/helpers/card_samples.py` writes them again; the raw rows are written by hand.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from helpers.llama_tokenizer import build_tokenizer

CARDS = Path(__file__).resolve().parents[2] / "data_cards"
RAW = "raw.jsonl"
PROMPT = "You are a helpful, respectful and honest assistant."  # as recipes/base.yaml; agentlm-tiny has none
# One source, with enough draws for each row to come at least once; any number of rows may be malformed.
RECIPE = """
model_name_or_path: {model}
max_steps: 1
max_length: 4096
per_device_train_batch_size: 1
learning_rate: 1.0e-3
seed: 1
loss: flags
mixture:
  sources: {{{name}: {{share: 1.0}}}}
  draws: 16
  seed: 1
  system_prompt: {prompt}
  max_quarantined: 1.0
launch: {{global_batch: 1, accelerate_config: cpu}}
"""


def stages(name: str) -> dict[str, str]:
    """File name to content: the converted rows, the text of their tokens, and what was left out and why."""
    from agenttuning import chat, recipe
    from agenttuning.chat.show import render
    from agenttuning.data.prepare import prepare
    from agenttuning.data.quarantine import Quarantine, rows
    from agenttuning.data.sources import load_card

    raw, tokenizer = CARDS / name / "samples" / RAW, build_tokenizer()
    converted = list(rows(load_card(name), raw, Quarantine(name)))
    with tempfile.TemporaryDirectory() as folder:
        chat.save_tokenizer(tokenizer, Path(folder) / "model")
        path = Path(folder) / "recipe.yaml"
        prompt = "null" if name.startswith("miniature") else PROMPT
        path.write_text(RECIPE.format(model=Path(folder) / "model", name=name, prompt=prompt), encoding="utf-8")
        prepared = prepare(recipe.load(path), tokenizer, Path(folder) / "data", {name: raw})
        drawn = {row["id"]: row for row in prepared.load()}
        left_out = {key: prepared.mixture["sources"][name][key] for key in ("rows_read", "not_kept", "defects")}
        for file in ("quarantine", "dropped"):
            lines = (prepared.path / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()
            left_out[file] = sorted(map(json.loads, lines), key=lambda line: (line["reason"], str(line["id"])))
    texts = []
    for row in (drawn[row["id"]] for row in converted if row["id"] in drawn):
        trained = sum(label != -100 for label in row["labels"])
        texts.append(
            f"--- {row['id']}: {len(row['input_ids'])} tokens, {trained} supervised\n"
            + render(row["input_ids"], row["labels"], tokenizer, colour=False)
            + "\n"
        )
    return {
        "messages.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in converted),
        "tokens.txt": "\n".join(texts),
        "left_out.json": json.dumps(left_out, indent=2, ensure_ascii=False) + "\n",
    }


if __name__ == "__main__":
    for card in sorted(path.parent.name for path in CARDS.glob("*/source.yaml")):
        for file, text in stages(card).items():
            (CARDS / card / "samples" / file).write_text(text, encoding="utf-8")
