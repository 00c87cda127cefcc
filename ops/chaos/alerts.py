"""Does every alert come when what it warns of happens, and go when it is over? One table.

    python -m ops.chaos.alerts
    python -m ops.chaos.alerts --only CallscribeRedisDown --only CallscribeWaiting

A fleet of its own (Postgres, Redis, three workers with real weights, a reducer with its sweep, the
figures of the ledger) works under load, scraped by a real Prometheus with the rules of
``ops/prometheus/rules.yml``, hastened: see :mod:`ops.chaos.watched`. First, nothing may fire, and
every query of the dashboard must have an answer. Then what each alert warns of is done to the
fleet, one thing after another; "fires" is when Prometheus first had it firing, counted from the
beginning of what was done, and "ends" how long it stayed once that was over. The exit code is 0
only if all came, all went, and in the end nothing was lost.

There is no GPU: its memory's figures are made up (``ops/chaos/worker``), and where it runs out that
is raised in the network of a made-up model, as in ``tests/acceptance/test_engine_faults.py``.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import UUID

import soundfile
import structlog
from sqlalchemy import text

from ops.chaos.field import PROFILE, Field, wait_for
from ops.chaos.oracle import broken
from ops.chaos.soak import Feeder, compose_calls
from ops.chaos.watched import Prometheus, Watched, dashboard_queries
from ops.local.console import say
from ops.local.models import fetch
from ops.local.process import Child, ProcessError
from ops.tables import cores, measured_now, print_table
from producer.cli.models import profile_section
from schema.wire import SEGMENTS_QUEUE, key_prefix, queue_keys

#: What an alert may take: the longest ``for:``, hastened, and what has to happen first.
_FIRES_S = 120.0
#: And what it may take to go: the longest window, hastened, and the pauses of a retry.
_ENDS_S = 180.0
#: How often a thing is done at most that has to happen several times.
_TRIES = 12
#: How long nothing may fire before anything is done.
_QUIET_S = 20.0
_POLL_S = 0.2


@dataclass
class Drill:
    """A fleet under load, the Prometheus that watches it, and recordings for special ends."""

    fleet: Watched
    prometheus: Prometheus
    calls: Path
    #: Profiles by what is special about them.
    profiles: Mapping[str, Path]

    @property
    def field(self) -> Field:
        """What is done to the fleet."""
        return self.fleet.field

    def fires(self, alert: str) -> bool:
        """Tell whether Prometheus has an alert firing now."""
        return self.prometheus.alerts().get(alert, {}).get("state") == "firing"

    def recordings(self, name: str, count: int) -> Path:
        """Return a new directory of recordings, by the name of what will befall them."""
        directory = self.field.calls / name
        directory.mkdir()
        samples, rate_hz = soundfile.read(self.calls / "from-00.wav")
        for number in range(count):
            # Each its own content: what is known is decoded by nobody, forced or not at once.
            part = samples[number * rate_hz // 4 :, :1]
            soundfile.write(directory / f"{name}-{number}.wav", part, rate_hz, subtype="PCM_16")
        return directory

    def submit(self, directory: Path, profile: str | None = None) -> UUID:
        """Submit a directory, perhaps with a special profile."""
        # The last one counts; what is fed meanwhile keeps the usual one.
        options = [] if profile is None else ["--profile", str(self.profiles[profile])]
        return self.field.submit(*options, directory=directory)

    def tell(self, *command: str) -> None:
        """Run a command of ``producer`` to its end."""
        with self.field.producer(*command) as producer:
            producer.communicate(timeout=60)

    def worker(self, name: str) -> Child:
        """Return a worker's parent."""
        return next(worker for worker in self.field.workers if worker.name == name)


Cause = Callable[[Drill], AbstractContextManager[None]]


@contextmanager
def workers_lost(drill: Drill) -> Iterator[None]:
    """All workers killed amid their decodes."""
    drill.field.wait_until_all_decode()
    for worker in drill.field.workers:
        drill.field.kill(worker)
    yield
    drill.field.heal()


