"""Error messages in MySQL's words, which the model was trained on (AgentInstruct's db split has them)."""

from __future__ import annotations

import re

CLAUSES = {
    "SELECT": "field list",
    "INSERT INTO": "field list",
    "VALUES": "field list",
    "SET": "field list",
    "WHERE": "where clause",
    "ORDER BY": "order clause",
    "GROUP BY": "group statement",
    "HAVING": "having clause",
    "ON": "on clause",
    "FROM": "from clause",
}
_UNKNOWN = re.compile(rf" in '({'|'.join(CLAUSES)})'$")
_AMBIGUOUS = re.compile(rf" in ({'|'.join(CLAUSES)}) is ambiguous$")
_DENIED = re.compile(r" for table `(?:[^`]|``)*`\.`((?:[^`]|``)*)`$")


def as_mysql(code: int, message: str) -> str:
    """MariaDB's message of an error number, as MySQL 8 words it."""
    if code == 1064:
        return message.replace("MariaDB server version", "MySQL server version")
    if code == 1054:
        return _UNKNOWN.sub(lambda found: f" in '{CLAUSES[found[1]]}'", message)
    if code == 1052:
        return _AMBIGUOUS.sub(lambda found: f" in {CLAUSES[found[1]]} is ambiguous", message)
    if code == 1142:
        return _DENIED.sub(lambda found: f" for table '{found[1]}'", message)
    return message


class SQLError(Exception):
    """A statement that MySQL would refuse, or that this layer cannot run; the text is as the connector prints it."""


def syntax_error(near: str) -> SQLError:
    """MySQL's message for what it cannot parse."""
    return SQLError(
        "1064 (42000): You have an error in your SQL syntax; check the manual that corresponds to your MySQL server "
        f"version for the right syntax to use near '{near[:80]}' at line 1"
    )
