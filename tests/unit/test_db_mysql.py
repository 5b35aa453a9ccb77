"""The DB task on a real MariaDB: the original's answers, boxed, and never a wrong answer for a dead server."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pymysql
import pytest

from agenttuning import protocols
from agenttuning.environments import db
from agenttuning.environments.db import agreement, mysql, private_server
from agenttuning.environments.db.private_server import ServerFailed
from agenttuning.episodes.runner import play
from agenttuning.errors import UserError
from agenttuning.policies.expert import expert
from agenttuning.protocols import FOLDER
from agenttuning.protocols import db as texts
from agenttuning.protocols.messages import own
from helpers.db_items import DEV, ROWS, item, step
from helpers.db_statements import HOSTILE, SAME, SLOW, WRONG

pytestmark = pytest.mark.skipif(bool(private_server.missing()), reason="MariaDB's server is not installed")
PROTOCOL = protocols.load(FOLDER / "practice.yaml")
SHORT_S = 1.0


@pytest.fixture(scope="module")
def where():
    with private_server.running() as arguments:
        yield arguments


@pytest.fixture
def server(where, monkeypatch):
    monkeypatch.setattr(mysql, "GRACE_S", 1.0)
    with mysql.Server(where, private_server.COLLATION, statement_s=SHORT_S) as made:
        yield made


@pytest.fixture
def start(server):
    """A function that starts an episode of an item; all are closed after the test, and nothing may be left."""
    before = databases(server)
    opened = []

    def begin(made: dict) -> db.Environment:
        opened.append(db.Environment(made, lambda x: mysql.MySQLTable(x, server)))
        opened[-1].reset()
        return opened[-1]

    yield begin
    for environment in opened:
        environment.close()
    assert databases(server) == before
    assert not server.ask("SELECT user FROM mysql.user WHERE user LIKE 'agenttuning%'")
    assert not server.ask(f"SELECT * FROM {mysql.BOOK}.made")


def databases(server) -> set[str]:
    return {name for (name,) in server.ask("SHOW DATABASES")}


def test_it_shows_what_the_tests_of_the_embedded_backend_expect(start) -> None:
    made = start(item())
    for statement, shown in SAME:
        assert (statement, step(made, statement)) == (statement, shown)
        if statement.split()[0] in ("INSERT", "UPDATE", "DELETE"):
            made.reset()
    for statement, beginning in WRONG:
        before = made.table.hash()
        result = made.step(f"sql: {statement}")
        made.rounds = 0
        assert result.observation.startswith(beginning) and not result.valid, (statement, result)
        assert made.table.hash() == before


def test_hostile_statements_are_refused_or_bounded(start, server) -> None:
    made, beside = start(item()), start(item("Other table"))
    before = beside.table.hash()
    for name, statement in HOSTILE.items():
        begun = time.monotonic()
        shown = step(made, statement)
        assert time.monotonic() - begun < 20, name
        assert len(shown) <= 811 and "root:" not in shown, name
        assert step(made, "SELECT COUNT(*) FROM Players") == "[(4,)]", name
    assert step(made, "SELECT * FROM `Other table`.`Other table`").startswith("1142 (42000): SELECT command denied")
    assert step(made, "DROP DATABASE `Other table`").startswith("1044 (42000): Access denied")
    assert step(made, "KILL 1").startswith(("1095", "1094"))  # not the owner; no such thread
    assert "Other table" not in step(made, "SHOW DATABASES")
    assert beside.table.hash() == before
    assert not Path("/tmp/agenttuning-outfile").exists()


def test_statements_without_end_are_ended(start) -> None:
    made = start(item())
    for name, statement in SLOW.items():
        begun = time.monotonic()
        step(made, statement)
        assert time.monotonic() - begun < SHORT_S + 10, name
        assert step(made, "SELECT COUNT(*) FROM Players") == "[(4,)]", name
    assert step(made, SLOW["sleep"]) == mysql.TIMED_OUT
    assert step(made, SLOW["sleep, unbounded"]) == mysql.TIMED_OUT
    assert step(made, SLOW["many rows"]).startswith("[('Élodie', 'Montréal', '12', ")


def test_each_statement_has_a_session_of_its_own_and_is_committed(start) -> None:
    made = start(item())
    step(made, "SET @x = 3")
    assert step(made, "SELECT @x") == "[(None,)]"
    step(made, "START TRANSACTION")
    step(made, "DELETE FROM Players WHERE Name = 'bob'")
    step(made, "ROLLBACK")
    assert step(made, "SELECT COUNT(*) FROM Players") == "[(3,)]"
    step(made, "CREATE TABLE more (a TEXT)")
    assert step(made, "SHOW TABLES") == "[('Players',), ('more',)]"


def test_a_dropped_database_or_table_loses_the_order_and_nothing_else(start) -> None:
    order = item(kind="UPDATE", answer_md5="[('65f32bc3dd0089c48fc4c602f861aae0',)]")
    made = start(order)
    step(made, "DROP TABLE Players")
    assert made.score() == 0.0
    step(made, "DROP DATABASE Players")
    assert step(made, "SELECT 1") == "1049 (42000): Unknown database 'Players'"
    assert made.score() == 0.0


def test_episodes_of_the_same_name_do_not_see_each_other(start) -> None:
    first, second, third = start(item()), start(item(rows=ROWS[:2])), start(item())
    step(first, "UPDATE Players SET Town = 'here'")
    step(second, "CREATE TABLE more (a TEXT)")
    step(third, "DROP DATABASE Players")
    for _ in range(2):
        assert step(first, "SELECT COUNT(*), MAX(Town), DATABASE() FROM Players") == "[(4, 'here', 'Players')]"
        assert step(second, "SHOW TABLES") == "[('Players',), ('more',)]"
        assert step(third, "SELECT 1") == "1049 (42000): Unknown database 'Players'"
        assert step(first, "SHOW DATABASES") == "[('Players',), ('information_schema',)]"
    second.close()
    assert step(first, "SELECT COUNT(*) FROM Players WHERE Town = 'here'") == "[(4,)]"


def test_what_a_model_sees_does_not_depend_on_who_plays_beside_it(start) -> None:
    asked = ["SELECT CURRENT_USER(), DATABASE()", "SELECT * FROM mysql.user", "SELECT * FROM nowhere", "SHOW DATABASES",
             "UPDATE Players SET Points = Points + 1", "SELECT * FROM Players"]  # fmt: skip
    alone = start(item())
    wanted = [step(alone, statement) for statement in asked]
    together = [start(item()) for _ in range(4)]
    seen = [[] for _ in together]

    def ask(place: int) -> None:
        for statement in asked:
            seen[place].append(step(together[place], statement))

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [wanted] * 4


def test_errors_are_worded_as_mysql_words_them(start) -> None:
    made = start(item())
    for statement, shown in (
        ("SELECT 1 FROM Players ORDER BY nope", "1054 (42S22): Unknown column 'nope' in 'order clause'"),
        ("SELECT 1 FROM Players GROUP BY nope", "1054 (42S22): Unknown column 'nope' in 'group statement'"),
        ("SELECT 1 FROM Players HAVING nope", "1054 (42S22): Unknown column 'nope' in 'having clause'"),
        (
            "SELECT 1 FROM Players a JOIN Players b ON a.nope = 1",
            "1054 (42S22): Unknown column 'a.nope' in 'on clause'",
        ),
        ("INSERT INTO Players (nope) VALUES (1)", "1054 (42S22): Unknown column 'nope' in 'field list'"),
        ("UPDATE Players SET nope = 1", "1054 (42S22): Unknown column 'nope' in 'field list'"),
        (
            "SELECT * FROM mysql.user",
            "1142 (42000): SELECT command denied to user 'agent'@'localhost' for table 'user'",
        ),
    ):
        assert step(made, statement) == shown


@pytest.mark.parametrize("table", ["a`b", "per%cent_%s", "Straße 'x' \"y\"", "back\\slash", "x" * 64, "select", "日本"])
def test_any_name_is_quoted(start, table: str) -> None:
    made = start(item(table, columns=["a`b", "c%s", "d'\\", "e_%"]))
    name = db.episode.quoted(table)
    assert step(made, f"SELECT COUNT(*) FROM {name}") == "[(4,)]"
    assert made.table.hash().startswith("[('")
    assert step(made, f"UPDATE {name} SET `c%s` = 'z'") == "[]"


def test_a_name_with_a_wildcard_gives_no_right_to_another_database(start) -> None:
    one, _ = start(item("a_c")), start(item("abc"))
    assert step(one, "SELECT * FROM abc.abc").startswith("1142 (42000)")


def test_a_table_that_mysql_cannot_make_is_not_there(start) -> None:
    made = start(item(columns=["a", "", "c", "d"]))
    assert step(made, "SELECT * FROM Players") == "1146 (42S02): Table 'Players.Players' doesn't exist"


def test_a_database_of_the_users_is_left_alone(server) -> None:
    server.ask("CREATE DATABASE Mine")
    server.ask("CREATE TABLE Mine.t (a INT)")
    try:
        for name in ("Mine", "mysql"):
            with pytest.raises(ServerFailed, match="did not make"):
                mysql.MySQLTable(item(name), server)
        assert server.ask("SELECT COUNT(*) FROM Mine.t") == [(0,)]
    finally:
        server.ask("DROP DATABASE Mine")


def test_a_second_run_is_refused(where, server, monkeypatch) -> None:
    monkeypatch.setattr(mysql, "LOCK_WAIT_S", 0)
    with pytest.raises(UserError, match="another run"):
        mysql.Server(where)
    monkeypatch.undo()


def test_the_leftovers_of_a_killed_run_go(where) -> None:
    script = f"""
