"""Files of a run that a report can do without."""

from __future__ import annotations

import json
from pathlib import Path


def read_json(path: Path) -> dict:
    """A JSON object from a file; empty where there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}  # its section is then absent from the page
    return content if isinstance(content, dict) else {}