@contextmanager
def workers_stopped(drill: Drill) -> Iterator[None]:
    """All workers told to stop, while calls wait."""
    for worker in drill.field.workers:
        worker.kill(signal.SIGTERM)
    for worker in drill.field.workers:
        worker.wait(30)
    yield
    drill.field.heal()


@contextmanager
def reducer_lost(drill: Drill) -> Iterator[None]:
    """The reducer killed."""
    drill.field.kill(drill.field.reducer)
    yield
    drill.field.heal()


@contextmanager
def sweep_blocked(drill: Drill) -> Iterator[None]:
    """The table of segments locked by a session."""
    with drill.field.locked("segments"):
        yield


@contextmanager
def postgres_down(drill: Drill) -> Iterator[None]:
    """Postgres stopped as by a power cut."""
    drill.field.stack.postgres.stop(immediate=True)
    yield
    drill.field.heal()


@contextmanager
def redis_down(drill: Drill) -> Iterator[None]:
    """Redis stopped."""
    drill.field.stack.redis.stop()
    yield
    drill.field.heal()


@contextmanager
def backlog(drill: Drill) -> Iterator[None]:
    """Decodes held up, of calls that the ledger has since 5 h."""
    with drill.field.held():
        submission = drill.submit(drill.recordings("old", 6))
        _execute(
            drill,
            "update recordings set created_at = created_at - interval '5 hours'"
            " where submission_id = :id",
            id=submission,
        )
        yield


@contextmanager
def files_changed(drill: Drill) -> Iterator[None]:
    """12 files overwritten between submit and decode."""
    directory = drill.recordings("changed", 12)
    kept = directory.with_name("kept")
    shutil.copytree(directory, kept)
    with drill.field.held():
        submission = drill.submit(directory)
        for path in directory.iterdir():
            samples, rate_hz = soundfile.read(path)
            soundfile.write(path, samples[::-1], rate_hz, subtype="PCM_16")
    yield
    shutil.copytree(kept, directory, dirs_exist_ok=True)
    shutil.rmtree(kept)
    drill.tell("retry", str(submission))


@contextmanager
def share_away(drill: Drill) -> Iterator[None]:
    """The directory of all recordings moved away."""
    calls = drill.field.calls
    with drill.field.held():
        drill.submit(drill.recordings("away", 6))
        calls.rename(calls.with_name("away"))
    yield
    calls.with_name("away").rename(calls)


@contextmanager
def marks_missing(drill: Drill) -> Iterator[None]:
    """A profile whose CT-Punc no reducer has."""
    submission = drill.submit(drill.recordings("unmarked", 4), "marks")
    yield
    drill.tell("cancel", str(submission))


@contextmanager
def nothing_masked(drill: Drill) -> Iterator[None]:
    """Protected calls in which nobody reads out a number."""
    directory = drill.recordings("harmless", 24)
    for path in directory.iterdir():
        samples, rate_hz = soundfile.read(path, always_2d=True)
        soundfile.write(path, samples[: 2 * rate_hz], rate_hz, subtype="PCM_16")
    drill.field.wait(drill.submit(directory, "protected"))
    yield


@contextmanager
def worker_freezes(drill: Drill) -> Iterator[None]:
    """A worker frozen for longer than a lease, over and over."""
    for _ in range(_TRIES):
        if drill.fires("CallscribeFencedWrites"):
            break
        _freeze(drill, drill.worker("asr0"))
    yield


def _freeze(drill: Drill, worker: Child) -> None:
    """Freeze the process that decodes until another worker has its segment."""
    wait_for(lambda: _held_by(drill, worker.name), what="a decode")
    child = drill.field.child_of(worker)
    os.kill(child, signal.SIGSTOP)
    try:
        held = _held_by(drill, worker.name)
        wait_for(lambda: held != _held_by(drill, worker.name), 60, "a takeover")
    finally:
        os.kill(child, signal.SIGCONT)


def _held_by(drill: Drill, name: str) -> UUID | None:
    return next((s for s, owner in drill.field.leases().items() if owner.startswith(name)), None)


