"""Become another program that the kernel ends when this program's parent ends.

    python leash.py SIGNAL PARENT_PID PROGRAM [ARGUMENT...]

A parent that is killed outright has no chance to stop its children, so they ask the kernel to
(PR_SET_PDEATHSIG). The wish survives exec but neither fork nor a change of user: hence a program
of its own, run last before the real one, rather than code between fork and exec, which would not
be safe in a process with threads. Uses the standard library only, and starts in 15 ms.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Tie this process to its parent, then exec the program; returns never."""
    signum, parent, program = int(arguments[0]), int(arguments[1]), arguments[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it ended before the kernel had our wish
        sys.exit("the parent process is gone")
    # A shell starts what it puts into the background with Ctrl-C ignored, and so would we.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        os.execvp(program[0], program)  # noqa: S606
    except OSError as error:
        sys.exit(f"{program[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
