"""The DB task after AgentBench's dbbench: a table on MySQL, a question or an order, an answer.

Actions: `sql: STATEMENT`, which shows what the database gives back, and `answer:TEXT`, which ends the episode. A
question is judged by the answer, an order by the state of the table (`scoring`).

    mysql    a real server: the user's, by `dsn`, or a MariaDB of our own on a unix socket, started and ended by `serve`
    sqlite   SQLite in memory with a layer that makes it answer as MySQL does, mostly: `agreement` measures how often
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

from agenttuning.environments import Backend, Missing, Room, backend_of
from agenttuning.environments.db.benchmark import load
from agenttuning.environments.db.episode import Environment
from agenttuning.environments.db.practice import items

__all__ = ["BACKENDS", "BENCHMARK", "NAME", "Environment", "items", "load", "missing", "serve"]

NAME = "db"
BENCHMARK = "dbbench"
MYSQL = Backend("mysql", "MySQL or MariaDB server", comparable=True)
SQLITE = Backend("sqlite", "SQLite with a MySQL layer, not the real thing", comparable=False)
BACKENDS = (MYSQL, SQLITE)
SLOTS = 64  # a database and a user each; the server's connections are used only while a statement runs


@contextmanager
def serve(name: str, dsn: str | None = None, statement_s: float | None = None) -> Iterator[Room]:
    """The room of a backend. Raises UserError for another name.

    dsn: mysql://user:password@host:3306/ of a server on which that user may create databases and users; None: a private
    MariaDB. statement_s: seconds that a statement may take there. Raises UserError when the server cannot be used
    or the private one does not start.
    """
    backend = backend_of(NAME, BACKENDS, name)
    if backend.name == SQLITE.name:
        from agenttuning.environments.db.sqlite import SQLiteTable

        yield Room(NAME, backend, partial(Environment, open_table=SQLiteTable))
        return
    from agenttuning.environments.db import mysql, private_server

    limits = {} if statement_s is None else {"statement_s": statement_s}
    if dsn is not None:
        with mysql.Server(mysql.parse_dsn(dsn), **limits) as server:
            yield _room(server, mysql.MySQLTable)
        return
    with private_server.running() as where, mysql.Server(where, private_server.COLLATION, **limits) as server:
        yield _room(server, mysql.MySQLTable)


def _room(server, table) -> Room:
    make = partial(Environment, open_table=partial(table, server=server))
    # Which server it was stands beside the score: the paper's was MySQL 8.
    return Room(NAME, replace(MYSQL, label=f"server {server.version}"), make, isolation="thread", slots=SLOTS)


def missing(name: str, dsn: str | None = None, **_: object) -> list[Missing]:
    """What this machine lacks for a backend."""
    backend = backend_of(NAME, BACKENDS, name)
    package = "sqlglot" if backend.name == SQLITE.name else "pymysql"
    lacks = [] if find_spec(package) else [Missing(package, "pip install 'agenttuning[eval]'")]
    if backend.name == MYSQL.name and dsn is None:
        from agenttuning.environments.db import private_server

        lacks += private_server.missing()
    return lacks
