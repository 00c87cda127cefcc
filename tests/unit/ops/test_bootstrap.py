import json
import subprocess
from pathlib import Path

import pytest

from ops.local import bootstrap
from ops.local.bootstrap import environment, install, quickstart_options
from ops.local.process import ProcessError

EXTRAS = frozenset({"worker", "local"})


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout whose installation only notes which commands it would have run."""
    (tmp_path / "ops").mkdir()
    for name in bootstrap._INPUTS:
        (tmp_path / name).write_text(name)
    venv, state = tmp_path / ".venv", tmp_path / ".callscribe"
    for name, value in {
        "ROOT": tmp_path,
        "STATE": state,
        "VENV": venv,
        "_PYTHON": venv / "bin" / "python",
        "_STAMP": venv / "callscribe-installed.json",
        "_UNFINISHED": state / "install" / "unfinished",
        "_LOG": state / "logs" / "install.log",
    }.items():
        monkeypatch.setattr(bootstrap, name, value)
    return tmp_path


@pytest.fixture
def ran(checkout, monkeypatch):
    commands = []

    def run(name, command, doing):
        commands.append(command)
        if "venv" in command:
            (checkout / ".venv" / "bin").mkdir(parents=True, exist_ok=True)
            for program in ("python", "pip"):
                (checkout / ".venv" / "bin" / program).touch()

    monkeypatch.setattr(bootstrap, "_run", run)
    return commands


def pip_installs(commands):
    return [command for command in commands if "--editable" in command]


def test_a_fresh_checkout_gets_a_venv_and_the_extras(checkout, ran):
    install(EXTRAS, torch=None)

    assert ran[0][1:3] == ["-m", "venv"]
    assert ran[-1][-1] == f"{checkout}[local,worker]"


def test_the_second_time_nothing_runs(checkout, ran):
    install(EXTRAS, torch=None)
    ran.clear()

    install(EXTRAS, torch=None)
    install(frozenset({"local"}), torch=None)

    assert ran == []


@pytest.mark.parametrize("name", bootstrap._INPUTS)
def test_a_changed_input_installs_again_without_a_new_venv(checkout, ran, name):
    install(EXTRAS, torch=None)
    ran.clear()
    (checkout / name).write_text("changed")

    install(EXTRAS, torch=None)

    assert len(ran) == len(pip_installs(ran)) == 1


def test_more_extras_keep_those_that_are_there(checkout, ran):
    install(frozenset({"worker"}), torch=None)
    install(frozenset({"test"}), torch=None)

    assert ran[-1][-1].endswith("[test,worker]")


def test_an_interrupted_installation_begins_afresh(checkout, ran, monkeypatch):
    def fail(*arguments):
        raise ProcessError("pip was killed")

    with monkeypatch.context() as patch:
        patch.setattr(bootstrap, "_pip", fail)
        with pytest.raises(ProcessError):
            install(EXTRAS, torch=None)
    ran.clear()

    install(EXTRAS, torch=None)

    assert "--clear" in ran[0]
    assert pip_installs(ran)


def test_somebodys_own_venv_is_not_thrown_away(checkout, ran):
    (checkout / ".venv" / "bin").mkdir(parents=True)
    for program in ("python", "pip"):
        (checkout / ".venv" / "bin" / program).touch()

    install(EXTRAS, torch=None)

    assert ran == pip_installs(ran)


def test_a_moved_checkout_gets_a_new_venv(checkout, ran):
    install(EXTRAS, torch=None)
    stamp = checkout / ".venv" / "callscribe-installed.json"
    stamp.write_text(json.dumps(json.loads(stamp.read_text()) | {"place": "/elsewhere"}))
    ran.clear()

    install(EXTRAS, torch=None)

    assert ran[0][1:3] == ["-m", "venv"]


def test_another_build_of_torch_replaces_the_one_that_is_there(checkout, ran):
    install(EXTRAS, torch="cpu")
    ran.clear()

    install(EXTRAS, torch="cuda")

    assert "uninstall" in ran[0]
    assert ran[-1][-1].endswith("[local,worker,cuda]")


def test_no_word_about_torch_keeps_the_build_that_is_there(checkout, ran):
    install(EXTRAS, torch="cuda")
    ran.clear()

    install(EXTRAS, torch=None)

    assert ran == []


def test_torch_index_is_handed_to_pip(checkout, ran, monkeypatch):
    monkeypatch.setenv("TORCH_INDEX", "file:///torch")

    install(EXTRAS, torch="cpu")

    assert ("--extra-index-url", "file:///torch") in zip(ran[-1], ran[-1][1:], strict=False)


def test_a_python_without_ensurepip_uses_its_own_pip(checkout, ran, monkeypatch):
    monkeypatch.setattr(
        bootstrap.importlib.util, "find_spec", lambda name: None if name == "ensurepip" else name
    )

    install(EXTRAS, torch=None)

    assert "--without-pip" in ran[0]
    assert ran[1][2:4] == ["pip", "--python"]


def test_a_python_without_any_pip_says_what_to_install(checkout, ran, monkeypatch):
    monkeypatch.setattr(bootstrap.importlib.util, "find_spec", lambda name: None)

    with pytest.raises(ProcessError, match="apt install python3-venv"):
        install(EXTRAS, torch=None)


class Log:
    def __init__(self, text):
        self.text = text

    def output(self):
        return self.text


@pytest.mark.parametrize(
    ("log", "progress"),
    [
        ("", ""),
        (
            "Collecting torch\n  Downloading torch.whl (1.5 GB)\nCollecting six\n"
            "  Using cached six.whl (500 kB)\n",
            "2 packages, 1500 MB",
        ),
        ("Collecting six\nInstalling collected packages: six\n", "unpacking"),
    ],
)
def test_progress_is_read_from_pips_log(log, progress):
    assert bootstrap._pip_progress(Log(log)) == progress


def test_a_full_disk_is_named():
    assert "disk is full" in bootstrap._hint("OSError: [Errno 28] No space left on device")


def test_the_environment_puts_strangers_modules_out_of_reach(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/strange")

    changed = environment()

    assert changed["PYTHONPATH"] == str(bootstrap.ROOT)
    assert changed["PYTHONSAFEPATH"] == "1"


def test_a_directory_that_does_not_exist_is_told_before_anything_runs(tmp_path, capsys):
    with pytest.raises(SystemExit):
        quickstart_options([str(tmp_path / "missing")])

    assert "does not exist" in capsys.readouterr().err


def test_the_command_tells_how_it_is_used():
    command = Path(bootstrap.__file__).parents[1] / "quickstart"

    result = subprocess.run([command, "--help"], capture_output=True, text=True, check=True)

    assert "Example: ops/quickstart" in result.stdout
