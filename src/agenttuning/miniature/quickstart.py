"""The miniature's verbs. `base` runs; `ablation` and `quickstart` are not joined from their parts yet."""

from __future__ import annotations

from pathlib import Path

from agenttuning.errors import UserError


def _unfinished(verb: str) -> UserError:
    return UserError(
        f"`{verb}` is not finished in this version: the miniature does not yet reach the scores it is meant "
        "to show, so nothing would be worth reporting; docs/notes/miniature.md says what is known; "
        "`make test` and `make plan-13b` work"
    )


def base(path: str) -> None:
    """Make the base model of the recipe folder `path`: its two corpora, its random start, then its pretrain.yaml.

    The recipe's steps are not tuned yet; no score of this base is claimed. Raises UserError as its parts do.
    """
    from agenttuning.miniature.corpus import write_corpus
    from agenttuning.miniature.start import make_start
    from agenttuning.recipe import load
    from agenttuning.train import train

    folder = Path(path)
    for name in ("corpus.yaml", "general.yaml"):
        print(f"written: {write_corpus(folder / name)}", flush=True)
    recipe = load(folder / "pretrain.yaml")
    make_start(folder / "config.json", Path(recipe.values["model_name_or_path"]), recipe.values["seed"])
    print(f"model: {train(recipe)}", flush=True)


def ablation(path: str) -> None:
    """Would train and judge agent-only, general-only and mixed. Raises UserError: not finished."""
    raise _unfinished("ablation")


def quickstart(path: str) -> None:
    """Would run the whole method. Raises UserError: not finished."""
    raise _unfinished("quickstart")
