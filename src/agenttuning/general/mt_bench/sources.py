"""Where MT-Bench's three files are: a checkout of FastChat, a folder, or a repository on the Hub at a pinned commit."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from agenttuning.data.files import file_digest
from agenttuning.data.lock import LOCK, pin
from agenttuning.data.reach import reach_hub
from agenttuning.data.sources import SourceCard
from agenttuning.errors import UserError
from agenttuning.general.mt_bench.rules import FILE, DataRules

QUESTIONS, PROMPTS, REFERENCES = "question.jsonl", "judge_prompts.jsonl", "gpt-4.jsonl"
# (folder of question.jsonl and reference_answer/, folder of judge_prompts.jsonl), from the root of a checkout inwards
LAYOUTS = (
    ("fastchat/llm_judge/data/mt_bench", "fastchat/llm_judge/data"),
    ("data/mt_bench", "data"),
    ("mt_bench", ""),
    ("", ""),
)
HUB = re.compile(r"hf://(?:(datasets|spaces)/)?([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
TYPES = {"datasets": "dataset", "spaces": "space", None: "model"}


@dataclass(frozen=True)
class Files:
    """The three files by name, what they were read from in words without a path, and its commit where one is known."""

    paths: dict[str, Path]
    source: str
    revision: str | None

    @property
    def sha256(self) -> dict[str, str]:
        """sha256 of each file, in hex."""
        return {name: file_digest(path) for name, path in self.paths.items()}


def find(path: str | Path | None, data: DataRules) -> Files:
    """The files at `path`: a folder, `hf://datasets/ID@REVISION` or `hf://spaces/ID@REVISION`; None: the rules' own
    place on the Hub. Raises UserError where a file is missing or the Hub cannot be reached.
    """
    if path is None:
        return _on_hub(data.hub_id, data.repo_type, data.revision)
    if (found := HUB.fullmatch(str(path))) is not None:
        return _on_hub(found[2], TYPES[found[1]], found[3] or "main")
    return _local(Path(path))


def _local(root: Path) -> Files:
    if not root.is_dir():
        raise UserError(
            f"{root} is no folder; there are no questions to ask; give a checkout of FastChat, a folder with "
            f"{QUESTIONS}, {PROMPTS} and reference_answer/{REFERENCES}, or hf://datasets/ID@REVISION"
        )
    names = next((names for names in map(_names, LAYOUTS) if (root / names[QUESTIONS]).is_file()), None)
    if names is None:
        raise UserError(
            f"{root} holds no {QUESTIONS}, here or under fastchat/llm_judge/data/mt_bench; there are no questions to "
            "ask; give a checkout of FastChat"
        )
    paths = {name: root / place for name, place in names.items()}
    if not paths[PROMPTS].is_file() and (root.parent / PROMPTS).is_file():
        paths[PROMPTS] = root.parent / PROMPTS  # the folder mt_bench of a checkout was given
    _refuse_missing({name: names[name] for name, path in paths.items() if not path.is_file()}, str(root))
    commit = _commit(root, list(paths.values()))
    return Files(paths, "a checkout" if commit else "a folder", commit)


def _names(layout: tuple[str, str]) -> dict[str, str]:
    inner, outer = map(PurePosixPath, layout)
    references = inner / "reference_answer" / REFERENCES
    places = {QUESTIONS: inner / QUESTIONS, PROMPTS: outer / PROMPTS, REFERENCES: references}
    return {name: place.as_posix() for name, place in places.items()}


def _refuse_missing(missing: dict[str, str], where: str) -> None:
    if missing:
        raise UserError(
            f"{where} has questions but no {', '.join(missing.values())}; the answers could not be judged; "
            "give a checkout of FastChat, which has all three files"
        )


def _commit(root: Path, files: list[Path]) -> str | None:
    """The commit of the checkout that the files are tracked in, with "+changes" where they differ from it."""
    head = _git(root, "rev-parse", "HEAD")
    names = [str(file.resolve()) for file in files]
    if head is None or _git(root, "ls-files", "--error-unmatch", "--", *names) is None:
        return None
    return head + ("+changes" if _git(root, "status", "--porcelain", "--", *names) else "")


def _git(root: Path, *words: str) -> str | None:
    # without a file monitor, which a checkout's own configuration could name
    command = ["git", "-c", "core.fsmonitor=false", "-C", str(root), *words]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _on_hub(hub_id: str, repo_type: str, revision: str) -> Files:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    card = SourceCard(name="mt_bench", format="messages", hub_id=hub_id, revision=revision)
    card = pin(card, lock=FILE.with_name(LOCK), repo_type=repo_type)

    def get(name: str) -> Path | None:
        try:
            return Path(hf_hub_download(hub_id, name, repo_type=repo_type, revision=card.revision))
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            return None

    def get_all(_: str) -> tuple[dict[str, str], dict[str, Path | None]]:
        for names in map(_names, LAYOUTS):
            if (questions := get(names[QUESTIONS])) is not None:
                return names, {QUESTIONS: questions, **{n: get(names[n]) for n in (PROMPTS, REFERENCES)}}
        raise EntryNotFoundError(f"it has no {QUESTIONS} where FastChat has it")

    names, paths = reach_hub(card, get_all)
    place = f"hf://{'' if repo_type == 'model' else repo_type + 's/'}{hub_id}"
    _refuse_missing({name: names[name] for name, path in paths.items() if path is None}, f"{place} at {card.revision}")
    return Files(paths, place, card.revision)
