"""Transcribe a directory on this machine: start everything, submit, export, stop everything.

Runs inside .venv; ``bootstrap`` made it and parses the command line. Interrupted at any moment it
stops what it started; what was transcribed by then stays in the ledger, and the same command goes
on from there.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ops.local import models, samples
from ops.local.bootstrap import STATE, VENV, installed_torch, quickstart_options
from ops.local.console import say
from ops.local.process import (
    Busy,
    DirectoryLock,
    ProcessError,
    Stopped,
    run_attached,
    stop_on_signals,
)
from ops.local.stack import Roots, Stack, count_gpus, producer_command

#: The default profile's models, and what tells apart who speaks on one channel: our own calls have
#: a channel each.
_MODELS = ("fsmn-vad", "whisper-base")
_VOICE_MODELS = ("campplus",)
_FORMATS = "json,srt,vtt,txt,html"
_PREVIEW_LINES = 8

# producer's exit codes that mean there is something to wait for.
_OK, _INCOMPLETE = 0, 3
_FAILED = 1


@dataclass(frozen=True, slots=True)
class Order:
    """What to transcribe, and how: the options of ``producer submit``."""

    directory: Path
    options: tuple[str, ...]


def main(arguments: Sequence[str]) -> int:
    """Do all of it; return the exit code of ``producer``."""
    options = quickstart_options(arguments)
    lock = DirectoryLock(STATE / "quickstart")
    try:
        stop_on_signals()
        lock.acquire()
        order = _order(options.dir, options.language, options.speakers)
        weights = models.fetch(_MODELS if options.dir is None else _MODELS + _VOICE_MODELS)
        with _stack(order, weights, metrics=options.keep) as stack:
            code = _transcribe(stack, order, options.out.absolute())
            if options.keep:
                _keep(stack)
    except Busy as busy:
        say(f"\nops/quickstart runs here already: {busy}")
    except ProcessError as error:
        say(f"\n{error}")
    except Stopped as stopped:
        say("\nStopped. What was transcribed is kept; the same command goes on from there.")
        return stopped.exit_code
    else:
        return code
    return _FAILED


def _order(directory: Path | None, language: str | None, speakers: str | None) -> Order:
    """Turn the command line into an order; without a directory, for the sample calls."""
    options = []
    if directory is None:
        calls = samples.compose()
        directory = calls.directory
        options += ["--manifest", str(calls.manifest)]
        speakers = speakers or "agent,customer"
    else:
        options += ["--diarize", "auto"]
    if language:
        options += ["--language", language]
    if speakers:
        options += ["--speakers", speakers]
    return Order(directory.resolve(), tuple(options))


def _stack(order: Order, weights: Path, *, metrics: bool) -> Stack:
    gpus = count_gpus() if installed_torch() == "cuda" else 0
    if installed_torch() == "cuda" and not gpus:
        say("No NVIDIA GPU is to be seen: decoding on the CPU")
    roots = Roots(STATE)
    roots.add(order.directory if order.directory.is_dir() else order.directory.parent)
    return Stack(STATE, models=weights, roots=roots.all(), gpus=gpus, metrics=metrics)


def _transcribe(stack: Stack, order: Order, out: Path) -> int:
    """Submit, wait and export; return the first exit code that is not 0."""
    say(f"Flower shows the fleet at {stack.flower_url}\n")
    submitted, output = _producer(
        stack, "submit", str(order.directory), *order.options, capture=True
    )
    if submitted not in (_OK, _INCOMPLETE):
        return submitted
    submission = output.split()[-1]
    watched, _ = _producer(stack, "watch", submission)
    began = time.time()
    where = ("--format", _FORMATS, "--out", str(out))
    exported, _ = _producer(stack, "export", submission, *where)
    _preview(out, began)
    if exported in (_OK, _INCOMPLETE):
        say(f"\nTo read and to hear them: {out / 'index.html'}")
    return submitted or watched or exported


def _producer(stack: Stack, *arguments: str, capture: bool = False) -> tuple[int, str]:
    return run_attached(
        producer_command(*arguments),
        environment=stack.environment,
        meanwhile=stack.supervise,
        capture=capture,
    )


def _preview(out: Path, since: float) -> None:
    """Show how the first transcript begins, of those just written that have words."""
    for path in sorted(out.rglob("*.txt")):
        lines = path.read_text("utf-8").splitlines()
        if path.stat().st_mtime >= since - 1 and lines:
            say(f"\n{path}:")
            for line in lines[:_PREVIEW_LINES]:
                say(f"  {line}")
            return


def _keep(stack: Stack) -> None:
    """Leave everything running until somebody stops us, which is then no failure."""
    file = STATE / "environment"
    names = [name for name in stack.environment if name.startswith("CALLSCRIBE_")]
    lines = [f"export {name}={shlex.quote(stack.environment[name])}" for name in names]
    path = shlex.quote(str(VENV / "bin"))
    file.write_text("\n".join([*lines, f'export PATH={path}:"$PATH"', ""]))
    say("\nIt stays up until Ctrl-C. In another terminal, this lets you use it:\n")
    say(f"  . {shlex.quote(os.path.relpath(file))}")
    say("  producer status --all\n")
    say("It reads the calls that it was started with; for others: ops/quickstart DIR --keep\n")
    say("Prometheus finds figures on loopback, at /metrics of these ports:\n")
    say(f"  {', '.join(f'{name} {port}' for name, port in stack.metrics_ports.items())}\n")
    try:
        while True:
            stack.supervise()
            time.sleep(1)
    except Stopped:
        say("\nStopping")
    finally:
        file.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
