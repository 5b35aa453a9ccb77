"""The ablation for the terminal: the table beside the paper's, differences, and the curve over eta."""

from __future__ import annotations

from agenttuning.scoring import published
from agenttuning.scoring.compare import table

BAR = 30  # characters of the longest bar
TITLES = published.GROUPS


def page(kind: str, rows: list[dict], unit: str, digits: int, reference: str | None) -> str:
    """The whole text. unit: what the scores are; reference: the row that the differences are taken from."""
    seeds = ", ".join(map(str, rows[-1]["seeds"]))
    several = len(rows[-1]["seeds"]) > 1
    how = f"95 % t intervals over seeds {seeds}" if several else f"seed {seeds}, 95 % intervals over items"
    lines = [f"{unit}; {how}; items are the same", ""]
    with_paper = any(row["published"] for row in rows)
    head = ["trained on", "eta", "realised"]
    for title in TITLES.values():
        head += [title, *([f"{title} published"] if with_paper else [])]
    shown = [head]
    for row in rows:
        line = [row["name"], _plain(row["eta"], 2), _plain(row["realised_eta"], 3)]
        for group in TITLES:
            line.append(score(row["groups"].get(group), digits))
            line += [_told(row["published"].get(group))] if with_paper else []
        shown.append(line)
    lines += table(shown)
    if reference and (found := [row for row in rows if row["differences"]]):
        body = [["difference", *TITLES.values()]]
        for row in found:
            cells = [_difference(row["differences"].get(group), digits) for group in TITLES]
            body.append([f"{row['name']} - {reference}", *cells])
        lines += ["", *table(body)]
    if with_paper:
        lines += ["", "published: the paper's tables; ? marks what is not verified (evaluation/published.yaml)"]
    if partial := _partial(rows):
        lines += ["", *partial]
    return "\n".join([*lines, *([""] + curve(rows, digits) if kind == "eta" else [])])


def score(number: dict | None, digits: int) -> str:
    """A score with its interval, which cannot lie below 0 as a t interval would have it, nor above 100."""
    if number is None:
        return "not run"
    text = f"{number['score']:.{digits}f}"
    if number["interval"] is None:
        return text
    low, high = max(0.0, number["interval"][0]), min(100.0, number["interval"][1])
    of = "" if len(number["tasks"]) == number["of"] else f" ({len(number['tasks'])} of {number['of']} tasks)"
    return f"{text} [{low:.{digits}f}, {high:.{digits}f}]{of}"


def _difference(number: dict | None, digits: int) -> str:
    if number is None:
        return ""
    low, high = number["interval"]
    return f"{number['difference']:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def _told(cell: dict | None) -> str:
    return "" if cell is None else f"{cell['value']:.2f}{'' if cell['verified'] else '?'}"


def _plain(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _partial(rows: list[dict]) -> list[str]:
    """A line for each group whose scores are over some of its tasks: not the paper's quantity."""
    lines = []
    for group, title in TITLES.items():
        seen = {tuple(row["groups"][group]["tasks"]) for row in rows if group in row["groups"]}
        of = max((row["groups"][group]["of"] for row in rows if group in row["groups"]), default=0)
        if any(len(tasks) < of for tasks in seen):
            names = sorted({task for tasks in seen for task in tasks})
            lines.append(f"{title} is over {', '.join(names)} alone, of {of} tasks: not the paper's number")
        if len(seen) > 1:
            lines.append(f"{title}: the rows are over different tasks and must not be set beside each other")
    return lines


def curve(rows: list[dict], digits: int) -> list[str]:
    """A bar an eta for each group that ran, and which eta is best."""
    lines = []
    for group, title in TITLES.items():
        scored = [row for row in rows if row["eta"] is not None and group in row["groups"]]
        values = {row["eta"]: row["groups"][group]["score"] for row in scored}
        if not values:
            continue
        scale = BAR / max([*values.values(), 1e-9])
        lines.append(f"{title} by eta")
        lines += [
            f"  {eta:<5g}{v:>8.{digits}f}  {'#' * round(scale * v)}".rstrip() for eta, v in sorted(values.items())
        ]
    return [*lines, "", best(rows, digits)]


def best(rows: list[dict], digits: int) -> str:
    """Which eta is best by the held-out score, as the paper chose; where that was not run, by the mean of what was.

    Names every eta whose interval reaches the best score: so many items do not tell them apart.
    """
    rows = [row for row in rows if row["eta"] is not None]
    complete = {g for g in TITLES if all(g in row["groups"] for row in rows)}
    by = ["held_out"] if "held_out" in complete else sorted(complete)
    if not by:
        return "no group was scored for every eta, so there is no best one"
    values = {row["eta"]: sum(row["groups"][g]["score"] for g in by) / len(by) for row in rows}
    top = max(values.values())
    winners = [eta for eta, value in values.items() if value == top]
    named = " and ".join(TITLES[group] for group in by)
    text = f"best eta by {named} score: {', '.join(f'{eta:g}' for eta in winners)} ({top:.{digits}f})"
    if by != ["held_out"]:
        text += "; the paper chose by held-out, which was not run"
    if len(winners) == len(rows):
        return f"{text}; all are the same, so this chooses none"
    if len(by) == 1:
        near = [row["eta"] for row in rows if row["eta"] not in winners and _reaches(row["groups"][by[0]], top)]
        text += f"; not told apart from it: {', '.join(f'{e:g}' for e in near)}" if near else ""
    return text


def _reaches(number: dict, top: float) -> bool:
    return number["interval"] is not None and number["interval"][1] >= top