import os, signal
from agenttuning.environments.db import mysql
from helpers.db_items import item
server = mysql.Server({where!r})
mysql.MySQLTable(item(), server); mysql.MySQLTable(item(), server)
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=False
    )
    with mysql.Server(where) as after:
        assert databases(after) == {"information_schema", "mysql", "performance_schema", "sys", mysql.BOOK}
        assert not after.ask("SELECT user FROM mysql.user WHERE user LIKE 'agenttuning%'")


def test_a_dsn_is_parsed_and_its_password_never_shown(where) -> None:
    parsed = mysql.parse_dsn("mysql://me:p%40ss@db.example:3307/")
    assert parsed == {"host": "db.example", "port": 3307, "user": "me", "password": "p@ss"}
    for dsn in (
        "postgres://me:s3cret@h/",
        "mysql://h/",
        "mysql://me:s3cret@h:port/",
        "mysql://me:s3cret@h/?x=1",
        "s3cret",
    ):
        with pytest.raises(UserError) as caught:
            mysql.parse_dsn(dsn)
        assert "s3cret" not in str(caught.value)
    dsn = f"mysql://nobody:s3cret@localhost/?unix_socket={where['unix_socket']}"
    with pytest.raises(UserError, match="no database server answers") as caught, db.serve("mysql", dsn=dsn):
        pass
    assert "s3cret" not in str(caught.value)


