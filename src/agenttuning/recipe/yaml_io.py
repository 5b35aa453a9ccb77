"""Reading YAML strictly: no duplicate keys, and numbers as YAML 1.2 writes them.

PyYAML follows YAML 1.1, where `5e-5` (no dot) is the string "5e-5" and `yes` is true; the last of two equal keys wins
in silence. A learning rate that is a string, or that an earlier line contradicts, must not reach a GPU.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from agenttuning.errors import UserError


class StrictLoader(yaml.SafeLoader):
    """SafeLoader (plain data only, never Python objects) with YAML 1.2 floats and duplicate keys refused."""


class _FastLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """The same by libyaml's scanner, where PyYAML has it (its wheels do): a tenth of the time, and briefer errors."""


def _mapping_without_duplicates(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    seen: set = set()
    for key, (key_node, _) in zip(keys, node.value, strict=True):
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not a word", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} appears twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


for _loader in (StrictLoader, _FastLoader):
    _loader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
        list("-+.0123456789"),
    )
    _loader.add_constructor("tag:yaml.org,2002:map", _mapping_without_duplicates)


def parse(text: str, where: str) -> Any:
    """Parse `text`; `where` names it in errors. Raises UserError with line and column."""
    try:
        return yaml.load(text, _FastLoader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError:
        pass  # said below, with the line that is wrong
    try:
        return yaml.load(text, StrictLoader)  # noqa: S506 - StrictLoader is a SafeLoader
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not valid YAML: {error}") from error


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping. Raises UserError when it is absent, unreadable or not one."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    content = parse(text, str(path))
    if not isinstance(content, dict):
        raise UserError(f"{path} holds {type(content).__name__}, not `key: value` lines; nothing can be read from it.")
    return content
