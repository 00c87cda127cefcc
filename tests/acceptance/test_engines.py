"""A model of one's own, from ``producer models`` to transcripts, on a fleet of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sqlalchemy import text

from ops.bench.madeup import build
from ops.local.bootstrap import ROOT
from ops.local.stack import Stack, producer_command
from schema.store.connection import create_ledger_engine
from schema.store.ledger import Ledger
from tests.acceptance.conftest import FAST_RECOVERY, Fleet, wait_for, words_of

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def own_models(models: Path, tmp_path_factory) -> Path:
    """The weights that hear, and two models that only this fleet has."""
    directory = tmp_path_factory.mktemp("models")
    (directory / "fsmn-vad").symlink_to(models / "fsmn-vad")
    for kind in ("bicif", "sensevoice"):
        build(kind, directory / kind)
    return directory


@pytest.fixture(scope="module")
def fleet(own_models: Path, speech, tmp_path_factory) -> Iterator[Fleet]:
    """One worker, a reducer, and a directory of two calls."""
    state, calls = tmp_path_factory.mktemp("state"), tmp_path_factory.mktemp("calls")
    samples, rate_hz = speech
    for number in range(2):
        own = np.roll(samples[: rate_hz * 40], number * rate_hz, axis=0)
        soundfile.write(calls / f"call-{number}.wav", own, rate_hz, subtype="ULAW")
    stack = Stack(
        state,
        models=own_models,
        roots={"calls": calls},
        workers=1,
        durable=False,
        flower=False,
        tell=lambda _: None,
    )
    stack.environment.update(FAST_RECOVERY)
    with stack:
        ledger = Ledger(create_ledger_engine(stack.postgres.url))
        yield Fleet(stack, calls, ledger)
        ledger.close()


def described(fleet: Fleet, directory: Path, path: Path) -> Path:
    """Write the profile that ``producer models DIR`` prints."""
    done = subprocess.run(
        producer_command("models", str(directory)),
        env=fleet.stack.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    path.write_text(done.stdout)
    return path


@pytest.mark.parametrize("kind", ["bicif", "sensevoice"])
def test_a_model_of_ones_own_transcribes(fleet, own_models, tmp_path, kind):
    profile = described(fleet, own_models / kind, tmp_path / "ours.toml")
    said = fleet.producer("submit", str(fleet.calls), "--profile", str(profile), "--wait")
    assert said["recordings"] == {"total": 2, "done": 2}
    for transcript in fleet.transcripts(said["submission"], tmp_path / "out").values():
        words = words_of(transcript)
        assert len(words) >= 10
        starts = [start_ms for _, _, start_ms, _ in words]
        assert all(0 <= start_ms <= transcript["duration_ms"] for start_ms in starts)


def test_the_same_model_again_decodes_nothing(fleet, own_models, tmp_path):
    profile = described(fleet, own_models / "bicif", tmp_path / "ours.toml")
    said = fleet.producer("submit", str(fleet.calls), "--profile", str(profile), "--wait")
    assert said["recordings"] == {"total": 2, "done": 2}
    with fleet.ledger.connect() as connection:
        attempts = connection.scalar(
            text(
                "select sum(s.attempts) from segments s join recordings r on r.id = s.recording_id"
                " where r.submission_id = :id"
            ),
            {"id": said["submission"]},
        )
    assert attempts == 0


def test_a_model_that_lies_beside_the_others_needs_no_description(fleet):
    named = ("--engine", "funasr", "--model", "sensevoice", "--wait")
    said = fleet.producer("submit", str(fleet.calls), *named)
    assert said["recordings"] == {"total": 2, "done": 2}


@pytest.fixture
def too_large(own_models: Path, tmp_path: Path) -> Path:
    """A profile whose model is larger than any host's memory: a file of holes."""
    directory = own_models / "too-large"
    directory.mkdir(exist_ok=True)
    with (directory / "model.bin").open("wb") as file:
        file.truncate(1 << 40)
    path = tmp_path / "large.toml"
    path.write_text(f'[decode]\nmodel = "too-large"\n[decode.files]\n"model.bin" = "{"0" * 64}"\n')
    return path