def test_episodes_are_played_on_a_server_of_the_users(where) -> None:
    with db.serve("mysql", dsn=f"mysql://root@localhost/?unix_socket={where['unix_socket']}") as room:
        assert room.backend.comparable and room.isolation == "thread"
        assert "MariaDB" in room.backend.label, "which server it was stands beside the score"
        records = play(
            room, db.items("test", 8, 5), expert, PROTOCOL, own(texts), model="m", seed=0, wait_s=0, progress=False
        )
    assert [record["reward"] for record in records] == [1.0] * 8


def test_a_dead_server_is_never_a_wrong_answer() -> None:
    with db.serve("mysql") as room:
        items = db.items("train", 6, 1)
        folder = Path(room.make.keywords["open_table"].keywords["server"].where["unix_socket"]).parent
        pid = int((folder / "pid").read_text())

        def policy(turns):
            if turns[0].number == 1:
                os.kill(pid, signal.SIGKILL)
                wait_for(lambda: not running(pid))
            return ["x\nAction: Operation\n```sql\nSELECT 1\n```" for _ in turns]

        records = play(room, items, policy, PROTOCOL, own(texts), model="m", seed=0, wait_s=0, progress=False)
    assert {record["status"] for record in records} == {"environment_error"}
    assert all(record["reward"] is None for record in records)
    assert not folder.exists()


