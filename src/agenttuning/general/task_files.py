"""Documents and task files as lm-eval reads them: the committed file of evaluation/lm_eval/, with its blanks filled in.

What is written can be read by lm-eval alone: `lm_eval run --include_path FOLDER --tasks NAME`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from agenttuning.general.protocol import TASK_FILES, Rules


def write_documents(path: Path, rows: list[dict]) -> str:
    """Write rows as JSONL, whole or not at all; the absolute path, as a task file names it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_text("".join(json.dumps(row, default=str) + "\n" for row in rows), encoding="utf-8")
    partial.replace(path)
    return str(path.resolve())


def write_task(
    folder: Path, name: str, rules: Rules, files: Mapping[str, str], cache: str | None, filled: Mapping[str, Any]
) -> str:
    """Write NAME.yaml, which includes the committed file and what fills it in; the task's name. files: {split: path};
    cache: the folder where `datasets` keeps its copy, None for its own place.
    """
    place = {"data_files": dict(files), **({"cache_dir": cache} if cache else {})}
    content = {"include": str(TASK_FILES / f"{rules.lm_eval}.yaml"), "task": name, "dataset_kwargs": place}
    if "include" in filled:  # lm-eval's own file comes first, ours says where the documents are
        content["include"] = [filled["include"], content["include"]]
    content |= {key: value for key, value in filled.items() if key != "include"}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return name


def installed(name: str) -> str:
    """The path of a file below lm_eval/tasks/ of the installed lm-eval."""
    return str(Path(find_spec("lm_eval").origin).parent / "tasks" / name)
