"""Templates filled in, for pages of HTML and of markdown.

Model output and names from files are other people's text: whatever a template prints has its control characters spelt
out, and in HTML is escaped (autoescape is on, and nothing is marked safe). The pages ask for nothing from anywhere: no
script, no font, no image, and a content policy that says so to the browser.
"""

from __future__ import annotations

import json
import os
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agenttuning.chat.show import escape
from agenttuning.report.figures import Value

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
_PLAIN = re.compile(r"[\t\n\x20-\x7e]*")  # as most text is: nothing in it to spell out


def render(template: str, values: dict[str, Any], folder: Path = TEMPLATES) -> str:
    """One template of `folder` filled in; HTML is escaped, markdown's table cells are cleaned by the filter `cell`."""
    return _environment(folder).get_template(template).render(values)


@cache  # a template is read and compiled once: a report has hundreds of pages
def _environment(folder: Path) -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=select_autoescape(("html.jinja",)),
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"score": _score, "range": _range, "share": _share, "cell": cell, "words": _words}
    environment.filters |= {"thousands": _thousands, "percent": _percent, "json": json.dumps}
    environment.tests["value"] = lambda value: isinstance(value, Value)
    return environment


def write(path: Path, text: str) -> Path:
    """Write a page whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    # a lone surrogate, which a model's reply can hold, is not text
    partial.write_bytes(text.encode("utf-8", "replace"))
    partial.replace(path)
    return path


def public_name(value: object) -> str:
    """A value as others may read it: of a path of this machine, its last part."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else str(value)


def _printable(value: Any) -> Any:
    # a Markup is what a macro made, of values that came through here
    foreign = isinstance(value, str) and not hasattr(value, "__html__") and not _PLAIN.fullmatch(value)
    return escape(value) if foreign else value


def _score(value: float, sign: str = "") -> str:
    return f"{value:{sign}z.1f}".replace("-", "\u2212")


def _range(value: Value, sign: str = "") -> str:
    return f"{_score(value.low, sign)} to {_score(value.high, sign)}"


def _share(share: float | None) -> str:
    return "\u2013" if share is None else f"{100 * share:.0f} %"


def _thousands(value: int | None) -> str:
    return "\u2013" if value is None else f"{value:,}"


def _percent(share: float | None, digits: int = 1) -> str:
    return "\u2013" if share is None else f"{100 * share:.{digits}f} %"


def _words(name: str) -> str:
    return name.replace("_", " ")


def cell(text: object) -> str:
    """Text that cannot end a cell of a markdown table, open a tag or make a link."""
    marks = {"|": "\\|", "<": "&lt;", "[": "\\[", "`": "'", "\n": " ", "\r": " "}
    return "".join(marks.get(character, character) for character in str(text))
