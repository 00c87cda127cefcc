"""Codes are explained, and checks shown, where they are met: at the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.metadata import version

import pytest
import structlog
from rich.console import Console

from producer.cli.doctor import CheckResult, CheckVerdict
from producer.cli.host import _checks_view
from producer.cli.main import main
from schema.advice import ADVICE
from schema.errors import ErrorCode


@pytest.fixture
def producer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Run a command of a host without any setting; return how it ended and what it printed."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["producer", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), " ".join(printed.out.split()), printed.err

    yield run
    # The command logs to the standard error of then.
    structlog.reset_defaults()


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_is_explained(producer, code: ErrorCode):
    rc, said, _ = producer("explain", code)

    assert rc == 0
    assert " ".join(ADVICE[code].do.split()) in said
    assert code.meaning in said


@pytest.mark.parametrize("written", ["[audio.empty]", "AUDIO.EMPTY", " audio.empty "])
def test_a_code_is_understood_as_it_is_copied(producer, written: str):
    assert ADVICE[ErrorCode.AUDIO_EMPTY].do in producer("explain", written)[1]


def test_a_code_that_is_misspelt_has_near_ones(producer):
    rc, said, told = producer("explain", "audio.emty")

    assert (rc, said) == (4, "")
    assert "audio.empty" in told


def test_scripts_are_told_the_same(producer):
    rc, said, _ = producer("explain", "held", "--json")

    assert rc == 0
    assert json.loads(said)["do"] == ADVICE[ErrorCode.HELD].do


def test_the_release_is_told(producer):
    assert producer("--version")[:2] == (0, f"callscribe {version('callscribe')}")


def test_what_to_do_stands_below_what_was_found():
    finding = CheckResult("spool", CheckVerdict.WARN, "none", "Set CALLSCRIBE_SPOOL")
    console = Console(width=60)
    with console.capture() as capture:
        console.print(_checks_view([CheckResult("redis", CheckVerdict.OK, "Redis 7"), finding]))

    lines = [" ".join(line.split()) for line in capture.get().splitlines()]
    assert lines == ["check result", "ok redis Redis 7", "warn spool none", "Set CALLSCRIBE_SPOOL"]