@contextmanager
def child_dies(drill: Drill) -> Iterator[None]:
    """A worker's process killed as often as it has begun."""
    worker = drill.worker("asr1")
    for _ in range(_TRIES):
        if drill.fires("CallscribeRecycling"):
            break
        started = _children_of(drill, worker.name)
        # Before it has a segment again: three deaths would give that up.
        drill.field.kill_child(worker)
        _await_child(drill, worker.name, started)
    yield


def _await_child(drill: Drill, name: str, started: float) -> None:
    wait_for(lambda: _children_of(drill, name) > started, what="a new process")


def _children_of(drill: Drill, name: str) -> float:
    line = re.search(r"^callscribe_children_started_total (\S+)$", drill.fleet.page(name), re.M)
    return float(line[1]) if line else 0.0


@contextmanager
def device_leaks(drill: Drill) -> Iterator[None]:
    """2 of a device's 16 GB kept after each segment (made up)."""
    order = drill.field.order("leak.asr2")
    yield
    order.unlink()
    drill.field.kill_child(drill.worker("asr2"))


@contextmanager
def device_short(drill: Drill) -> Iterator[None]:
    """A device's memory that runs out three times (made up)."""
    directory = drill.recordings("short", 3)
    # All three must be one worker's.
    for name in ("asr1", "asr2"):
        drill.worker(name).kill(signal.SIGTERM)
        drill.worker(name).wait(30)
    # On a CPU a process halves its budget twice at most: the third time is its successor's.
    for number, path in enumerate(sorted(directory.iterdir())):
        if number == 2:
            drill.field.kill_child(drill.worker("asr0"))
        drill.field.order(f"{path.name}.0.oom", "once")
        drill.field.wait(drill.submit(path, "funasr"))
    yield
    drill.field.heal()


@contextmanager
def spool_full(drill: Drill) -> Iterator[None]:
    """The spool's disk filled."""
    if spool := drill.fleet.spool:
        spool.fill()
        yield
        spool.free()


@contextmanager
def receiver_refuses(drill: Drill) -> Iterator[None]:
    """A receiver of notifications that answers 503."""
    answers = [503]

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Answer as it is told."""
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(answers[-1])
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing of each request."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        directory = drill.recordings("told", 1)
        url = f"http://127.0.0.1:{server.server_port}/"
        submission = drill.field.submit("--notify", url, directory=directory)
        yield
        answers.append(204)
        wait_for(lambda: not _waits(drill, submission), _ENDS_S, "the receiver's next attempt")
        server.shutdown()


def _waits(drill: Drill, submission: UUID) -> int:
    query = "select count(*) from events where submission_id = :id and state = 'waiting'"
    return int(drill.field.scalar(query, id=submission))


@contextmanager
def retention_stops(drill: Drill) -> Iterator[None]:
    """Four runs of retention, the last of them long ago (made up)."""
    for hours in (5, 4, 3, 2):
        _purged(drill, hours)
        age_s = f"callscribe_ledger_purge_age_seconds < {hours * 3600 + 1800}"
        wait_for(partial(drill.prometheus.answers, age_s), what="a scrape")
    yield
    _purged(drill, 0)


def _purged(drill: Drill, hours_ago: int) -> None:
    _execute(
        drill,
        "insert into purges (before, ended_at)"
        " values (now() - interval '30 days', now() - make_interval(hours => :hours))",
        hours=hours_ago,
    )


@contextmanager
def stranger(drill: Drill) -> Iterator[None]:
    """A message of somebody else's put into Redis."""
    with drill.field.redis as client:
        client.lpush(key_prefix() + queue_keys(SEGMENTS_QUEUE)[0], b"{}")
    yield


