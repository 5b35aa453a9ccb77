"""What a comparison with the published numbers says, as data: for the terminal, RESULTS.md, the page and the cards.

`scoring.compare` makes it from a run's scores and writes it to <run directory>/results/comparison.json; whoever shows
or publishes results reads it from there and computes nothing anew.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from agenttuning.errors import UserError

SCHEMA = "agenttuning-comparison/1"
FILE = "results/comparison.json"
SIDES = ("base", "tuned", "released")  # the model it started from, the run's own, the authors' AgentLM
VERDICTS = ("consistent", "differs", "not comparable", "not run")


@dataclass(frozen=True)
class Row:
    """One task of published.yaml for one side. Scores, intervals (95 %) and differences in the task's own unit.

    published_interval: from n where the metric is a proportion, else None. detectable: the smallest true difference
    that n items would have shown (two-sided 5 %, power 80 %). why: the reason of `not comparable`; for `not run` the
    command with hours and cost; else what to know about the verdict, or "". protocol, backend: `name@version` and name;
    None where nothing was run. scores: the file that the score stands in, relative to the run's folder.

    A task and side have one row with `beside` false, which has the verdict. Rows with `beside` true follow it: further
    results of the same task (another protocol, backend or set of items), all `not comparable`.
    """

    task: str
    title: str
    group: str
    metric: str
    side: str
    published_model: str
    published: float
    published_n: int
    published_interval: tuple[float, float] | None
    verified: bool
    verdict: str
    why: str = ""
    ours: float | None = None
    interval: tuple[float, float] | None = None
    n: int | None = None
    difference: float | None = None
    difference_interval: tuple[float, float] | None = None
    detectable: float | None = None
    protocol: str | None = None
    backend: str | None = None
    model: str | None = None
    scores: str | None = None
    beside: bool = False


@dataclass(frozen=True)
class Overall:
    """The paper's overall score of a group for one side: over `tasks`, those that ran by one protocol, of `of`; None
    where none did.

    Only where `tasks` are all of the group is `ours` the paper's quantity; `published_same` is the published score over
    the very same tasks.
    """

    group: str
    side: str
    published: float
    tasks: tuple[str, ...]
    of: int
    ours: float | None = None
    interval: tuple[float, float] | None = None
    published_same: float | None = None


@dataclass(frozen=True)
class Pair:
    """Two of our own results over the same items: `what` is tested, e.g. "tuned - base"; difference second - first."""

    what: str
    task: str
    protocol: str
    first: str
    second: str
    n: int
    difference: float
    interval: tuple[float, float]
    p: float


@dataclass(frozen=True)
class Comparison:
    """All of it. size: 7b, 13b or 70b; date and commit are those of the making."""

    recipe: str
    size: str
    date: str
    commit: str | None
    rows: tuple[Row, ...]
    overalls: tuple[Overall, ...]
    pairs: tuple[Pair, ...]


def write(made: Comparison, run_dir: Path) -> Path:
    """Write results/comparison.json (whole or not at all) and return its path."""
    path = run_dir / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_text(json.dumps({"schema": SCHEMA, **asdict(made)}, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def read(run_dir: Path) -> Comparison | None:
    """The comparison of a run; None where there is none. Raises UserError for a file of another make."""
    path = run_dir / FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("schema") != SCHEMA:
            raise ValueError("another schema")
        parts = {"rows": Row, "overalls": Overall, "pairs": Pair}
        made = {name: tuple(kind(**_tuples(one)) for one in content.pop(name)) for name, kind in parts.items()}
        return Comparison(**content, **made)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read as a comparison ({type(error).__name__}); its numbers would be left out or wrong; "
            "make it again with `agenttuning compare`"
        ) from error


def _tuples(content: dict) -> dict:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
