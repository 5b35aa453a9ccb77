"""The DB task on a MySQL or MariaDB server: the mechanics of AgentBench.old (src/tasks/dbbench/Interaction.py), boxed.

As there: a database and a table named after the table, all columns TEXT, a session of its own for each statement, its
rows as Python prints them, errors in the words of MySQL's connector. Unlike there: the statement is run by a user who
owns that database and nothing else, in bounded time, and its result is read up to a bound.

Two live episodes may want the same name. A statement holds the name's lock, and the other episode's tables wait in a
database of their own meanwhile, so that what a model sees does not depend on who plays beside it.
"""

from __future__ import annotations

import itertools
import re
import secrets
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pymysql
from pymysql.cursors import SSCursor
from pymysql.err import MySQLError

from agenttuning.environments.db.episode import SHOWN_CHARS, Result, quoted
from agenttuning.environments.db.messages import as_mysql
from agenttuning.environments.db.private_server import ServerFailed
from agenttuning.environments.db.scoring import GROUP_CONCAT_CHARS
from agenttuning.errors import UserError

STATEMENT_S = 5.0  # of the server; a statement over a hundred rows needs milliseconds
GRACE_S = 5.0  # further seconds until we end a statement that the server did not
CONNECT_S = 30
LOCK_WAIT_S = 5  # a run that was killed a moment ago still holds it
STATEMENT_CHARS = 1_000_000  # below what any server takes in one packet, 4 bytes a character
READ_ROWS = 5_000  # of a result beyond what is shown; further ones are not waited for
TOO_SLOW = (1969, 3024)  # MariaDB's and MySQL's errors for a statement that took longer than it may
INSERT_ROWS = 500
# EXECUTE: there is nothing to execute, but without it an unknown function is "denied"; MySQL's is "does not exist".
RIGHTS = (
    "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, ALTER, INDEX, REFERENCES, CREATE TEMPORARY TABLES, LOCK TABLES, "
    "EXECUTE"
)
BOOK = "agenttuning_episodes"  # a database that lists what we made, for the run after one that was killed
SYSTEM = {"mysql", "sys", "information_schema", "performance_schema", BOOK}
# Errors that say nothing about the statement: disk, memory, too many connections, shutdown, damaged files.
SERVER_TROUBLE = {1021, 1030, 1037, 1040, 1041, 1042, 1053, 1077, 1079, 1080, 1194, 1195, 1203, 1226, 1317, 1927}
# A column's name is too long, there twice, or empty (dbbench has such items). The original then plays without a table.
NO_TABLE = {1059, 1060, 1166}
TIMED_OUT = "3024 (HY000): Query execution was interrupted, maximum statement execution time exceeded"
TOO_LONG = "1153 (08S01): Got a packet bigger than 'max_allowed_packet' bytes"
KILLED = "1317 (70100): Query execution was interrupted"


def parse_dsn(dsn: str) -> dict:
    """pymysql's arguments from mysql://user:password@host:port/?unix_socket=PATH&ssl_ca=PATH.

    Raises UserError, which never repeats the DSN, for another shape.
    """
    try:
        parts = urlsplit(dsn)
        port, options = parts.port or 3306, {key: values[-1] for key, values in parse_qs(parts.query).items()}
    except ValueError:
        parts, options = None, {}
    if parts is None or parts.scheme not in ("mysql", "mariadb") or not parts.username or set(options) - _OPTIONS:
        raise UserError(
            "the database's address is not understood, and no server could be reached; it has the form "
            "mysql://user:password@host:3306/, with ?unix_socket=PATH or ?ssl_ca=PATH where needed"
        )
    where = {"host": parts.hostname or "127.0.0.1", "port": port, "user": unquote(parts.username), **options}
    return where if parts.password is None else {**where, "password": unquote(parts.password)}


_OPTIONS = {"unix_socket", "ssl_ca"}


