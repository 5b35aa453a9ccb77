"""Episodes on the terminal: a table of them, one of them to read, and how often each task was won.

What a model or an environment wrote is other people's text. It is printed with its control characters spelt out, in
one line in a table, and behind a bar in a trajectory, so that it neither steers the terminal nor looks like a line of
ours.
"""

from __future__ import annotations

from agenttuning.chat.show import RESET, escape
from agenttuning.episodes.index import Entry, Index
from agenttuning.episodes.trajectory import FRESH, first_turn, own_turn
from agenttuning.scoring import intervals
from agenttuning.scoring.compare import table

MOST_CHARACTERS = 1500  # of a message, unless --full
CELL = 40  # characters of a cell of the table
COLOURS = {"prompt": "\x1b[2m", "user": "\x1b[36m", "assistant": "\x1b[32m", "refused": "\x1b[31m", "head": "\x1b[1m"}


def one_line(text: str, most: int = CELL) -> str:
    """Text for a cell: escaped, newlines too, and cut."""
    short = escape(text[:most]).replace("\n", "\\n").replace("\t", "\\t")
    return f"{short}…" if len(text) > most else short


def cut(text: str, most: int | None) -> str:
    """Text of at most `most` characters, None for all of it, escaped; what is cut is counted."""
    if most is None or len(text) <= most:
        return escape(text)
    return f"{escape(text[:most])} … ({len(text) - most:,} of {len(text):,} characters cut)"


def episodes_table(index: Index, chosen: list[Entry], limit: int | None) -> str:
    """One line an episode, at most `limit` of them (None: all), and what is not shown, counted."""
    shown = chosen if limit is None else chosen[:limit]
    several = index.several
    rows = [["store"] * several + ["line", "task", "item", "status", "reward", "turns", "error kinds"]]
    for entry in shown:
        place = [one_line(entry.path.parent.name)] * several + [str(entry.line)]
        end = [entry.status, reward(entry.reward), str(entry.turns)]
        kinds = ", ".join(kind.replace("_", " ") for kind in entry.kinds)
        rows.append([*place, one_line(entry.task), one_line(entry.item), *end, kinds])
    lines = table(rows)
    if len(shown) < len(chosen):
        lines.append(f"… {len(chosen) - len(shown):,} more (--limit 0 shows all)")
    return "\n".join([*lines, "", counted(index, chosen)])


def counted(index: Index, chosen: list[Entry]) -> str:
    """How many episodes were chosen of how many, how they ended, and what of the file is not among them."""
    lost, won = sum(entry.lost for entry in chosen), sum(entry.won for entry in chosen)
    text = f"{len(chosen):,} of {len(index.entries):,} episodes: {won:,} won, {len(chosen) - won - lost:,} not won"
    if lost:
        text += f", {lost:,} lost to infrastructure"
    if index.superseded:
        text += f"; {index.superseded:,} earlier records of the same episodes are not shown"
    if index.unfinished:
        text += f"; a record of {index.unfinished:,} bytes is not finished"
    return text


def summary(chosen: list[Entry]) -> str:
    """Successes (the whole reward) with Wilson's 95 % interval, and the mean reward, x 100, for each task, backend,
    protocol and model. Episodes lost to infrastructure are in no rate.
    """
    groups: dict[tuple, list[Entry]] = {}
    for entry in chosen:
        groups.setdefault((entry.task, entry.backend, entry.protocol, entry.model), []).append(entry)
    rows = [["task", "backend", "protocol", "model", "won of n", "success", "mean reward", "lost", "items"]]
    for names, entries in sorted(groups.items()):
        scored = [entry for entry in entries if not entry.lost]
        won, n = sum(entry.won for entry in scored), len(scored)
        rewards = [entry.reward for entry in scored]
        rates = ["-", "-"]
        if scored:
            rates = [
                f"{100 * won / n:.1f} {_range(intervals.wilson(won, n))}",
                f"{100 * sum(rewards) / n:.1f} {_range(intervals.mean_interval(rewards))}",
            ]
        items = len({(entry.item, entry.seed) for entry in scored})
        cells = [f"{won} of {n}", *rates, str(len(entries) - n), str(items)]
        rows.append([*(one_line(name, 32) for name in names), *cells])
    lines = table(rows)
    if any(row[-1] != row[4].rpartition(" ")[2] for row in rows[1:]):
        lines += ["", "Several episodes an item: they are not independent, and the intervals are too narrow for them."]
    return "\n".join(lines)


def trajectory(record: dict, kinds: tuple[str, ...], colour: bool, full: bool = False) -> str:
    """One episode to read: a head, every message behind a bar, every step's verdict, and how it ended."""
    most = None if full else MOST_CHARACTERS

    def painted(kind: str, text: str) -> str:
        return f"{COLOURS[kind]}{text}{RESET}" if colour and kind in COLOURS else text

    def block(kind: str, who: str, text: str) -> list[str]:
        body = [f"  | {line}" for line in cut(text, most).split("\n")]
        return [painted("head", who), *(painted(kind, line) for line in body)]

    lines = [painted("head", one_line(f"{record['task']} {record['item']}", 200)), *_facts(record, kinds)]
    first, turn, steps = first_turn(record), 0, record["steps"]
    for place, message in enumerate(record["messages"]):
        if own_turn(message):
            step = steps[turn] if turn < len(steps) else None
            turn += 1
            kind = "refused" if step and not step["valid"] else "assistant"
            lines += ["", *block(kind, f"model, turn {turn}{_verdict(step)}", message["content"])]
        else:
            prompt = place < first - 1 or message["role"] == "assistant"
            who = f"prompt, {message['role']}" if prompt else "environment"
            lines += ["", *block("prompt" if prompt else "user", escape(who), message["content"])]
    if record.get("last") is not None:
        lines += ["", *block("user", "environment, after the last action", record["last"])]
    if record.get("error"):
        lines += ["", *block("refused", "error", record["error"])]
    return "\n".join(lines)


def _facts(record: dict, kinds: tuple[str, ...]) -> list[str]:
    facts = {
        "status": f"{record['status']}, reward {reward(record['reward'])}, {record['turns']} turns",
        "errors": ", ".join(kind.replace("_", " ") for kind in kinds) or "none found",
        "model": one_line(record["model"], 200),
        "played": one_line(f"{record['backend']}, {record['protocol']}, seed {record['seed']}, sample "
                           f"{record['sample']}, prompt {record.get('prompt')}", 300),
    }  # fmt: skip
    if record.get("metrics"):
        facts["metrics"] = one_line(", ".join(f"{name} {value}" for name, value in record["metrics"].items()), 400)
    if record["task"] in FRESH:
        facts["note"] = "each question was asked alone, behind the prompt"
    return [f"  {name:<8} {text}" for name, text in facts.items()]


def _verdict(step: dict | None) -> str:
    if step is None:
        return ""
    if step["action"] is None:
        return ": no action"
    words = [] if step["valid"] else ["refused"]
    words += ["cut"] if step.get("cut") else []
    words += [one_line(str(step["error"]))] if step.get("error") else []
    return f": {', '.join(words)}" if words else ""


def reward(value: float | None) -> str:
    """A reward, or that there is none."""
    return "-" if value is None else f"{value:.2f}"


def _range(interval: intervals.Interval) -> str:
    return f"[{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
