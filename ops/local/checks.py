"""Every check of a change, in the order in which a failure is cheapest to find.

ops/test            all of them
ops/test -k seam    pytest alone, with these arguments
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from ops.local import debian, models
from ops.local.bootstrap import ROOT
from ops.local.console import say
from ops.local.process import ProcessError, Stopped, run_attached, stop_on_signals

_CHECKS: Sequence[Sequence[str]] = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy", "schema", "producer", "workers", "ops"),
    # Whole files side by side, since the tests of one share a fleet; the longest first.
    ("pytest", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"),
)


def main(arguments: Sequence[str]) -> int:
    """Run the checks, all of them even if one fails; return 0 if none did."""
    try:
        stop_on_signals()
        environment = {**os.environ, "CALLSCRIBE_MODELS": str(models.fetch())}
        _fetch_programs()
        if arguments:
            return _run(["pytest", *arguments], environment)
        failed = [" ".join(check) for check in _CHECKS if _run(check, environment) != 0]
    except ProcessError as error:
        sys.exit(str(error))
    except Stopped as stopped:
        return stopped.exit_code
    for check in failed:
        say(f"FAILED: {check}")
    return 1 if failed else 0


def _fetch_programs() -> None:
    """Have what only tests want; a host that cannot have it says why, and skips those tests."""
    for package in (debian.PROMETHEUS, debian.PGBOUNCER):
        try:
            debian.fetch(package)
        except ProcessError as error:
            say(f"without {package.name}: {error}")


def _run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    say(f"$ {' '.join(command)}")
    module = [sys.executable, "-m", *command]
    code, _ = run_attached(module, environment=environment, directory=ROOT)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
