"""A whole fleet: real Postgres, Redis, Celery workers and weights, and speech to decode."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from ops.chaos.field import Field
from ops.chaos.network import Network
from ops.local.samples import compose
from ops.local.stack import Stack, producer_command
from schema.store.connection import create_ledger_engine
from schema.store.ledger import Ledger
from tests.acceptance.hosts import FAR, NAME, NEAR

#: Short, so that a dead worker's segments come back while a test waits.
FAST_RECOVERY = {"CALLSCRIBE_LEASE_S": "6", "CALLSCRIBE_SWEEP_S": "1"}


@dataclass
class Fleet:
    """A running stack, the directory that its workers may read, and the ledger."""

    stack: Stack
    calls: Path
    ledger: Ledger

    def producer(self, *arguments: str, expect: int = 0) -> Any:
        """Run ``producer ... --json`` and return what it printed."""
        done = subprocess.run(
            [*producer_command(*arguments), "--json"],
            env=self.stack.environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == expect, f"{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout) if done.stdout else None

    def transcripts(self, submission: str, out: Path) -> dict[str, Any]:
        """Export a submission; return its transcripts by file name."""
        self.producer("export", submission, "--format", "json", "--out", str(out))
        found = (json.loads(path.read_text()) for path in out.rglob("*.json"))
        return {document["file"]: document for document in found}


def words_of(transcript: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Return every word of an exported transcript with its speaker and times."""
    return [
        (u["speaker"], w["text"], w["start_ms"], w["end_ms"])
        for u in transcript["utterances"]
        for w in u["words"]
    ]


def wait_for(condition: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    """Poll until a condition holds; return what it returned."""
    deadline = time.monotonic() + timeout_s
    while True:
        if value := condition():
            return value
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def models() -> Path:
    """The directory of the small real weights."""
    directory = Path(os.environ.get("CALLSCRIBE_MODELS", "~/.cache/callscribe/models")).expanduser()
    if not (directory / "whisper-tiny.en" / "model.bin").is_file():
        message = "needs the small weights: python -m ops.local.models"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return directory


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, int]:
    """Two minutes of two people who take turns: float32, (frames, 2), and the rate in Hz."""
    calls = compose(tmp_path_factory.mktemp("speech")).directory
    samples, rate_hz = soundfile.read(calls / "call-1005.wav", dtype="float32", always_2d=True)
    return samples, rate_hz


@pytest.fixture(scope="module")
def fleet(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two workers and a reducer, with servers of their own."""
    directory = tmp_path_factory.mktemp("fleet")
    calls = directory / "calls"
    calls.mkdir()
    stack = Stack(
        directory / "state",
        models=models,
        roots={"calls": calls},
        workers=2,
        durable=False,
        tell=lambda _: None,
    )
    stack.environment.update(FAST_RECOVERY)
    with stack:
        ledger = Ledger(create_ledger_engine(stack.postgres.url))
        yield Fleet(stack, calls, ledger)
        ledger.close()


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    network = Network([NEAR, FAR], ["postgres", "redis", "store"])
    try:
        network.start()
    except OSError as error:
        pytest.skip(f"needs to make network namespaces, as root with CAP_NET_ADMIN: {error}")
    yield network
    network.stop()


@pytest.fixture(scope="module")
def make_field(
    network: Network, models: Path, speech: tuple[np.ndarray, int]
) -> Callable[..., Field]:
    """Make a field on the network, with one recording."""
    samples, rate_hz = speech

    def make(directory: Path, own: Callable[[str], Mapping[str, str]] = lambda _: {}) -> Field:
        field = Field(directory, models=models, network=network, own=own)
        soundfile.write(field.calls / NAME, samples[: rate_hz * 30], rate_hz)
        return field

    return make