@dataclass
class _Name:
    """A database's name, and whose tables lie under it now."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    holder: MySQLTable | None = None


class Server:
    """A server and the databases of the live episodes on it. A context manager; all its methods may run in threads."""

    def __init__(self, where: dict, collation: str | None = None, statement_s: float = STATEMENT_S) -> None:
        """where: pymysql's arguments for an administrator. Raises UserError when the server cannot be used."""
        self.where, self.statement_s = where, statement_s
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._names: dict[str, _Name] = defaultdict(_Name)
        try:
            self._admin = self.connect(autocommit=True)
        except (MySQLError, RuntimeError) as error:  # RuntimeError: pymysql lacks a package for the login
            raise UserError(
                f"no database server answers at {where.get('unix_socket') or where['host']} ({error}); no item could "
                "be played; check the address, the password and that the server runs"
            ) from error
        try:
            self._begin(collation)
        except BaseException:
            self._admin.close()
            raise

    def _begin(self, collation: str | None) -> None:
        version, lower, host, default = self.ask(
            "SELECT VERSION(), @@lower_case_table_names, SUBSTRING_INDEX(USER(), '@', -1), @@collation_server"
        )[0]
        self.version = version if "mariadb" in version.lower() else f"{version} (MySQL)"
        self.mariadb, self._lower, self.host = "mariadb" in version.lower(), bool(lower), host
        self.collation = collation or (default if default.startswith("utf8mb4") else "utf8mb4_general_ci")
        self.ask("SET SESSION wait_timeout = 2147483")
        if self.ask(f"SELECT GET_LOCK('{BOOK}', {LOCK_WAIT_S})")[0][0] != 1:
            raise UserError(
                "another run plays on this database server; the two would make databases of the same names; "
                "give each its own server, or wait"
            )
        self.ask(f"CREATE DATABASE IF NOT EXISTS {BOOK}")
        self.ask(
            f"CREATE TABLE IF NOT EXISTS {BOOK}.made (kind VARCHAR(8), name VARCHAR(64)) "
            "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
        )
        for kind, name in self.ask(f"SELECT kind, name FROM {BOOK}.made"):  # left over by a run that was killed
            self._drop(kind, name)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.ask(f"DROP DATABASE {BOOK}")
            self.ask(f"DO RELEASE_LOCK('{BOOK}')")
        except ServerFailed:
            pass  # a dead server keeps nothing of ours but on disk; the next start cleans up
        finally:
            self._admin.close()

    def connect(self, **arguments: Any) -> pymysql.Connection:
        """A new session, as administrator where `arguments` name no user. Raises pymysql's errors."""
        settings = {"charset": "utf8mb4", "connect_timeout": CONNECT_S, "read_timeout": 300, "write_timeout": 60}
        return pymysql.connect(**{**self.where, **settings, **arguments})

    def ask(self, sql: str, values: tuple | None = None) -> list[tuple]:
        """Rows of an administrator's statement. Raises ServerFailed."""
        with self._lock:
            try:
                with self._admin.cursor() as cursor:
                    cursor.execute(sql, values)
                    return list(cursor.fetchall())
            except MySQLError as error:
                raise ServerFailed(f"the database server failed: {error}") from error

    def make(self, kind: str, name: str, sql: str, values: tuple | None = None) -> None:
        """Create a database or user and note it. In this order: what was there before us is never noted as ours."""
        self.ask(sql, values)
        self.ask(f"INSERT INTO {BOOK}.made VALUES (%s, %s)", (kind, name))

    def _drop(self, kind: str, name: str) -> None:
        if kind == "database":
            self.ask(f"DROP DATABASE IF EXISTS {quoted(name)}")
        else:
            self.ask("DROP USER IF EXISTS %s@%s", (name, self.host))
        self.ask(f"DELETE FROM {BOOK}.made WHERE kind = %s AND name = %s", (kind, name))

    def drop_database(self, name: str) -> None:
        """Drop a database that we made."""
        self._drop("database", name)

    def drop_user(self, name: str) -> None:
        """Drop a user that we made."""
        self._drop("user", name)

    def has_database(self, name: str) -> bool:
        """True when the server has a database of this name."""
        return bool(self.ask("SELECT 1 FROM information_schema.schemata WHERE schema_name = %s", (name,)))

    def create_database(self, name: str) -> None:
        """Create a database. Raises ServerFailed when there is one of that name: it is not ours to drop."""
        if name.lower() in SYSTEM or self.has_database(name):
            raise ServerFailed(
                f"the server has a database {name!r} that this run did not make; the item's table must have that name "
                "and the database would be lost; give a server of its own for this"
            )
        self.make("database", name, f"CREATE DATABASE {quoted(name)} CHARACTER SET utf8mb4 COLLATE {self.collation}")

    def number(self) -> int:
        """A number for the next episode."""
        return next(self._numbers)

    @contextmanager
    def held(self, name: str, table: MySQLTable) -> Iterator[None]:
        """The database `name` is `table`'s alone meanwhile."""
        with self._lock:
            place = self._names[name.lower() if self._lower else name]
        with place.lock:
            if place.holder is not table:
                if place.holder is not None:
                    self._move(place.holder, name, place.holder.waiting)
                    place.holder = None
                if table.parked:
                    self._move(table, table.waiting, name)
                place.holder = table
            yield
            if table.closed:
                place.holder = None

    def _move(self, table: MySQLTable, source: str, target: str) -> None:
        table.parked = target == table.waiting
        if not self.has_database(source):  # the model dropped it
            return
        self.create_database(target)
        found = self.ask("SELECT table_name FROM information_schema.tables WHERE table_schema = %s", (source,))
        for (name,) in found:
            self.ask(f"RENAME TABLE {quoted(source)}.{quoted(name)} TO {quoted(target)}.{quoted(name)}")
        self.drop_database(source)

    def kill(self, thread: int, what: str = "") -> None:
        """End a session, or with `what` "QUERY " its statement only."""
        try:
            self.ask(f"KILL {what}{int(thread)}")
        except ServerFailed as error:
            if "Unknown thread" not in str(error):
                raise


