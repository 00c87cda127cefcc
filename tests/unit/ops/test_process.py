import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ops.local.process import (
    Busy,
    Child,
    DirectoryLock,
    ProcessError,
    Stopped,
    at_home_in,
    children_of,
    family,
    run_attached,
    stop_on_signals,
)

ROOT = Path(__file__).parents[3]


def shell(name, script, tmp_path, **options):
    return Child(name, ["sh", "-c", script], tmp_path / "log", **options)


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def test_output_goes_to_the_log_and_old_output_stays(tmp_path):
    for text in ("first", "second"):
        with shell("echo", f"echo {text}", tmp_path) as child:
            assert child.wait(5)

    assert (tmp_path / "log").read_text() == "first\nsecond\n"
    assert child.output() == "second\n"


def test_a_message_about_the_end_quotes_how_and_the_last_lines(tmp_path):
    with shell("talker", "seq 100; exit 3", tmp_path) as child:
        child.wait(5)

    message = child.describe_end()
    assert "talker ended with code 3" in message
    assert message.endswith("| 100")
    assert "| 10\n" not in message


def test_a_message_about_a_killed_program_names_the_signal(tmp_path):
    with shell("sleeper", "sleep 60", tmp_path) as child:
        child.kill(signal.SIGKILL)
        child.wait(5)

    assert "was ended by SIGKILL" in child.describe_end()


def test_a_program_that_does_not_exist_says_so(tmp_path):
    with Child("ghost", ["/nonexistent/program"], tmp_path / "log") as child:
        child.wait(5)

    assert child.exit_code == 1
    assert "No such file" in child.tail()


def test_stop_kills_what_does_not_listen_and_all_that_came_of_it(tmp_path):
    child = shell("deaf", "trap '' TERM; sleep 60 & echo $!; sleep 60", tmp_path)
    child.start()
    wait_for(lambda: child.output().strip())
    grandchild = int(child.output())

    child.stop(grace_s=0.2)

    assert child.exit_code == -signal.SIGKILL
    wait_for(lambda: not Path(f"/proc/{grandchild}").exists())


def test_a_program_runs_once_at_a_time(tmp_path):
    with (
        shell("sleeper", "sleep 60", tmp_path) as child,
        pytest.raises(ProcessError, match="running already"),
    ):
        child.start()


def test_a_program_that_was_never_started_has_no_pid(tmp_path):
    with pytest.raises(ProcessError, match="was not started"):
        _ = shell("idle", "true", tmp_path).pid


def test_the_children_of_a_process_are_its_own_and_not_theirs(tmp_path):
    with shell("parent", "(sleep 60; :) & echo $!; sleep 60", tmp_path) as child:
        wait_for(lambda: child.output().strip())
        wait_for(lambda: len(family(child.pid)) == 4)

        children = children_of(child.pid)

        assert int(child.output()) in children
        assert len(children) == 2, "the subshell and the second sleep; not the subshell's sleep"


def test_the_family_holds_descendants_in_sessions_of_their_own(tmp_path):
    with shell("parent", "setsid sleep 60 & echo $!; sleep 60", tmp_path) as child:
        wait_for(lambda: child.output().strip())
        wait_for(lambda: len(family(child.pid)) == 3)

        assert int(child.output()) in family(child.pid)
        child.kill_tree(signal.SIGKILL)


def test_children_end_when_we_are_killed_outright(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from ops.local.process import Child\n"
        "child = Child('child', ['sleep', '60'], Path(sys.argv[1]))\n"
        "child.start(); print(child.pid, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "log")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        parent.kill()

    wait_for(lambda: not Path(f"/proc/{pid}").exists())


def test_a_directory_has_one_holder_at_a_time(tmp_path):
    first, second = DirectoryLock(tmp_path), DirectoryLock(tmp_path)
    first.acquire()
    first.acquire()

    with pytest.raises(Busy, match=f"in use by process {os.getpid()}"):
        second.acquire()

    first.release()
    second.acquire()
    second.release()


def test_at_home_in_finds_who_works_there(tmp_path):
    with shell("sleeper", "sleep 60", tmp_path, directory=tmp_path) as child:
        wait_for(lambda: child.pid in at_home_in(tmp_path))

    assert at_home_in(tmp_path) == set()


def test_run_attached_returns_code_and_output():
    code, output = run_attached(
        ["sh", "-c", "echo out; exit 4"],
        environment=os.environ,
        meanwhile=lambda: None,
        capture=True,
    )

    assert (code, output) == (4, "out\n")


def test_run_attached_interrupts_the_program_when_we_are_stopped(tmp_path):
    marker = tmp_path / "interrupted"

    ready = tmp_path / "ready"

    def stop():
        if ready.exists():
            raise Stopped(signal.SIGTERM)

    script = f"trap 'touch {marker}; exit' INT; touch {ready}; while :; do sleep 0.05; done"
    with pytest.raises(Stopped):
        run_attached(["sh", "-c", script], environment=os.environ, meanwhile=stop)

    assert marker.exists()


@pytest.fixture
def signal_handlers():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_stops_us_and_the_next_does_not_disturb(signal_handlers, signum):
    signal.signal(signum, signal.default_int_handler)
    stop_on_signals()

    with pytest.raises(Stopped) as stopped:
        os.kill(os.getpid(), signum)
    os.kill(os.getpid(), signum)

    assert stopped.value.exit_code == 128 + signum


def test_a_signal_that_was_ignored_stays_ignored(signal_handlers):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop_on_signals()

    os.kill(os.getpid(), signal.SIGHUP)

    assert threading.main_thread().is_alive()
