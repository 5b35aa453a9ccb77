"""The realised mixture as a plain text table: what was asked, what came out, and what was lost on the way."""

NOT_KEPT = "not kept"  # rows that a card's `keep` did not take: a column only where there are any
COLUMNS = (
    ("read", "rows_read", "{:,}"),
    (NOT_KEPT, "not_kept", "{:,}"),
    ("malformed", "quarantined", "{:,}"),
    ("overlong", "overlong", "{:,}"),
    ("lost tok.", "supervised_tokens_lost", "{:,}"),
    ("rows", "rows", "{:,}"),
    ("asked", "share_asked", "{:.1%}"),
    ("drawn", "share_realised", "{:.1%}"),
    ("of tokens", "share_of_tokens", "{:.1%}"),
    ("draws", "draws", "{:,}"),
    ("epochs", "epochs", "{:.2f}"),
    ("tokens", "tokens", "{:,}"),
    ("supervised", "supervised_tokens", "{:,}"),
)


def mixture_table(mixture: dict) -> str:
    """Format the content of mixture.json, one line per source and one for the sum of draws and tokens."""
    # a mixture that was built before these rows were counted has no such key
    not_kept = {name: sum(source.get("not_kept", {}).values()) for name, source in mixture["sources"].items()}
    columns = [column for column in COLUMNS if column[0] != NOT_KEPT or any(not_kept.values())]
    lines = [["source", *(title for title, _, _ in columns)]]
    for name, source in mixture["sources"].items():
        numbers = {**source, "not_kept": not_kept[name]}
        lines.append([name, *(form.format(numbers[key]) for _, key, form in columns)])
    sums = {key: form.format(mixture[key]) for _, key, form in columns if key in mixture}
    lines.append(["all", *(sums.get(key, "") for _, key, _ in columns)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if not i else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
