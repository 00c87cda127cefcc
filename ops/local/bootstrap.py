"""Install callscribe into .venv, once, then go on inside it.

    python -m ops.local.bootstrap quickstart|test [ARGUMENT...]

Runs with any Python 3.11 or 3.12 that has pip or ensurepip, and uses the standard library only.
A stamp in .venv says what was installed, so that the next run starts in no time; a mark that an
installation which did not finish leaves behind makes the next one begin afresh.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ops.local.console import say, wait_for, watch
from ops.local.process import (
    Child,
    DirectoryLock,
    ProcessError,
    Stopped,
    hold_signals,
    stop_on_signals,
)

ROOT = Path(__file__).resolve().parents[2]
#: Everything that running here leaves behind, beside .venv and the models' cache.
STATE = ROOT / ".callscribe"
VENV = ROOT / ".venv"

_PYTHON = VENV / "bin" / "python"
_STAMP = VENV / "callscribe-installed.json"
#: Beside .venv, not in it: a venv that is made anew loses what is in it.
_UNFINISHED = STATE / "install" / "unfinished"
_LOG = STATE / "logs" / "install.log"
_INSTALLING = """\
Installing into .venv, once: 2.3 GB on disk, or some 7 GB where pip finds PyTorch for CUDA.
  (--torch cpu with TORCH_INDEX=URL takes the CPU build from an index that has it.)"""
_UPDATING = "Updating .venv: what callscribe needs has changed"

#: Whoever changes one of these changes what has to be installed.
_INPUTS = ("setup.cfg", "pyproject.toml", "ops/constraints.txt")

#: Each program's module, and the extras of setup.cfg that it needs.
_PROGRAMS: Mapping[str, tuple[str, frozenset[str]]] = {
    "quickstart": ("ops.local.quickstart", frozenset({"worker", "itn", "flower", "local"})),
    "test": (
        "ops.local.checks",
        frozenset({"worker", "itn", "flower", "local", "parquet", "s3", "test"}),
    ),
}


def main(arguments: Sequence[str]) -> NoReturn:
    """Install what the program needs, then become it."""
    program, *rest = arguments
    module, extras = _PROGRAMS[program]
    torch = quickstart_options(rest).torch if program == "quickstart" else None
    try:
        stop_on_signals()
        install(extras, torch)
    except ProcessError as error:
        sys.exit(f"\n{error}")
    except Stopped as stopped:
        say("\nstopped; the same command takes it up again")
        sys.exit(stopped.exit_code)
    hold_signals()
    os.execve(_PYTHON, [str(_PYTHON), "-m", module, *rest], environment())  # noqa: S606


def quickstart_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse quickstart's command line: here, so that a slip is told before minutes of work."""
    parser = argparse.ArgumentParser(
        prog="ops/quickstart",
        description="Transcribe a directory of calls on this machine, with nothing but Python.",
        epilog="Example: ops/quickstart ~/calls --out ~/transcripts --language en "
        "--speakers agent,customer",
    )
    parser.add_argument("dir", nargs="?", type=Path, help="recordings; without it, sample calls")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("transcripts"),
        help="where transcripts are written (./transcripts)",
    )
    parser.add_argument("--keep", action="store_true", help="leave it running until Ctrl-C")
    parser.add_argument(
        "--torch",
        choices=("cpu", "cuda"),
        help="which build of PyTorch to install; TORCH_INDEX=URL names the package index that "
        "has it, if yours has another",
    )
    parser.add_argument("--language", metavar="xx", help="spoken language, such as en (found out)")
    parser.add_argument("--speakers", metavar="A,B", help="names of channels 0, 1, ...")
    options = parser.parse_args(arguments)
    if options.dir is not None and not options.dir.exists():
        parser.error(f"{options.dir} does not exist")
    return options


def environment() -> dict[str, str]:
    """Return the environment for everything that runs inside .venv.

    Ours comes first on Python's path and the current directory is not on it at all: a stranger's
    schema.py there would be taken for ours.
    """
    ours = {
        "PYTHONPATH": str(ROOT),
        "PYTHONSAFEPATH": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONUNBUFFERED": "1",
        "PATH": f"{VENV / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "VIRTUAL_ENV": str(VENV),
    }
    return {k: v for k, v in os.environ.items() if k != "PYTHONHOME"} | ours


def install(extras: frozenset[str], torch: str | None) -> None:
    """Make .venv hold callscribe with these extras; a glance if it does already.

    Raises:
        ProcessError: this Python cannot make it, or pip failed; the message shows how.
    """
    wanted = _wanted(extras, torch)
    if _satisfied(wanted):
        return
    lock = DirectoryLock(STATE / "install")
    wait_for(lock)
    try:
        if not _satisfied(wanted):  # whoever had the lock did it
            _install(wanted)
    finally:
        lock.release()


def installed_torch() -> str:
    """Return which build of PyTorch was asked for: "cpu", "cuda", or "any" if nobody said."""
    return str(_stamp().get("torch", "any"))


