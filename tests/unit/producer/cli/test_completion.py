"""What a shell asks at a TAB is answered, in bash and in zsh, as the installed script asks it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from producer.cli.main import app

#: What typer's scripts set, of a command line with the cursor at its end.
ASKED = {
    "bash": lambda words: {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)},
    "zsh": lambda words: {"_TYPER_COMPLETE_ARGS": " ".join(words)},
}


def completed(shell: str, *words: str) -> str:
    environment = {"_PRODUCER_COMPLETE": f"complete_{shell}", **ASKED[shell](words)}
    ran = CliRunner().invoke(app, prog_name="producer", env=environment)
    assert ran.exit_code == 0
    return ran.output


@pytest.mark.parametrize("shell", ASKED)
def test_commands_and_options_are_completed(shell: str):
    assert "submit" in completed(shell, "producer", "su")
    assert "export" not in completed(shell, "producer", "su")
    assert "--speakers" in completed(shell, "producer", "submit", "--sp")


@pytest.mark.parametrize(("shell", "start_file"), [("bash", ".bashrc"), ("zsh", ".zshrc")])
def test_completion_is_installed_for_the_shell_that_is_named(
    shell: str, start_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    # Else typer looks which shell it was started from, which of tests is any.
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")

    ran = CliRunner().invoke(app, ["--install-completion", shell], prog_name="producer")

    assert ran.exit_code == 0
    assert (tmp_path / start_file).read_text()
    scripts = [p.read_text() for p in tmp_path.rglob("*") if p.is_file() and p.name != start_file]
    assert any("_PRODUCER_COMPLETE" in script for script in scripts)