class MySQLTable:
    """One episode's database."""

    def __init__(self, item: dict, server: Server) -> None:
        """Create it and its user. Raises ServerFailed, after which nothing of it is left."""
        self.server, self.item, self.name = server, item, item["table"]
        number = server.number()
        self.waiting, self.user = f"agenttuning_waiting_{number}", f"agenttuning_{number}"
        self.password = secrets.token_hex(16)
        self.parked = self.closed = False
        try:
            with server.held(self.name, self):
                server.create_database(self.name)
                self._fill()
                server.make(
                    "user", self.user, "CREATE USER %s@%s IDENTIFIED BY %s", (self.user, server.host, self.password)
                )
                server.ask(f"GRANT {RIGHTS} ON {_pattern(self.name)}.* TO %s@%s", (self.user, server.host))
        except BaseException:
            # A database that was there before is not dropped: `drop_database` asks for what was made.
            self.close()
            raise

    def _fill(self) -> None:
        columns, rows = self.item["columns"], self.item["rows"]
        target = f"{quoted(self.name)}.{quoted(self.name)}"
        server = self.server
        try:
            server.ask(f"CREATE TABLE {target} ({', '.join(f'{quoted(column)} TEXT' for column in columns)})")
        except ServerFailed as error:
            if error.__cause__.args[0] not in NO_TABLE:
                raise
            return
        marks = "(" + ", ".join(["%s"] * len(columns)) + ")"
        for start in range(0, len(rows), INSERT_ROWS):
            part = rows[start : start + INSERT_ROWS]
            values = tuple(value for row in part for value in row)
            server.ask(f"INSERT INTO {target.replace('%', '%%')} VALUES {', '.join([marks] * len(part))}", values)

    def execute(self, statement: str) -> Result:
        """Run one statement in a session of its own. Raises ServerFailed when the server is gone."""
        statement = statement.encode("utf-8", "replace").decode()
        if len(statement) > STATEMENT_CHARS:
            return Result(TOO_LONG, failed=True)
        with self.server.held(self.name, self):
            connection = self._session()
            try:
                result = self._run(connection, statement)
            finally:
                if connection.open:
                    connection.close()
        # The number in the user's name depends on who plays beside it.
        return Result(result.text.replace(self.user, "agent"), result.failed)

    def _session(self) -> pymysql.Connection:
        limit = self.server.statement_s
        bound = f"max_statement_time = {limit}" if self.server.mariadb else f"max_execution_time = {int(1000 * limit)}"
        try:
            return self.server.connect(
                user=self.user,
                password=self.password,
                read_timeout=limit + GRACE_S,
                init_command=f"SET SESSION sql_mode = '', group_concat_max_len = {GROUP_CONCAT_CHARS}, {bound}",
            )
        except MySQLError as error:
            raise ServerFailed(f"the database server gave no session: {error}") from error

    def _run(self, connection: pymysql.Connection, statement: str) -> Result:
        try:
            connection.select_db(self.name)
            cursor = connection.cursor(SSCursor)
            cursor.execute(statement)
            text, whole = self._rows(connection, cursor)
            if whole:
                connection.commit()
            return Result(text)
        except MySQLError as error:
            return self._failed(connection, statement, error)

    def _rows(self, connection: pymysql.Connection, cursor: SSCursor) -> tuple[str, bool]:
        # The text's beginning, long enough to be cut, and whether all rows were read.
        if cursor.description is None:
            return "[]", True
        shown, chars = [], 0
        while chars <= SHOWN_CHARS:
            if (row := cursor.fetchone()) is None:
                return f"[{', '.join(shown)}]", True
            shown.append(repr(row))
            chars += len(shown[-1]) + 2
        text = f"[{', '.join(shown)}]"
        for _ in range(READ_ROWS):  # a statement may change something and show it, so its end is waited for
            try:
                if cursor.fetchone() is None:
                    return text, True
            except MySQLError as error:
                if error.args[0] not in TOO_SLOW:
                    raise
                return text, False
        self.server.kill(connection.thread_id(), "QUERY ")
        with suppress(MySQLError):  # the rows under way, then the error of the kill
            while cursor.fetchone() is not None:
                pass
        return text, False

    def _failed(self, connection: pymysql.Connection, statement: str, error: MySQLError) -> Result:
        code, message = error.args if len(error.args) == 2 else (0, str(error))
        if code == 2013 and "timed out" in message:
            self.server.kill(connection.thread_id())
            return Result(TIMED_OUT, failed=True)
        lost = not isinstance(code, int) or code == 0 or 2000 <= code < 3000
        if (lost or code in SERVER_TROUBLE) and re.search(r"\bkill\b", statement, re.IGNORECASE):
            self.server.ask("SELECT 1")  # its own session it may end; a dead server is another matter
            return Result(KILLED, failed=True)
        if lost or code in SERVER_TROUBLE:
            raise ServerFailed(f"the database server failed in a statement: {error}") from error
        if code in TOO_SLOW:
            return Result(TIMED_OUT, failed=True)
        return Result(f"{code} ({error.sqlstate or 'HY000'}): {as_mysql(code, message)}", failed=True)

    def hash(self) -> str:
        """See `scoring.table_hash`; the original's own query."""
        columns = ", ".join(quoted(column) for column in self.item["columns"])
        query = (
            "SELECT MD5(GROUP_CONCAT(rowhash ORDER BY rowhash)) AS hash FROM "
            f"(SELECT SUBSTRING(MD5(CONCAT_WS(',', {columns})), 1, 5) AS rowhash FROM {quoted(self.name)}) AS sub"
        )
        return self.execute(query).text

    def close(self) -> None:
        """Drop database and user. Raises ServerFailed when the server is gone."""
        if self.closed:
            return
        self.closed = True
        with self.server.held(self.name, self):
            if self.server.ask(f"SELECT 1 FROM {BOOK}.made WHERE kind = 'database' AND name = %s", (self.name,)):
                self.server.drop_database(self.name)
        self.server.drop_user(self.user)


def _pattern(name: str) -> str:
    # In a grant the name is a pattern, in which _ and % stand for other characters.
    return quoted(re.sub(r"([\\_%])", r"\\\1", name)).replace("%", "%%")
