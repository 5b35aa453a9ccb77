"""The realised mixture as a plain text table: what was asked, what came out, and what was lost on the way."""

COLUMNS = (
    ("read", "rows_read", "{:,}"),
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
    lines = [["source", *(title for title, _, _ in COLUMNS)]]
    for name, source in mixture["sources"].items():
        lines.append([name, *(form.format(source[key]) for _, key, form in COLUMNS)])
    sums = {key: form.format(mixture[key]) for _, key, form in COLUMNS if key in mixture}
    lines.append(["all", *(sums.get(key, "") for _, key, _ in COLUMNS)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if not i else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