#: What is done, and the alerts that it must raise.
CAUSES: Mapping[Cause, Sequence[str]] = {
    stranger: ("CallscribeMessagesRefused",),
    spool_full: ("CallscribeSpoolLow",),
    redis_down: ("CallscribeRedisDown",),
    postgres_down: ("CallscribeLedgerDown",),
    reducer_lost: ("CallscribeNoReducer",),
    sweep_blocked: ("CallscribeNoSweep",),
    workers_lost: ("CallscribeNoWorker", "CallscribeLeasesExpiring"),
    workers_stopped: ("CallscribeNobodyWorks",),
    backlog: ("CallscribeBacklogOld",),
    share_away: ("CallscribeWaiting",),
    files_changed: ("CallscribeFailures",),
    marks_missing: ("CallscribeReducesFail",),
    receiver_refuses: ("CallscribeReceiverNotTold",),
    nothing_masked: ("CallscribeNothingMasked",),
    retention_stops: ("CallscribeRetentionLate",),
    worker_freezes: ("CallscribeFencedWrites",),
    child_dies: ("CallscribeRecycling",),
    device_leaks: ("CallscribeDeviceMemoryKept",),
    device_short: ("CallscribeMemoryShort",),
}


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of an alert; None where it did not come, or did not go."""

    alert: str
    cause: str
    fires_s: float | None
    ends_s: float | None
    #: What else fired meanwhile.
    beside: Sequence[str]
    summary: str

    @property
    def is_right(self) -> bool:
        """Whether it came and went."""
        return self.fires_s is not None and self.ends_s is not None


def watch(drill: Drill, cause: Cause, alerts: Sequence[str]) -> list[Seen]:
    """Do what alerts warn of until all of them fire, end it, and wait until they are gone."""
    summaries: dict[str, str] = {}

    def all_fire() -> bool:
        found = drill.prometheus.alerts()
        summaries.update({name: alert["annotations"]["summary"] for name, alert in found.items()})
        return all(found.get(name, {}).get("state") == "firing" for name in alerts)

    # What was done before may have raised them, too.
    wait_for(lambda: drill.prometheus.alerts().keys().isdisjoint(alerts), _ENDS_S)
    earlier = drill.prometheus.alerts().keys()
    begun_s = time.time()
    # Outside, for a cause that does not come about; inside, so that one that did is ended.
    with suppress(TimeoutError), cause(drill), suppress(TimeoutError):
        wait_for(all_fire, _FIRES_S)
    fired = drill.prometheus.fired(begun_s)
    ended_s = _ends(drill.prometheus, [alert for alert in alerts if alert in fired])
    beside = sorted(_short(name) for name in fired.keys() - earlier - set(alerts))
    return [
        Seen(
            alert,
            _said(cause),
            fired[alert] - begun_s if alert in fired else None,
            ended_s.get(alert),
            beside,
            summaries.get(alert, ""),
        )
        for alert in alerts
    ]


def _ends(prometheus: Prometheus, alerts: Sequence[str]) -> dict[str, float]:
    """Wait until alerts are neither pending nor firing; return how long each took."""
    over_s = time.monotonic()
    ended: dict[str, float] = {}
    while len(ended) < len(alerts) and time.monotonic() < over_s + _ENDS_S:
        time.sleep(_POLL_S)
        now = prometheus.alerts()
        for alert in alerts:
            if alert not in now:
                ended.setdefault(alert, time.monotonic() - over_s)
    return ended


def _said(cause: Cause) -> str:
    return (cause.__doc__ or "").rstrip(".")


def _short(alert: str) -> str:
    return alert.removeprefix("Callscribe")


def _execute(drill: Drill, statement: str, **values: object) -> None:
    drill.field.ledger.transact(lambda c: c.execute(text(statement), values))


def main() -> int:
    """Run the drill that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = sorted(alert for alerts in CAUSES.values() for alert in alerts)
    parser.add_argument("--only", action="append", choices=every, help="an alert; may be repeated")
    only = set(parser.parse_args().only or every)
    # That a ledger is away is the point here, and no news.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="callscribe-")))
        fleet = Watched(
            directory / "fleet", models=_models(directory / "models"), lease_s=4, device=True
        )
        prometheus = fleet.prometheus(hasty=True)
        stack.enter_context(fleet)
        stack.enter_context(prometheus)
        return run(prepared(fleet, prometheus, directory), only)


def _models(directory: Path) -> Path:
    """Return a directory of the usual models, and of one made up in FunASR's architecture."""
    from ops.bench.madeup import build

    directory.mkdir(parents=True)
    for path in fetch().iterdir():
        (directory / path.name).symlink_to(path)
    build("bicif", directory / "bicif")
    return directory


