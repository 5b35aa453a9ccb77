"""The terminal of the os task, in a real sandbox."""

import time

import pytest

from agenttuning.environments.os_interaction.environment import Environment, observation
from agenttuning.environments.os_interaction.sandbox import SandboxError
from helpers.os_machine import machine


@pytest.fixture(scope="module")
def sandbox():
    with machine() as sandbox:
        yield sandbox


@pytest.fixture
def shell(sandbox):
    shell = sandbox.shell()
    yield shell
    shell.close()


def test_it_shows_what_a_terminal_shows(sandbox, shell):
    host = sandbox.name
    assert shell.run("echo hi") == f"hi\r\n\x1b]0;root@{host}: /\x07root@{host}:/# "
    assert shell.plain == "hi"
    assert shell.run("cd /etc") == f"\x1b]0;root@{host}: /etc\x07root@{host}:/etc# "
    assert shell.plain == ""


def test_it_keeps_its_state(shell):
    shell.run("cd /usr; export A=1; b=2; f() { echo $A$b$1; }")
    shell.run("f 3")
    assert shell.plain == "123"
    shell.run("pwd")
    assert shell.plain == "/usr"
    shell.run("false")
    shell.run("echo $?")
    assert shell.plain == "1"


def test_a_script_of_many_lines_is_one_command(shell):
    shell.run("for i in 1 2\ndo\n  echo $i\ndone\ncat <<'END'\na 'b' \\c \"d\" $e\nEND\necho é")
    assert shell.plain == "1\n2\na 'b' \\c \"d\" $e\né"


def test_what_a_terminal_would_act_on_is_text(shell):
    shell.run("printf '%s' 'a\x03b\x04c\x7fd\te\x1af\x16g\rh' | od -An -c | tr -d ' '")
    assert shell.plain == r"a003b004c177d\te032f026g\rh"


