"""Every check of a change, in the order in which a failure is cheapest to find.

ops/test            all of them
ops/test -k seam    pytest alone, with these arguments
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from ops.local import models
from ops.local.bootstrap import ROOT
from ops.local.console import say
from ops.local.process import ProcessError, Stopped, stop_on_signals

_CHECKS: Sequence[Sequence[str]] = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy", "schema", "producer", "workers", "ops"),
    ("pytest",),
)


def main(arguments: Sequence[str]) -> int:
    """Run the checks, all of them even if one fails; return 0 if none did."""
    stop_on_signals()
    try:
        models.fetch()
        if arguments:
            return _run(["pytest", *arguments])
        failed = [" ".join(check) for check in _CHECKS if _run(check) != 0]
    except ProcessError as error:
        sys.exit(str(error))
    except Stopped as stopped:
        return stopped.exit_code
    for check in failed:
        say(f"FAILED: {check}")
    return 1 if failed else 0


def _run(command: Sequence[str]) -> int:
    say(f"$ {' '.join(command)}")
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
