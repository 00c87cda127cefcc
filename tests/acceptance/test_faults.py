"""Workers are killed in the middle of a submission; the transcripts do not show it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import soundfile
from sqlalchemy import text

from ops.local.process import family
from tests.acceptance.conftest import Fleet, wait_for, words_of

pytestmark = pytest.mark.models

#: Short segments, so that two minutes of speech make many, with seams between them.
PROFILE = """
name = "short segments"
[plan]
segment_s = 20
overlap_s = 4
search_s = 6
min_tail_s = 8
[decode]
model = "whisper-tiny.en"
"""


@pytest.fixture
def submitted(fleet: Fleet, speech, tmp_path: Path) -> Iterator[list[str]]:
    """The arguments of a submit of two stereo calls, six minutes of channels."""
    samples, rate_hz = speech
    directory = fleet.calls / tmp_path.name
    directory.mkdir()
    soundfile.write(directory / "one.wav", samples, rate_hz)
    soundfile.write(directory / "two.flac", samples[rate_hz * 31 :], rate_hz)
    profile = tmp_path / "profile.toml"
    profile.write_text(PROFILE)
    return ["submit", str(directory), "--profile", str(profile), "--speakers", "agent,customer"]


def in_flight(fleet: Fleet) -> list[str]:
    """Return the owners of the segments being decoded, once some have been decoded already."""
    with fleet.ledger.reading() as connection:
        done = connection.scalar(text("select count(*) from segments where state = 'done'"))
        owners = connection.scalars(
            text("select lease_owner from segments where state = 'leased'")
        ).all()
    return list(owners) if done and len(owners) == 2 else []


def invariants(fleet: Fleet) -> None:
    """Check what holds in the ledger whatever was killed."""
    counts = {
        "recordings whose counter is off": """
            select count(*) from recordings r where open_segments <> (
                select count(*) from segments s
                 where s.recording_id = r.id and s.state in ('pending', 'leased'))""",
        "segments without words or reason": """
            select count(*) from segments
             where (state = 'done' and result_key is null) or state = 'failed'""",
        "recordings with several transcripts": """
            select count(*) from (
                select recording_id from transcripts group by 1 having count(*) > 1) x""",
        "recordings not done": "select count(*) from recordings where state <> 'done'",
    }
    with fleet.ledger.reading() as connection:
        found = {name: connection.scalar(text(query)) for name, query in counts.items()}
    assert found == dict.fromkeys(counts, 0)


def test_a_worker_that_is_told_to_stop_hands_its_segment_back(fleet: Fleet, submitted: list[str]):
    submission = fleet.producer(*submitted)["submission"]
    wait_for(lambda: in_flight(fleet))
    worker = fleet.stack.fleet[0]

    worker.kill(signal.SIGTERM)
    assert worker.wait(60), "it stops by itself"

    with fleet.ledger.reading() as connection:
        owners = connection.scalars(
            text("select distinct lease_owner from segments where state = 'leased'")
        ).all()
    assert len(owners) <= 1, "only the other worker still holds leases"
    fleet.stack.supervise()
    fleet.producer("watch", submission)
    with fleet.ledger.reading() as connection:
        assert connection.scalar(text("select max(strikes) from segments")) == 0
        assert connection.scalar(text("select max(attempts) from segments")) == 1
    invariants(fleet)


def test_an_emptied_redis_loses_nothing(fleet: Fleet, submitted: list[str], tmp_path: Path):
    submission = fleet.producer(*submitted, "--force")["submission"]
    wait_for(lambda: in_flight(fleet))

    with redis.Redis.from_url(fleet.stack.redis.client_url) as client:
        client.flushall()

    watched = fleet.producer("watch", submission)
    assert watched["recordings"] == {"total": 2, "done": 2}
    assert all(words_of(t) for t in fleet.transcripts(submission, tmp_path / "out").values())
    invariants(fleet)


def test_killing_workers_changes_no_word(fleet: Fleet, submitted: list[str], tmp_path: Path):
    disturbed = fleet.producer(*submitted, "--force")["submission"]

    # A child: its parent lives, and the next child takes the segment up.
    wait_for(lambda: in_flight(fleet))
    worker = fleet.stack.fleet[0]
    (child,) = family(worker.pid) - {worker.pid}
    os.kill(child, signal.SIGKILL)
    # A whole worker, parent and all, as when its host is lost.
    wait_for(lambda: in_flight(fleet))
    fleet.stack.fleet[1].kill_tree(signal.SIGKILL)
    fleet.stack.fleet[1].wait(10)
    fleet.producer("watch", disturbed)
    fleet.stack.supervise()

    undisturbed = fleet.producer(*submitted, "--force", "--wait")["submission"]

    got = fleet.transcripts(disturbed, tmp_path / "disturbed")
    want = fleet.transcripts(undisturbed, tmp_path / "undisturbed")
    assert {name: words_of(t) for name, t in got.items()} == {
        name: words_of(t) for name, t in want.items()
    }
    assert all(len(words_of(t)) > 50 for t in got.values())
    assert all(len(t["seams"]) >= 8 for t in got.values())
    invariants(fleet)
    with fleet.ledger.reading() as connection:
        struck = connection.scalar(text("select count(*) from segments where attempts > 1"))
    assert struck >= 2, "both kills hit a segment that was being decoded"