@pytest.mark.parametrize("size", [2_990, 3_000, 3_010, 20_000])
def test_a_long_script_arrives_whole(shell, size):
    shell.run(f"x='{'é' * (size // 2)}'; echo ${{#x}}")
    assert shell.plain == str(size // 2 * 2)  # bytes, in the C locale


def test_a_script_with_an_error_is_an_output(shell):
    started = time.monotonic()
    for script, error in (("if then", "syntax error"), ("echo 'open", "unexpected EOF"), ("echo $(", "unexpected EOF")):
        shell.run(script)
        assert error in shell.plain
        assert "778" not in shell.text
    assert time.monotonic() - started < 4
    shell.run("echo fine")
    assert shell.plain == "fine"


def test_output_that_is_no_text(shell):
    assert "\ufffd" in shell.run(r"printf '\xff\xfe\n'")
    shell.run("echo fine")
    assert shell.plain == "fine"


def test_it_gives_what_came_and_the_command_goes_on(shell):
    started = time.monotonic()
    assert shell.run("echo first; sleep 1.2; echo second", quiet_s=0.5) == "first\r\n"
    assert time.monotonic() - started < 1.1
    # waited for before the next is run
    shell.run("echo third", quiet_s=2)
    assert shell.plain == "third"


def test_a_command_that_waits_for_input_is_interrupted(shell):
    assert shell.run("cat", quiet_s=0.3) == ""
    shell.run("echo next", quiet_s=0.3)
    assert shell.plain == "next"


def test_a_command_that_cannot_be_interrupted_costs_the_shell(shell):
    shell.run("a=1; trap '' INT; while :; do sleep 9; done", quiet_s=0.3)
    shell.run("echo ${a-new}", quiet_s=0.3)
    assert shell.plain == "new"


def test_a_shell_that_ended_is_replaced(shell):
    assert shell.run("echo bye; exit 3").startswith("bye\r\n")
    shell.run("echo again")
    assert shell.plain == "again"
    shell.run("kill -9 $$")
    shell.run("echo again")
    assert shell.plain == "again"
    shell.run("exec true")
    shell.run("echo again")
    assert shell.plain == "again"


def test_a_flood_ends(shell):
    started = time.monotonic()
    output = shell.run("yes", total_s=2.0)
    assert output.startswith("y\r\ny\r\n")
    assert len(output) <= 2**16
    shell.run("echo fine")
    assert shell.plain == "fine"
    assert time.monotonic() - started < 15


def test_a_forged_mark_ends_nothing_but_its_own_output(shell):
    shell.run(r"""printf '\e]777;%s\a\e]778;%s\a' $__mark $__mark; sleep 0.3; echo late""")
    assert shell.plain == ""
    for number in range(3):
        shell.run(f"echo {number}")
        assert shell.plain.endswith(str(number))
    shell.run(r"""__mark=0; printf '\e]778;0000000000000000\a'; echo more""", quiet_s=0.5)
    shell.run("echo after", quiet_s=0.5)
    assert shell.plain == "after"


@pytest.mark.parametrize(
    "breaks",
    [
        "unset -f __start __prompt; PROMPT_COMMAND=",
        "PS1=",
        "exec > /dev/null 2>&1",
        "set -e",
        "eval() { :; }",
        "stty raw",
    ],
)
def test_a_shell_that_was_taken_apart_is_replaced_in_the_end(shell, breaks):
    shell.run(breaks, quiet_s=0.2)
    for _ in range(3):
        shell.run("echo fine", quiet_s=0.2)
        if shell.plain == "fine":
            return
    raise AssertionError(shell.text)


def test_a_prompt_that_is_sourced_anew(shell):
    shell.run("source ~/.bashrc; PS1='$ '")
    assert shell.run("echo hi") == "hi\r\n$ "


def test_history_shows_what_was_asked(shell):
    shell.run("echo one")
    shell.run("history")
    assert [line.split(maxsplit=1)[1] for line in shell.plain.splitlines()] == ["echo one", "history"]


def test_background_jobs_stay(shell):
    shell.run("sleep 30 & sleep 31 &")
    shell.run("jobs | wc -l")
    assert shell.plain == "2"


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("", "The output of the OS is empty."),
        ("a\r\n", "The output of the OS:\n\na\r\n"),
        ("x" * 800, f"The output of the OS:\n\n{'x' * 800}"),
        ("x" * 801, f"The output of the OS:\n\n{'x' * 780}\n[truncated because the output is too long]"),
    ],
)
def test_observations_are_the_originals(output, told):
    assert observation(output) == told


def test_the_environment_on_it(sandbox):
    class Kept:
        def __getattr__(self, name):
            return getattr(sandbox, name)

        def close(self):
            pass

    item = {"id": "x", "description": "Do.", "image": "default", "init": [["bash", "sleep 60 & echo a > /tmp/a"]]}
    item |= {
        "start": ["bash", "cd /tmp"],
        "match": None,
        "check": [["bash", 'test "$1" = None -a -e /tmp/b']],
        "example": None,
    }
    environment = Environment(item, lambda image, host: Kept())
    assert environment.reset() == "Do."
    assert "\r\n" in environment.step("bash: ls").observation
    step = environment.step("look")
    assert (step.valid, step.done) == (False, False)
    assert environment.score() == 0.0
    environment.step("bash: touch b")
    assert environment.score() == 1.0
    assert environment.step("finish").done
    assert environment.metrics() == {"rule": "check", "labels": ""}
    environment.close()


def test_a_machine_that_dies_is_no_wrong_answer():
    item = {"id": "x", "description": "", "image": "default", "init": [], "start": None, "match": {"answer": "1"}}

    with machine() as sandbox:
        environment = Environment(item, lambda image, host: sandbox)
        environment.reset()
        sandbox.line.close()
        with pytest.raises(SandboxError, match="died"):
            environment.step("bash: sleep 1")
        environment.close()


def test_an_item_that_cannot_be_played_says_so():
    with pytest.raises(SandboxError, match=r"check/0\.sh"):
        Environment({"id": "x", "unplayable": "its script check/0.sh is not in scripts/dev"}, None).reset()
