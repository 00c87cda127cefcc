"""The fault matrix: whatever is killed, frozen, emptied or full, no word is lost, doubled or moved.

A fleet transcribes the same two calls over and over, each time with another fault, and each time
the words and times must be those of the undisturbed run. What the matrix also names is tested where
it can be raced or counted better: duplicates and last finishers in
tests/integration/test_store_segments.py, CUDA errors in tests/integration/test_segment.py, a
backlog without workers in tests/integration/test_store_sweep.py, forged and unreadable messages in
tests/integration/test_messages.py, partitions in test_network.py.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest
import soundfile

from ops.chaos.field import Field, Words, wait_for
from ops.chaos.oracle import broken
from ops.local.process import Child
from schema.store.read import recordings
from schema.store.read.transcripts import read_transcript
from schema.store.work import reduces
from schema.wire import SEGMENTS_QUEUE

pytestmark = pytest.mark.models

#: The poisoned one of the two calls.
POISON = "two.flac"


@dataclass
class Drill:
    """A field, and what an undisturbed run of it says."""

    field: Field
    baseline: dict[str, Words]

    def check(self, submission: UUID, *, meant: tuple[str, ...] = ()) -> None:
        """Wait for the end, and compare with the undisturbed run."""
        self.field.wait(submission)
        assert broken(self.field.ledger, meant) == {}
        assert self.field.words(submission) == self.baseline


@pytest.fixture(scope="module")
def field(models: Path, speech, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    samples, rate_hz = speech
    with Field(tmp_path_factory.mktemp("chaos"), models=models) as field:
        soundfile.write(field.calls / "one.wav", samples[: rate_hz * 30], rate_hz)
        soundfile.write(field.calls / POISON, samples[rate_hz * 61 : rate_hz * 91], rate_hz)
        yield field


@pytest.fixture(scope="module")
def baseline(field: Field) -> dict[str, Words]:
    undisturbed = field.submit()
    field.wait(undisturbed)
    words = field.words(undisturbed)
    assert words.keys() == {"one.wav", POISON}
    assert all(len(found) > 10 for found in words.values())
    return words


@pytest.fixture
def drill(field: Field, baseline: dict[str, Words]) -> Iterator[Drill]:
    yield Drill(field, baseline)
    field.heal()
    field.forget()


def test_a_killed_child_is_followed_by_one_that_goes_on(drill: Drill):
    field = drill.field
    with field.held():
        submission = field.submit()
        leases = field.wait_until_all_decode()
        lost = next(id_ for id_, owner in leases.items() if owner.startswith("asr0"))
        field.kill_child(field.workers[0])
        # Handed back by the next child at once, and not when its lease had expired.
        wait_for(lambda: field.scalar("select sum(strikes) from segments") == 1)
        assert field.scalar("select count(*) from segments where state = 'pending'") > 0
        # And taken up again before all that waits.
        assert lost in field.wait_until_all_decode()

    drill.check(submission)
    assert field.scalar("select sum(strikes) from segments") == 1


def test_a_lost_host_is_followed_by_another(drill: Drill):
    field = drill.field
    with field.held():
        submission = field.submit()
        field.wait_until_all_decode()
        field.kill(field.workers[0])

    drill.check(submission)
    assert field.scalar("select max(attempts) from segments") == 2
    assert field.scalar("select max(strikes) from segments") == 0


def test_a_message_lost_on_its_way_to_a_worker_is_sent_again(drill: Drill):
    field = drill.field
    # Who sends again what was lost waits until it is.
    field.reducer.kill_tree(signal.SIGSTOP)
    submission = field.plan(*drill.baseline)
    messages = field.dispatches()
    field.publisher.queue_lengths()  # so that it is connected
    for worker in field.workers:
        worker.kill(signal.SIGSTOP)
    field.publisher.publish(messages)
    # A frozen worker's BRPOP was served: a message that nobody will ever read.
    assert field.queue_length() < len(messages)

    for worker in field.workers:
        field.kill(worker)
    field.heal()

    drill.check(submission)


def test_a_worker_told_to_stop_hands_its_segment_back(drill: Drill):
    field = drill.field
    with field.held():
        submission = field.submit()
        field.wait_until_all_decode()
        field.workers[0].kill(signal.SIGTERM)
        assert field.workers[0].wait(60)
        assert len(field.leases()) == 1, "only the other worker still has one"

    drill.check(submission)
    assert field.scalar("select max(attempts) from segments") == 1
    assert field.scalar("select max(strikes) from segments") == 0


def test_an_emptied_redis_is_filled_again(drill: Drill):
    field = drill.field
    with field.held():
        submission = field.submit()
        field.wait_until_all_decode()
        with field.redis as client:
            client.flushall()

    drill.check(submission)


def test_a_redis_that_lost_its_disk_is_filled_again(drill: Drill):
    field = drill.field
    with field.held():
        submission = field.submit()
        field.wait_until_all_decode()
        field.lose_redis_data()
        assert field.queue_length() == 0

    drill.check(submission)


@pytest.mark.parametrize("fault", ["frozen", "down"])
def test_a_submit_does_not_wait_for_redis(drill: Drill, fault: str):
    field = drill.field
    if fault == "frozen":
        field.stack.redis.freeze()
    else:
        field.stack.redis.stop(immediate=True)

    submission = field.submit()
    assert field.scalar("select count(*) from segments where state = 'pending'") > 0

    field.heal()
    drill.check(submission)


def test_a_full_redis_costs_no_worker_and_no_segment(drill: Drill):
    field = drill.field
    pids = [worker.pid for worker in field.workers]
    field.configure_redis(maxmemory="1mb")
    submission = field.submit()

    wait_for(lambda: field.scalar("select max(dispatches) from segments") > 1)
    field.configure_redis(maxmemory="0")

    drill.check(submission)
    assert [worker.pid for worker in field.workers if worker.running] == pids


def test_a_postgres_that_restarts_in_the_middle_of_commits_stores_once(drill: Drill):
    field = drill.field
    with ExitStack() as lock:
        with field.held():
            submission = field.submit()
            field.wait_until_all_decode()
            lock.enter_context(field.locked("results"))
        wait_for(lambda: field.blocked() == len(field.workers), what="two finishes under way")
        field.stack.postgres.restart(immediate=True)

    drill.check(submission)


def test_a_postgres_that_is_away_for_longer_than_anybody_retries(drill: Drill):
    field = drill.field
    with field.held():
        submission = field.submit()
        field.wait_until_all_decode()
        field.stack.postgres.stop(immediate=True)
    wait_for(lambda: field.logged("lease_not_renewed") and task_errors(field), what="giving up")

    field.stack.postgres.start()

    drill.check(submission)
    assert field.scalar("select max(strikes) from segments") == 0


def task_errors(field: Field) -> int:
    return sum("raised unexpected" in worker.output() for worker in field.workers)


def test_a_frozen_postgres_is_waited_for(drill: Drill):
    field = drill.field
    with field.held():
        submission = field.submit()
        field.wait_until_all_decode()
        field.stack.postgres.freeze()
    before = field.logged("sweep_failed")
    wait_for(lambda: field.logged("sweep_failed") > before, what="a sweep that does not wait on")

    field.stack.postgres.thaw()

    drill.check(submission)


def test_a_full_disk_is_waited_for(drill: Drill):
    field = drill.field
    if field.disk is None:
        pytest.skip("needs to mount a small disk for Postgres, as root with CAP_SYS_ADMIN")
    with field.held():
        submission = field.submit()
        field.wait_until_all_decode()
        field.disk.fill()
    failed = field.stack.postgres.child.output().count("No space left on device")
    wait_for(
        lambda: field.stack.postgres.child.output().count("No space left on device") > failed,
        what="a write that found no room",
    )

    field.heal()

    drill.check(submission)


def test_fifty_deliveries_of_each_message_are_one(drill: Drill):
    field = drill.field
    with field.held():
        submission = field.submit()
        field.wait_until_all_decode()
        for _ in range(50):
            field.publisher.publish(field.dispatches())

    drill.check(submission)
    assert field.scalar("select max(attempts) from segments") == 1


def test_a_worker_that_wakes_up_too_late_is_fenced(drill: Drill):
    field = drill.field
    fenced = field.logged("write_fenced")
    with field.held():
        submission = field.submit()
        leases = field.wait_until_all_decode()
        sleeper = field.child_of(field.workers[0])
        os.kill(sleeper, signal.SIGSTOP)
        frozen = wait_for(lambda: expired(field), what="the sleeper's lease to expire")
    wait_for(
        lambda: field.scalar("select state from segments where id = :id", id=frozen) == "done",
        what="another worker's finish",
    )

    os.kill(sleeper, signal.SIGCONT)

    drill.check(submission)
    assert frozen in leases
    wait_for(lambda: field.logged("write_fenced") == fenced + 1, what="the late write's refusal")


def expired(field: Field) -> UUID | None:
    return field.scalar(
        "select id from segments where state = 'leased' and lease_expires_at < now() limit 1"
    )


def test_poison_is_given_up_alone_and_retried_alone(drill: Drill):
    field = drill.field
    poison = field.order(f"{POISON}.1.die")
    submission = field.submit()
    field.wait(submission)

    assert broken(field.ledger, meant=(f"{POISON}",)) == {}
    words = field.words(submission)
    assert words["one.wav"] == drill.baseline["one.wav"]
    assert 0 < len(words[POISON]) < len(drill.baseline[POISON])
    (partial,) = problems(field, submission)
    assert (partial.state, partial.error_code) == ("partial", "attempts.exhausted")
    assert "process died" in partial.error_message
    with field.ledger.connect() as connection:
        gaps = read_transcript(connection, partial).gaps
    assert {(gap.channel, gap.code) for gap in gaps} == {
        (0, "attempts.exhausted"),
        (1, "attempts.exhausted"),
    }
    failed = field.scalar("select count(*) from segments where state = 'failed'")

    poison.unlink()
    retried = field.ledger.transact(lambda c: reduces.retry_failed_segments(c, submission))

    assert retried == (failed, 1)
    field.wait(submission)
    assert field.words(submission) == drill.baseline
    assert field.scalar("select max(version) from transcripts") == 2


def problems(field: Field, submission: UUID) -> list[recordings.RecordingSummary]:
    with field.ledger.connect() as connection:
        found = recordings.list_recordings(connection, submission)
    return [recording for recording in found if recording.state != "done"]


@pytest.mark.parametrize("what", ["memory", "error"])
def test_an_error_costs_an_attempt_and_no_process(drill: Drill, what: str):
    field = drill.field
    pids = {field.child_of(worker) for worker in field.workers}
    field.order(f"{POISON}.0.{what}", "once")

    submission = field.submit()

    drill.check(submission)
    assert field.scalar("select sum(strikes) from segments") == 1
    assert {field.child_of(worker) for worker in field.workers} == pids


def test_a_decode_that_hangs_is_killed_and_done_again(drill: Drill):
    field = drill.field
    field.order("one.wav.0.hang", "once")
    submission = field.submit_hasty(*drill.baseline)

    drill.check(submission)


def test_models_that_load_slowly_are_loaded_once_more_and_no_crash_loop_begins(drill: Drill):
    field = drill.field
    for worker in field.workers:
        field.kill_child(worker)
    field.order("slow-start")
    deaths = field.logged("leases_returned")

    submission = field.submit()
    field.wait_until_all_decode()
    field.kill_child(field.workers[0])

    drill.check(submission)
    assert field.logged("leases_returned") == deaths + 1


def test_a_task_that_nobody_knows_is_dropped(drill: Drill):
    field = drill.field
    for _ in range(3):
        field.celery.send_task("of_another_version", kwargs={}, queue=SEGMENTS_QUEUE)

    submission = field.submit()

    drill.check(submission)
    assert all(worker.running for worker in field.workers)


def test_a_reducer_killed_between_its_reads_and_its_commit_stores_one_version(drill: Drill):
    field = drill.field
    submission = field.submit()
    with field.locked("transcripts"):
        wait_for(field.blocked, what="a transcript about to be stored")
        field.kill_child(field.reducer)

    drill.check(submission)


def test_a_submit_killed_half_way_goes_on_where_it_was(drill: Drill, tmp_path: Path):
    field = drill.field
    many = field.calls / "many"
    many.mkdir()
    for number in range(120):
        os.link(field.calls / "one.wav", many / f"{number:03}.wav")
    try:
        with field.held():
            command = field.submit_command(directory=many)
            with field.producer(*command) as killed:
                wait_for(lambda: field.scalar("select count(*) from recordings"))
                killed.kill()
            begun = field.scalar("select count(*) from recordings")
            assert 0 < begun < 120

            submission = field.submit(directory=many)

            assert field.scalar("select count(*) from submissions") == 1
            assert field.scalar("select count(*) from recordings") == 120
        field.wait(submission)
    finally:
        for number in range(120):
            (many / f"{number:03}.wav").unlink()
        many.rmdir()
    assert broken(field.ledger) == {}
    assert {str(words) for words in field.words(submission).values()} == {
        str(drill.baseline["one.wav"])
    }


def test_a_submit_killed_between_commit_and_publish_loses_nothing(drill: Drill):
    field = drill.field
    field.stack.redis.freeze()
    with field.producer(*field.submit_command()) as producer:
        wait_for(lambda: field.scalar("select count(*) from segments"), what="the commit")
        producer.kill()
    field.stack.redis.thaw()
    assert field.queue_length() == 0

    wait_for(lambda: field.scalar("select count(*) from segments where state = 'done'"))

    drill.check(field.submit())


def test_a_sweeper_that_stands_still_in_a_sweep_is_followed_by_another(drill: Drill):
    field = drill.field
    with field.locked("segments"):
        wait_for(lambda: sweeping(field), what="a sweep under way")
        field.reducer.kill_tree(signal.SIGSTOP)
    assert sweeping(field), "its transaction stays open, and its lock held"
    submission = field.submit()
    with field.redis as client:
        client.flushall()

    command = [sys.executable, "-m", "workers", "sweep"]
    log = field.stack.logs / "sweep.log"
    with Child("sweep", command, log, environment=field.stack.environment):
        wait_for(lambda: field.scalar("select max(dispatches) from segments") > 1)
        field.reducer.kill_tree(signal.SIGCONT)
        drill.check(submission)


def sweeping(field: Field) -> bool:
    return bool(field.scalar("select count(*) from pg_locks where locktype = 'advisory'"))


def test_a_cancelled_submission_frees_its_workers(drill: Drill):
    field = drill.field
    with field.held():
        submission = field.submit()
        field.wait_until_all_decode()
        field.producer("cancel", str(submission)).communicate(timeout=60)
        wait_for(lambda: field.logged("write_fenced") >= len(field.workers), what="their leaving")

    assert field.is_finished(submission)
    drill.check(field.submit())
