"""Child processes: started on a leash, logged to a file, stopped within a bounded time.

Standard library only: the installer uses it before anything is installed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn, Self

from ops.local import leash

#: How much of a log an error message quotes.
TAIL_LINES = 15
_TAIL_BYTES = 16_384
_LINE_END = 200

#: How long a process may take to vanish after SIGKILL: longer only if it hangs in the kernel.
_KILL_WAIT_S = 5.0
#: How long an interrupted program may take to say good-bye.
_INTERRUPT_WAIT_S = 5.0
_MEANWHILE_S = 0.5


class ProcessError(RuntimeError):
    """A program could not be started, or ended when it should not have."""


class ServerError(ProcessError):
    """A server cannot be found, started or reached."""


class Busy(ProcessError):
    """Somebody else is using the directory."""


class Stopped(BaseException):
    """We were asked to end: an exception, so that whatever was begun is undone on the way out."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """The exit code that shells give to a program ended by this signal."""
        return 128 + self.signum


#: The terminal's Ctrl-C, a polite kill, and the terminal itself going away.
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def stop_on_signals() -> None:
    """Turn the first request to end into ``Stopped``; further ones do not disturb the clean-up.

    A signal that is ignored from the start stays so: that is what nohup means. One that came
    while they were held back (see ``hold_signals``) comes now, so be ready to catch it.
    """

    def stop(signum: int, _frame: FrameType | None) -> NoReturn:
        for each in _STOP_SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(signum)

    for each in _STOP_SIGNALS:
        if signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)


def hold_signals() -> None:
    """Hold requests to end back until ``stop_on_signals``, even across exec: Python starts up."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)


