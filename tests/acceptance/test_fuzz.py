"""Damaged files harm nobody but themselves; the long form is ``python -m ops.chaos.fuzz``."""

import subprocess
import sys


def test_no_damaged_file_breaks_a_reader_or_whoever_runs_it():
    # In a process of its own: the memory of children is counted, and pytest has had others.
    command = [sys.executable, "-m", "ops.chaos.fuzz", "--cases", "600", "--seed", "3"]

    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "crashes of the parent 0; hangs 0; broken 0" in done.stdout