def test_where_memory_is_short_a_smaller_model_stands_in(fleet, own_models, too_large, tmp_path):
    described(fleet, own_models / "bicif", tmp_path / "ours.toml")
    smaller = (tmp_path / "ours.toml").read_text().replace("[decode", "[decode.fallback")
    too_large.write_text(too_large.read_text() + smaller)
    said = fleet.producer("submit", str(fleet.calls), "--profile", str(too_large), "--wait")
    assert said["recordings"] == {"total": 2, "done": 2}
    fallen_back = fleet.transcripts(said["submission"], tmp_path / "one")
    plain = ("--profile", str(tmp_path / "ours.toml"), "--wait")
    own = fleet.producer("submit", str(fleet.calls), *plain)
    asked_for = fleet.transcripts(own["submission"], tmp_path / "other")
    assert {name: words_of(t) for name, t in fallen_back.items()} == {
        name: words_of(t) for name, t in asked_for.items()
    }
    assert all("smaller-model" in t["flags"] for t in fallen_back.values())
    assert not any("smaller-model" in t["flags"] for t in asked_for.values())


def test_a_model_that_fits_nowhere_is_waited_for_and_costs_no_attempt(fleet, too_large):
    submission = fleet.producer("submit", str(fleet.calls), "--profile", str(too_large))[
        "submission"
    ]

    def refused() -> bool:
        status = fleet.producer("status", submission)
        return [own["code"] for own in status["waiting"]] == ["memory.short"]

    wait_for(refused)
    with fleet.ledger.connect() as connection:
        query = text(
            "select max(s.attempts), max(s.strikes) from segments s"
            " join recordings r on r.id = s.recording_id where r.submission_id = :id"
            " and s.state = 'pending'"
        )
        assert tuple(connection.execute(query, {"id": submission}).one()) == (0, 0)
    fleet.producer("cancel", submission)


def test_other_weights_than_the_profile_says_are_not_loaded(fleet, own_models, tmp_path):
    profile = described(fleet, own_models / "bicif", tmp_path / "ours.toml")
    profile.write_text(
        re.sub(r'("model.pt" = )"[0-9a-f]{64}"', r'\1"' + "0" * 64 + '"', profile.read_text())
    )
    submission = fleet.producer("submit", str(fleet.calls), "--profile", str(profile))["submission"]

    def refused() -> bool:
        status = fleet.producer("status", submission)
        return [own["code"] for own in status["waiting"]] == ["weights.changed"]

    wait_for(refused)
    fleet.producer("cancel", submission)


def test_a_deep_clean_lets_go_of_the_models_and_the_next_segment_loads_them(
    fleet, own_models, tmp_path
):
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "workers.app", "control", "deep_clean"],
        env=fleet.stack.environment,
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert "models and caches go before the next segment" in done.stdout
    profile = described(fleet, own_models / "bicif", tmp_path / "ours.toml")
    said = fleet.producer(
        "submit", str(fleet.calls), "--profile", str(profile), "--force", "--wait"
    )
    assert said["recordings"] == {"total": 2, "done": 2}
    log = (fleet.stack.logs / "asr0.log").read_text()
    assert log.count("deep_cleaned") == 1


def test_a_worker_that_hears_with_fsmn_and_writes_with_whisper_loads_no_funasr():
    code = (
        "import sys; from ops.local.models import fetch; from schema.settings import Settings;"
        "from schema.profile import Profile; from workers.engines import load;"
        "s = Settings(database_url='postgresql://x/y', redis_url='redis://x', models=fetch());"
        "b = load.load_filter_bank(s); load.load_detector(Profile(), s, b);"
        "load.load_recognizer(Profile(), s, b); print('funasr' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "False"
