"""`agenttuning episodes FOLDER`: one of a table, a trajectory, a summary, a page or an export."""

from __future__ import annotations

from pathlib import Path

from agenttuning.chat.show import wants_colour
from agenttuning.episodes import index as indexed
from agenttuning.episodes import view
from agenttuning.episodes.filters import Filters
from agenttuning.errors import UserError

MOST_ROWS = 40  # of the table, unless --limit says another number
EVERY = Filters()


def look(
    folder: str | Path,
    filters: Filters = EVERY,
    *,
    show: str | None = None,
    full: bool = False,
    summary: bool = False,
    html: str | Path | None = None,
    form: str | None = None,
    out: str | Path | None = None,
    limit: int | None = None,
) -> None:
    """Print or write what is asked of the episodes of a folder (or of an episodes.jsonl): the table, or with `show` the
    trajectories of an item, with `summary` the successes, with `html` a page, with `form` and `out` an export.

    `limit` is the most episodes of table or page, 0 for all, None for their own number. Raises UserError for what
    cannot be shown, and for options that do not go together.
    """
    _check(show, full, summary, html, form, out, limit)
    index = indexed.read(folder)
    chosen = filters.chosen(index.entries)
    if show is not None:
        _show(index, chosen, show, full)
    elif summary:
        print(f"{view.summary(chosen)}\n\n{view.counted(index, chosen)}", flush=True)
    elif html:
        from agenttuning.report import episodes_page

        most = episodes_page.MOST_EPISODES if limit is None else limit or None
        print(f"written: {episodes_page.write(index, chosen, filters, html, most)}", flush=True)
    elif form:
        from agenttuning.episodes.exports import export

        done = export(index, chosen, form, out)
        print(f"{done.text()}\nwritten: {done.folder}", flush=True)
    else:
        most = MOST_ROWS if limit is None else limit or None
        print(view.episodes_table(index, chosen, most), flush=True)


def _show(index: indexed.Index, chosen: list[indexed.Entry], item: str, full: bool) -> None:
    found = [entry for entry in chosen if entry.item == item]
    if not found:
        from agenttuning.errors import nearest

        near = view.one_line(nearest(item, {entry.item for entry in chosen}), 400) if chosen else "none was chosen"
        raise UserError(f"there is no episode of the item {item!r} among {len(chosen):,}; {near}")
    colour = wants_colour()
    for number, (entry, record) in enumerate(index.records(found)):
        print(("\n" if number else "") + view.trajectory(record, entry.kinds, colour, full), flush=True)


def _check(show, full: bool, summary: bool, html, form, out, limit: int | None) -> None:
    asked = {"--show": show is not None, "--summary": summary, "--html": bool(html), "--export": bool(form)}
    given = [name for name, present in asked.items() if present]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} are different things to write; only one would be; give one at a time")
    if full and show is None:
        raise UserError("--full shows long messages whole; without --show ITEM it would do nothing")
    if bool(form) != bool(out):
        raise UserError("--export FORMAT and --out FOLDER belong together; nothing was written")
    if limit is not None and (limit < 0 or (given and given != ["--html"])):
        raise UserError("--limit is the most episodes of the table or of --html, 0 for all; here it would do nothing")
