"""What `decontaminate` found, as a table on the screen, contamination.json and contamination.md."""

from __future__ import annotations

import json
from pathlib import Path

from agenttuning.chat.show import escape
from agenttuning.data.contamination import KINDS
from agenttuning.scoring.compare import table as aligned

SHOWN = 20  # examples of a suite in the Markdown report; the JSON has all that are not clean


def table(report: dict) -> str:
    """The counts, one line a suite, and what was not compared."""
    rows = [["suite", "examples", *(kind.replace("_", " ") for kind in KINDS), "contaminated tokens"]]
    for name, suite in report["suites"].items():
        counts = [f"{suite[key]:,}" for key in ("examples", *KINDS)]
        rows.append([escape(name), *counts, f"{suite['contaminated_tokens'] / max(1, suite['tokens']):.2%}"])
    training = report["training"]
    return "\n".join(
        [
            f"{training['conversations']:,} conversations ({training['malformed']:,} more are malformed), "
            f"{training['turns']:,} turns, {training['tokens']:,} tokens compared",
            *aligned(rows),
            f"{training['with_part_of_dirty']:,} conversations hold a part of a dirty example",
            *(f"NOT compared: {escape(name)} ({escape(why)})" for name, why in report["not_compared"].items()),
        ]
    )


def write(run_dir: Path, report: dict) -> None:
    """Write <run_dir>/contamination.json, whole, and contamination.md, with the first examples of each suite."""
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "contamination.json").write_text(json.dumps(report, indent=1) + "\n", encoding="ascii")
    lines = [f"# Contamination: {report['recipe']}", "", report["rule"] + ".", "", "```", table(report), "```", ""]
    for name, suite in report["suites"].items():
        lines += [f"## {escape(name)}", ""] if suite["found"] else []
        for one in suite["found"][:SHOWN]:
            place = one["training"]
            where = escape(f"{place['source']} {place['id']} turn {place['turn']}")
            lines += [
                f"- {escape(one['id'])}: {one['kind']}, {one['share']:.0%}; {one['span_tokens']} tokens in {where}"
            ]
            lines += ["", *(f"      {line}" for line in escape(one["span"]).splitlines()), ""]
        if len(suite["found"]) > SHOWN:
            lines += [f"and {len(suite['found']) - SHOWN:,} more in contamination.json", ""]
    (run_dir / "contamination.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8", errors="replace")
