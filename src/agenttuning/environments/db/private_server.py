"""A MariaDB server of our own: on a unix socket in a temporary folder, without network, gone when we are."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agenttuning.environments import Missing
from agenttuning.errors import UserError

KEEPER = Path(__file__).with_name("keeper.py")
INSTALL = Missing("mariadbd and mariadb-install-db (Debian: mariadb-server)", "apt-get install mariadb-server")
START_S = 180.0  # for the installation, which takes some seconds, and the server
SURROUNDINGS = ("PATH", "LD_LIBRARY_PATH", "HOME", "LANG", "LC_ALL", "TZ")
SOCKET_CHARS = 100  # a unix socket's path has room for 107 bytes
# MySQL 8's default is utf8mb4_0900_ai_ci: case- and accent-insensitive, trailing blanks count. This is MariaDB's like.
COLLATION = "utf8mb4_uca1400_nopad_ai_ci"
SETTINGS = (
    "--skip-networking",
    "--skip-name-resolve",
    "--skip-log-bin",
    "--local-infile=0",
    "--performance-schema=0",
    "--character-set-server=utf8mb4",
    f"--collation-server={COLLATION}",
    "--max-connections=400",
    "--max-allowed-packet=4M",  # of a statement, a row and a string
    "--max-session-mem-used=256M",
    "--max-heap-table-size=16M",
    "--tmp-table-size=16M",
    "--innodb-buffer-pool-size=64M",
    "--innodb-log-file-size=32M",
    "--innodb-flush-log-at-trx-commit=0",  # the data die with the run
    "--innodb-doublewrite=0",
    "--innodb-flush-method=nosync",
    "--debug-no-sync",
)


class ServerFailed(RuntimeError):
    """The database server is gone; it says nothing about the model."""


def binary(name: str) -> str | None:
    """Path of one of MariaDB's programs, also where /usr/sbin is not searched; None when it is not installed."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/usr/libexec")


def missing() -> list[Missing]:
    """What this machine lacks for a server of our own."""
    return [] if binary("mariadbd") and binary("mariadb-install-db") else [INSTALL]


def _user(folder: Path) -> str | None:
    # As root, mariadbd wants to be told a user; it gets one that owns nothing, if that one can reach the folder.
    if os.geteuid() != 0:
        return None
    reachable = all(parent.stat().st_mode & 0o001 for parent in folder.parents)
    for name in ("mysql", "nobody") if reachable else ():
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            continue
        os.chown(folder, account.pw_uid, account.pw_gid)
        return name
    return "root"


@contextmanager
def running() -> Iterator[dict]:
    """Start the server; gives pymysql's arguments for its administrator. Raises UserError when it does not start."""
    folder = Path(tempfile.mkdtemp(prefix="agenttuning-db-"))
    socket = folder / "s"
    try:
        if len(os.fsencode(socket)) > SOCKET_CHARS:
            raise UserError(
                f"{socket} is too long for a unix socket; no item of db could be played on a server of our own; set "
                "TMPDIR to a shorter folder, such as /tmp"
            )
        user = _user(folder)
        keeper = _start(folder, user)
        try:
            _wait(socket, keeper, folder)
            yield {"unix_socket": str(socket), "user": "root", "ssl_disabled": True}
        finally:
            keeper.stdin.close()
            try:
                keeper.wait(30)
            except subprocess.TimeoutExpired:
                keeper.kill()
                keeper.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, user: str | None) -> subprocess.Popen:
    files = folder / "files"
    files.mkdir()
    # tmpdir: TMPDIR, which they would take, may be ours alone
    both = ["--no-defaults", f"--datadir={folder / 'data'}", f"--tmpdir={folder}"]
    both += [f"--user={user}"] if user else []
    install = [binary("mariadb-install-db"), *both, "--skip-test-db", "--auth-root-authentication-method=normal"]
    server = [binary("mariadbd"), *both, f"--socket={folder / 's'}", f"--pid-file={folder / 'pid'}"]
    server += [f"--secure-file-priv={files}", *SETTINGS]
    command = [sys.executable, "-I", "-S", str(KEEPER), str(folder), str(os.getpid()), json.dumps([install, server])]
    # what else our surroundings hold, such as a server's key, is not for a program that runs the model's text
    kept = {name: os.environ[name] for name in SURROUNDINGS if name in os.environ}
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, cwd=folder, env=kept)


def _wait(socket: Path, keeper: subprocess.Popen, folder: Path) -> None:
    import pymysql

    end = time.monotonic() + START_S
    while True:
        try:
            pymysql.connect(unix_socket=str(socket), user="root", ssl_disabled=True).close()
            return
        except pymysql.err.OperationalError as error:
            if keeper.poll() is not None or time.monotonic() > end:
                log = (folder / "log").read_text(errors="replace")[-800:] if (folder / "log").exists() else ""
                raise UserError(
                    f"mariadbd did not start ({error}); no item of db could be played on it; mend what its log says, "
                    f"give the address of another server (--env db.dsn=...), or take --backend db=sqlite:\n{log}"
                ) from error
        time.sleep(0.05)
