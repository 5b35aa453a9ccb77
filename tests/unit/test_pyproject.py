"""Every dependency has a range in pyproject.toml and one exact version in constraints.txt, and they agree."""

import importlib.metadata
import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from agenttuning.recipe.schema import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
TEXT = (REPOSITORY / "constraints.txt").read_text()
LINES = [line for line in TEXT.splitlines() if line and not line.startswith("#")]
PINS = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in LINES if "==" in line}
EXTRAS = PROJECT["optional-dependencies"]
LOCKED = PROJECT["dependencies"] + EXTRAS["train"] + EXTRAS["eval"] + EXTRAS["dev"]


def test_constraints_are_exact_and_portable():
    assert LINES
    for line in LINES:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line), line
    assert "://" not in TEXT and "file:" not in TEXT and "--index" not in TEXT and "+cpu" not in TEXT
    assert len(PINS) == len(LINES)


@pytest.mark.parametrize("text", LOCKED)
def test_each_dependency_is_pinned_inside_its_range(text):
    requirement = Requirement(text)
    assert PINS[canonicalize_name(requirement.name)] in requirement.specifier


def test_what_the_dependencies_need_is_pinned_too():
    """The closure of the installed packages' own requirements, as this interpreter evaluates their markers."""
    todo = [Requirement(text) for text in LOCKED]
    seen: set[str] = set()
    while todo:
        one = todo.pop()
        name = canonicalize_name(one.name)
        key = f"{name}{sorted(one.extras)}"
        if key in seen:
            continue
        seen.add(key)
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # CUDA parts of torch on a CPU machine
        assert name in PINS, name
        for need in map(Requirement, needs):
            extras = one.extras or {""}
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(need)
    assert len(seen) > 50


def test_the_door_and_the_python():
    assert PROJECT["scripts"] == {"agenttuning": "agenttuning.cli:main"}
    assert PROJECT["license"] == "Apache-2.0" and (REPOSITORY / "LICENSE").read_text().count("Apache License")
    assert "3.11" in PROJECT["requires-python"]


def test_package_data_covers_every_file_that_is_not_python():
    patterns = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    root = REPOSITORY / "src/agenttuning"
    shipped = {path for pattern in patterns["agenttuning"] for path in root.glob(pattern)}
    other = {path for path in root.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert other and other <= shipped, other - shipped