class DirectoryLock:
    """At most one holder per directory; freed by the kernel however the holder ends."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "lock"
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock, or do nothing if this object has it.

        Raises:
            Busy: another process has it; the message names that process.
        """
        if self._fd is not None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode().strip() or "unknown"
            os.close(fd)
            raise Busy(f"{self._path.parent} is in use by process {holder}") from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    @property
    def held(self) -> bool:
        """Whether this object has the lock."""
        return self._fd is not None

    def release(self) -> None:
        """Give the lock back."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class Child:
    """One program, in a session of its own so that the terminal's Ctrl-C reaches only us.

    Start it from the main thread: the leash is tied to the thread that starts it. ``prefix`` is
    a command that runs the program as another user; it comes before the leash. Its ``directory``
    and ``environment`` may be changed between a stop and a start.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        prefix: Sequence[str] = (),
        on_our_death: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self.environment = None if environment is None else dict(environment)
        self.directory = directory
        self._prefix = list(prefix)
        self._on_our_death = on_our_death
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def start(self) -> None:
        """Start the program; its output is appended to the log."""
        if self.running:
            raise ProcessError(f"{self.name} is running already")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [*self._prefix, *leashed(self._command, self._on_our_death)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                cwd=self.directory,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id.

        Raises:
            ProcessError: it was never started.
        """
        if self._process is None:
            raise ProcessError(f"{self.name} was not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs or before it is started."""
        return None if self._process is None else self._process.poll()

    def kill(self, signum: signal.Signals) -> None:
        """Send a signal to the program itself, if it still runs."""
        if self.running:
            os.kill(self.pid, signum)

    def kill_tree(self, signum: signal.Signals) -> None:
        """Send a signal to the program, if it still runs, and to every process that came of it."""
        if not self.running:
            return  # its id may be another's by now
        pids = family(self.pid)
        self.kill(signum)
        for pid in pids - {self.pid}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end; return whether it came."""
        if self._process is None:
            return True
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self, signum: signal.Signals = signal.SIGTERM, grace_s: float = 10.0) -> None:
        """Ask the program to end; kill it and all that came of it once ``grace_s`` has passed."""
        self.kill(signum)
        if not self.wait(grace_s):
            self.kill_tree(signal.SIGKILL)
            self.wait(_KILL_WAIT_S)

    def output(self, last_bytes: int | None = None) -> str:
        """Return what it logged since it was started, or the end of it."""
        try:
            with self.log.open("rb") as log:
                end = log.seek(0, os.SEEK_END)
                log.seek(max(self._log_start, end - (last_bytes or end)))
                return log.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""

    def tail(self, lines: int = TAIL_LINES) -> str:
        """Return the last lines it logged since it was started; of a long one, both ends."""
        return "\n".join(map(_shorten, self.output(_TAIL_BYTES).splitlines()[-lines:]))

    def how_it_ended(self) -> str:
        """Return "NAME ended with code 1" or "NAME was ended by SIGKILL"."""
        code = self.exit_code
        if code is not None and code < 0:
            return f"{self.name} was ended by {signal.Signals(-code).name}"
        return f"{self.name} ended with code {code}"

    def describe_end(self) -> str:
        """Say how it ended and what it logged last, for an error message."""
        tail = self.tail().replace("\n", "\n  | ")
        return f"{self.how_it_ended()}; {self.log} ends with\n  | {tail or '(nothing)'}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _shorten(line: str) -> str:
    """Cut the middle out of a long line: a traceback on one line says what matters last."""
    if len(line) <= 2 * _LINE_END:
        return line
    return f"{line[:_LINE_END]} [...] {line[-_LINE_END:]}"


def leashed(command: Sequence[str], on_our_death: signal.Signals) -> list[str]:
    """Return the command that runs a program on a leash: see ``leash``."""
    ties = [str(int(on_our_death)), str(os.getpid())]
    return [sys.executable, "-I", "-S", leash.__file__, *ties, *command]


def run_attached(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    directory: Path | None = None,
    meanwhile: Callable[[], None] = lambda: None,
    capture: bool = False,
) -> tuple[int, str]:
    """Run a program that talks to our terminal; return its exit code and, if captured, its output.

    ``meanwhile`` is called twice a second and may raise to end it. A session of its own keeps the
    terminal's Ctrl-C from it: it is interrupted by us, once.
    """
    with subprocess.Popen(
        leashed(command, signal.SIGTERM),
        env=environment,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if capture else None,
        text=True,
        start_new_session=True,
    ) as program:
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    output, _ = program.communicate(timeout=_MEANWHILE_S)
                    return program.returncode, output or ""
                meanwhile()
        finally:
            _interrupt(program)


def _interrupt(program: subprocess.Popen[str]) -> None:
    """Let a program say good-bye, but not for long; nothing, if it has ended."""
    if program.poll() is None:
        program.send_signal(signal.SIGINT)
        try:
            program.wait(_INTERRUPT_WAIT_S)
        except subprocess.TimeoutExpired:
            program.kill()


def family(pid: int) -> set[int]:
    """Return a process, its descendants, and whoever is left in the session that it leads.

    Postgres' backends have sessions of their own and a dead parent's children lose their
    ancestry: neither rule alone finds everybody.
    """
    members = {pid}
    processes = list(_processes())
    while True:
        found = {p for p, parent, session in processes if parent in members or session == pid}
        if found <= members:
            return members
        members |= found


def children_of(pid: int) -> set[int]:
    """Return the processes that a process has started itself, and not its children."""
    return {process for process, parent, _ in _processes() if parent == pid}


def _processes() -> Iterator[tuple[int, int, int]]:
    """Yield id, parent and session of every process."""
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            # The command's name stands in brackets and may hold spaces and brackets itself.
            fields = Path(entry.path, "stat").read_text("utf-8", "replace").rpartition(")")[2]
            _, parent, _, session = fields.split()[:4]
            yield int(entry.name), int(parent), int(session)


def at_home_in(directory: Path) -> set[int]:
    """Return the processes whose working directory this is, as far as we may see."""
    home = str(directory.resolve())
    found = set()
    for entry in os.scandir("/proc"):
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and os.readlink(f"/proc/{entry.name}/cwd") == home:
                found.add(int(entry.name))
    return found