def test_a_server_that_dies_in_a_statement_is_not_the_models_fault() -> None:
    with db.serve("mysql", statement_s=30) as room:
        made = room.make(item(kind="UPDATE", answer_md5="x"))
        made.reset()
        folder = Path(made.table.server.where["unix_socket"]).parent
        killer = threading.Timer(0.5, os.kill, [int((folder / "pid").read_text()), signal.SIGKILL])
        killer.start()
        with pytest.raises(ServerFailed, match="in a statement"):
            made.step("sql: SELECT SLEEP(20)")
        killer.join()
        with pytest.raises(ServerFailed):
            made.score()
        with pytest.raises(ServerFailed):
            made.close()


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(what, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


RUNNER = """
import os, sys, time
from pathlib import Path
from agenttuning.environments import db
from helpers.db_items import item
with db.serve("mysql") as room:
    made = room.make(item()); made.reset()
    folder = Path(room.make.keywords["open_table"].keywords["server"].where["unix_socket"]).parent
    if sys.argv[1] == "fork" and os.fork() == 0:
        time.sleep(30); os._exit(0)
    print(folder, (folder / "pid").read_text().strip(), flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("how", ["fork", "interrupt"])
def test_nothing_is_left_running(how: str, tmp_path) -> None:
    code = tmp_path / "runner.py"
    code.write_text(RUNNER)
    runner = subprocess.Popen(
        [sys.executable, str(code), how], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, start_new_session=True,
    )  # fmt: skip
    try:
        folder, pid = runner.stdout.readline().split()
        # with a child that still holds the pipe, or by Ctrl-C
        runner.send_signal(signal.SIGKILL if how == "fork" else signal.SIGINT)
        runner.wait(30)
        wait_for(lambda: not running(int(pid)) and not Path(folder).exists())
    finally:
        runner.stdout.close()
        os.killpg(runner.pid, signal.SIGKILL) if how == "fork" else runner.kill()
        runner.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_installation_that_is_cut_off_leaves_nothing(number: int) -> None:
    code = "from agenttuning.environments.db import private_server as p\nwith p.running(): input()"
    with tempfile.TemporaryDirectory(prefix="db") as folder:
        Path(folder).chmod(0o711)
        own = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": folder}
        runner = subprocess.Popen([sys.executable, "-c", code], env=own, stderr=subprocess.DEVNULL)
        wait_for(lambda: list(Path(folder).glob("*/data/ibdata1")))
        runner.send_signal(number)
        assert runner.wait(30) in (-number, 1)
        wait_for(lambda: not list(Path(folder).iterdir()))


def test_the_keeper_ends_and_removes_all_as_soon_as_it_is_let_go(tmp_path) -> None:
    """Also while its parent is still there: a process that is killed closes its files before it is gone."""
    folder, told = tmp_path / "folder", tmp_path / "pid"
    folder.mkdir()
    commands = [["true"], ["sh", "-c", f"sh -c 'echo $$ > {told}; sleep 60; true'; true"]]
    words = [
        sys.executable,
        "-I",
        "-S",
        str(private_server.KEEPER),
        str(folder),
        str(os.getpid()),
        json.dumps(commands),
    ]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as keeper:
        wait_for(lambda: told.exists() and told.read_text().strip())
        keeper.send_signal(signal.SIGTERM)  # a batch system's, which all processes get: the runner ends us
        time.sleep(0.2)
        assert keeper.poll() is None and folder.exists()
    assert keeper.returncode == 0 and not folder.exists() and not running(int(told.read_text()))


def test_a_server_that_does_not_start_says_why(monkeypatch) -> None:
    monkeypatch.setattr(private_server, "SETTINGS", ("--no-such-option",))
    with pytest.raises(UserError, match="(?s)could be played on it.*no-such-option"), private_server.running():
        pass
    monkeypatch.setattr(private_server, "binary", lambda name: None)
    assert [lack.command for lack in db.missing("mysql")] == ["apt-get install mariadb-server"]
    assert db.missing("mysql", dsn="mysql://me@h/") == db.missing("sqlite") == []


def test_the_server_sees_neither_our_keys_nor_needs_our_temporary_folder(monkeypatch) -> None:
    with tempfile.TemporaryDirectory(prefix="db") as folder:
        Path(folder).chmod(0o755)  # another user may look, and not write
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setenv("SOME_KEY", "sk-canary")
        with private_server.running() as where:
            pid = (Path(where["unix_socket"]).parent / "pid").read_text().strip()
            assert "sk-canary" not in Path(f"/proc/{pid}/environ").read_text()
            with pymysql.connect(**where) as session, session.cursor() as cursor:
                cursor.execute("SELECT @@tmpdir")
                assert cursor.fetchone() == (str(Path(where["unix_socket"]).parent),)
        assert not list(Path(folder).iterdir())


def test_the_embedded_backend_agrees_with_it(where) -> None:
    work = [(x, list(agreement.drawn(x, random.Random(x["id"])))) for x in db.items("train", 1, 7)]
    dsn = f"mysql://root@localhost/?unix_socket={where['unix_socket']}"
    with db.serve("mysql", dsn=dsn) as real, db.serve("sqlite") as embedded:
        asked, agreed, differ = agreement.compare(work, real.make, embedded.make)
    assert sum(asked.values()) > 35
    assert sum(agreed.values()) >= 0.97 * sum(asked.values()), differ[:3]


@pytest.mark.slow
@pytest.mark.skipif(not DEV.exists(), reason="AgentBench's dev items are not here")
def test_the_published_hashes_of_all_dev_items(where) -> None:
    items = db.load(DEV)
    with db.serve("mysql", dsn=f"mysql://root@localhost/?unix_socket={where['unix_socket']}") as room:
        records = play(room, items, expert, PROTOCOL, own(texts), model="m", seed=0, wait_s=0, progress=False)
    assert [record["reward"] for record in records] == [1.0] * 60