def _wanted(extras: frozenset[str], torch: str | None) -> dict[str, Any]:
    """Return what the stamp must say; what was installed and is not ruled out is kept."""
    installed = _stamp()
    digest = hashlib.sha256()
    for name in _INPUTS:
        digest.update((ROOT / name).read_bytes())
    return {
        "place": str(ROOT),  # scripts in .venv hold their own path: a moved checkout is another
        "inputs": digest.hexdigest(),
        "extras": sorted(extras | set(installed.get("extras", ()))),
        "torch": torch or installed_torch(),
    }


def _satisfied(wanted: Mapping[str, Any]) -> bool:
    return _PYTHON.exists() and not _UNFINISHED.exists() and _stamp() == wanted


def _stamp() -> dict[str, Any]:
    try:
        stamp: dict[str, Any] = json.loads(_STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return stamp if stamp.get("place") == str(ROOT) else {}


def _install(wanted: Mapping[str, Any]) -> None:
    installed = _stamp()
    _LOG.parent.mkdir(parents=True, exist_ok=True)
    _LOG.unlink(missing_ok=True)
    _make_venv()
    if installed:  # a stranger's .venv is added to, and not thrown away if that fails
        _UNFINISHED.touch()
    say(_UPDATING if installed else _INSTALLING)
    if wanted["torch"] != installed.get("torch", wanted["torch"]):
        _pip("uninstall", "--yes", "torch")  # the same version number, of another build
    wanted_extras = [*wanted["extras"], *(["cuda"] if wanted["torch"] == "cuda" else [])]
    _pip(
        "install",
        *("--prefer-binary", "--progress-bar=off"),
        "--no-compile",  # of 20,000 modules most are never imported
        *("--constraint", str(ROOT / "ops" / "constraints.txt")),
        *_torch_index(),
        *("--editable", f"{ROOT}[{','.join(wanted_extras)}]"),
    )
    _STAMP.write_text(json.dumps(wanted, indent=1))
    _UNFINISHED.unlink(missing_ok=True)


def _torch_index() -> list[str]:
    """Let pip look in TORCH_INDEX too: it prefers "2.13.0+cpu" there to "2.13.0" elsewhere."""
    index = os.environ.get("TORCH_INDEX")
    return ["--extra-index-url", index] if index else []


def _make_venv() -> None:
    """Make .venv with pip in it; keep one that somebody made and nobody left unfinished."""
    has_pip = (VENV / "bin" / "pip").exists()
    moved = _STAMP.exists() and not _stamp()
    if _PYTHON.exists() and has_pip and not moved and not _UNFINISHED.exists():
        return
    ensurepip = importlib.util.find_spec("ensurepip") is not None
    if not ensurepip and importlib.util.find_spec("pip") is None:
        raise ProcessError(
            f"{sys.executable} has neither ensurepip nor pip to install packages with.\n"
            "On Debian or Ubuntu: apt install python3-venv, then run this again."
        )
    _UNFINISHED.touch()
    bare = [] if ensurepip else ["--without-pip"]
    _run("venv", [sys.executable, "-m", "venv", "--clear", *bare, str(VENV)], "making .venv")
    if not ensurepip:  # a pip of 22.3 or later can install into another environment
        pip = [sys.executable, "-m", "pip", "--python", str(_PYTHON), "install", "pip"]
        _run("pip", pip, "putting pip into .venv")


def _pip(*arguments: str) -> None:
    command = [str(_PYTHON), "-m", "pip", "--no-input", "--disable-pip-version-check", *arguments]
    _run("pip", command, "starting pip")


def _run(name: str, command: Sequence[str], doing: str) -> None:
    """Run a step of the installation, showing how far it is."""
    scratch = STATE / "tmp"  # /tmp may be in memory, and too small for what pip unpacks
    scratch.mkdir(parents=True, exist_ok=True)
    changes = {"TMPDIR": str(scratch), "PIP_USER": "0", "PYTHONUNBUFFERED": "1"}
    # With the checkout on Python's path pip would take what is there for installed.
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    child = Child(name, command, _LOG, environment=kept | changes)
    try:
        child.start()
        watch(child, lambda: _pip_progress(child) or doing)
    finally:
        child.stop(signal.SIGINT)
        shutil.rmtree(scratch, ignore_errors=True)
    if child.exit_code != 0:
        raise ProcessError(f"{child.describe_end()}\n{_hint(child.output())}")


def _pip_progress(child: Child) -> str:
    """Sum up pip's log: packages so far, and what had to be read for them."""
    text = child.output()
    if "\nInstalling collected packages" in text:
        return "unpacking"
    collected = len(re.findall(r"^Collecting ", text, re.MULTILINE))
    sizes = re.findall(
        r"^ *(?:Downloading|Using cached) .*\(([\d.]+) ([kMG])B\)", text, re.MULTILINE
    )
    megabytes = sum(float(size) * {"k": 1e-3, "M": 1.0, "G": 1e3}[unit] for size, unit in sizes)
    return f"{collected} packages, {megabytes:.0f} MB" if collected else ""


def _hint(log: str) -> str:
    """Say what to do about pip's commonest failures."""
    if "No space left" in log:
        return "The disk is full: this needs 2.3 GB, or some 7 GB with CUDA."
    if re.search(r"NewConnectionError|Temporary failure|Max retries|timed out", log):
        return "The package index could not be reached; the same command tries again."
    return "The same command tries again."


if __name__ == "__main__":
    main(sys.argv[1:])
