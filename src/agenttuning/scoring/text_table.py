"""Rows of text as an aligned table."""


def table(rows: list[list[str]]) -> list[str]:
    """Rows as aligned lines, the first one underlined."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]]
