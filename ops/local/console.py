"""What the newcomer sees: a few plain lines, and one that moves while something takes long.

Standard library only, like all that runs before the installation.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable

from ops.local.process import Busy, Child, DirectoryLock

_REDRAW_S = 0.2
#: Where no terminal redraws the line, a log wants a sign of life, not a flood.
_REPEAT_S = 30.0


def say(text: str = "") -> None:
    """Print a line at once, also into a pipe."""
    print(text, flush=True)


def wait_for(lock: DirectoryLock) -> None:
    """Take a lock, and say whom we wait for if somebody has it."""
    told = False
    while True:
        try:
            lock.acquire()
        except Busy as busy:
            if not told:
                say(f"Waiting: {busy}")
            told = True
            time.sleep(_REDRAW_S)
        else:
            return


def watch(child: Child, progress: Callable[[], str]) -> None:
    """Wait for a program to end, showing what ``progress`` returns and the seconds so far.

    Whoever interrupts the wait must stop the program: see ``Child``'s context manager.
    """
    started = time.monotonic()
    live = sys.stdout.isatty()
    said = started
    while not child.wait(_REDRAW_S):
        now = time.monotonic()
        line = f"  {progress()}, {now - started:.0f} s"
        if live:
            width = shutil.get_terminal_size().columns - 1
            sys.stdout.write(f"\r\x1b[K{line[:width]}")
            sys.stdout.flush()
        elif now - said > _REPEAT_S:
            said = now
            say(line)
    if live:
        sys.stdout.write("\r\x1b[K")
        sys.stdout.flush()