def prepared(fleet: Watched, prometheus: Prometheus, directory: Path) -> Drill:
    """Return a drill with calls to feed to its fleet, and profiles for special ends."""
    calls = fleet.field.calls / "feed"
    calls.mkdir()
    compose_calls(directory / "samples", calls)
    plan, render = PROFILE.split("[decode]")[0], PROFILE.split("[render]")[1]
    missing = '[render.punctuation]\nmodel = "ct-punc"\n[render.punctuation.files]\n'
    made_up = directory / "models" / "bicif"
    written = {
        "marks": f'{PROFILE}\n{missing}"model.pt" = "{"0" * 64}"\n',
        "protected": f"{PROFILE}\n[redact]\n",
        "funasr": f"{plan}{profile_section(made_up, 'funasr')}\n[render]{render}",
    }
    profiles = {}
    for name, profile in written.items():
        profiles[name] = directory / f"{name}.toml"
        profiles[name].write_text(profile)
    return Drill(fleet, prometheus, calls, profiles)


def run(drill: Drill, only: set[str]) -> int:
    """Raise alerts, one cause after another; return 0 if all came and went and nothing is lost."""
    feeder = Feeder(drill.field, drill.calls)
    feeder.start()
    queries = dashboard_queries()
    say("the fleet begins")
    wait_for(drill.prometheus.all_up, what="a scrape of every part")
    with suppress(TimeoutError):
        wait_for(lambda: not drill.prometheus.unanswered(queries), 120)
    empty = drill.prometheus.unanswered(queries)
    say(f"{len(queries) - len(empty)} of {len(queries)} queries of the dashboard are answered")
    begun_s = time.time()
    time.sleep(_QUIET_S)
    early = drill.prometheus.fired(begun_s)
    seen: list[Seen] = []
    for cause, alerts in CAUSES.items():
        if only.isdisjoint(alerts):
            continue
        if cause is spool_full and drill.fleet.spool is None:
            say("nothing may be mounted here: the spool stays as it is")
            continue
        say(f"{', '.join(map(_short, alerts))}: {_said(cause)}")
        seen += watch(drill, cause, alerts)
        for each in seen[-len(alerts) :]:
            say(f"  {_seconds(each.fires_s)}, {_seconds(each.ends_s)}: {each.summary}")
        drill.field.heal()
    feeder.finish()
    say("waiting for the end of the last calls")
    for submission in feeder.acknowledged:
        drill.field.wait(submission, 600)
    lost = _lost(drill, feeder.acknowledged)
    _report(seen, early, {queries[query]: query for query in empty}, lost, len(queries))
    wrong = broken(drill.field.ledger)
    say("\n".join(f"BROKEN: {name}: {count}" for name, count in wrong.items()))
    return 0 if all(s.is_right for s in seen) and not (early or empty or lost or wrong) else 1


def _lost(drill: Drill, submissions: Sequence[UUID]) -> int:
    """Return how many recordings of the load are not done."""
    return int(
        drill.field.scalar(
            "select count(*) from recordings where submission_id = any(:ids) and state <> 'done'",
            ids=list(submissions),
        )
    )


def _report(
    seen: Sequence[Seen],
    early: Mapping[str, float],
    empty: Mapping[str, str],
    lost: int,
    queries: int,
) -> None:
    rows = [
        [_short(s.alert), _seconds(s.fires_s), _seconds(s.ends_s), s.cause, ", ".join(s.beside)]
        for s in seen
    ]
    unanswered = "".join(f"\nwithout an answer: {title}: {query}" for title, query in empty.items())
    print_table(
        f"{sum(s.is_right for s in seen)} of {len(seen)} alerts came and went; an hour is a minute",
        ("alert", "fires, s", "ends, s", "cause", "what else fired"),
        rows,
        f"{queries - len(empty)} of {queries} queries of the dashboard answered under load;"
        f" {len(early)} alerts before anything was done; {lost} recordings of the load lost"
        f"{unanswered}\n{measured_now()}; {cores()}",
        width=140,
    )


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.0f}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ProcessError as error:
        sys.exit(str(error))
