"""Whatever lies in Redis, a real worker lives on and no row of the ledger changes by it."""

from __future__ import annotations

import json
import pickle
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import redis
import soundfile
from sqlalchemy import text

from ops.local.process import Child, family
from ops.local.servers import PostgresServer, RedisServer
from ops.local.stack import ROOT, worker_command
from producer.cli.doctor import CheckVerdict, _workers
from producer.submit.enqueue import Enqueuer, celery_app
from producer.submit.submit import Request, submit
from schema.migrate import migrate_ledger
from schema.namespace import Namespace
from schema.profile import load_profile
from schema.publish import Publisher
from schema.settings import Settings
from schema.store.ledger import Ledger, create_ledger_engine
from schema.wire import REDUCE_RECORDING, SEGMENTS_QUEUE, Message, key_prefix
from tests.acceptance.conftest import wait_for
from tests.factories import raw_message
from workers.process.liveness import HeartbeatFile
from workers.process.redis_transport import Refusal

#: Nobody may find this in a log.
HUSH = "hush-hush"


class Bench:
    """One worker without models, a ledger, and Redis in the test's own hands: nothing sweeps."""

    def __init__(self, directory: Path, database_url: str, broker: RedisServer) -> None:
        self.calls = directory / "calls"
        self.calls.mkdir()
        self.settings = Settings(
            database_url=database_url, redis_url=broker.url, roots={"calls": self.calls}
        )
        self.ledger = Ledger(create_ledger_engine(database_url))
        migrate_ledger(self.ledger.engine)
        self.redis = redis.Redis.from_url(broker.client_url)
        self.redis.flushall()
        self.app = celery_app(self.settings)
        self.publisher = Publisher(self.app)
        self.worker = Child(
            "asr0",
            worker_command("asr0", "tests.acceptance.nullworker"),
            directory / "asr0.log",
            environment={
                "CALLSCRIBE_DATABASE_URL": database_url,
                "CALLSCRIBE_REDIS_URL": broker.url,
                "CALLSCRIBE_ROOTS": f"calls={self.calls}",
            },
            directory=ROOT,
        )

    def push(self, raw: object) -> None:
        """Put something into the queue, behind what waits there."""
        item = raw if isinstance(raw, bytes) else json.dumps(raw).encode()
        self.redis.lpush(key_prefix() + SEGMENTS_QUEUE, item)

    def submitted(self, *, high_water: int = 100) -> str:
        """Hand in a new call of one second; return its segment's id."""
        name = f"{uuid4()}.wav"
        # Unlike all others, or else its words would be known.
        noise = np.random.default_rng(uuid4().int).integers(-8_000, 8_000, 8_000)
        soundfile.write(self.calls / name, noise.astype(np.int16), 8_000)
        request = Request(paths=(str(self.calls / name),), profile=load_profile("call"))
        enqueuer = Enqueuer(self.publisher, high_water)
        submit(request, self.settings, self.ledger, enqueuer, lambda _: None)
        (found,) = self.rows(
            "select s.id from segments s join recordings r on r.id = s.recording_id"
            " where r.name = :name",
            name=name,
        )
        return str(found["id"])

    def problem(self) -> str | None:
        """Return what a probe on the worker's host says of it."""
        return HeartbeatFile(self.settings, "asr0").problem()

    def rows(self, query: str, **values: object) -> list[dict[str, Any]]:
        with self.ledger.connect() as connection:
            return [dict(row) for row in connection.execute(text(query), values).mappings()]

    def state(self, segment: str) -> str:
        (row,) = self.rows("select state from segments where id = :id", id=segment)
        return str(row["state"])

    def work_off(self) -> None:
        """Return once the worker has done a call that was handed in after all that waits."""
        last = self.submitted()
        wait_for(lambda: self.state(last) == "done")

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = [line for line in self.worker.output().splitlines() if line.startswith("{")]
        return [event for event in map(json.loads, lines) if event["event"] == name]


@pytest.fixture(scope="module")
def bench(
    postgres_server: PostgresServer,
    redis_server: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Bench]:
    url = postgres_server.create_database("messages")
    bench = Bench(tmp_path_factory.mktemp("messages"), url, redis_server)
    with bench.worker:
        yield bench
    bench.ledger.close()
    bench.redis.close()
    bench.app.close()
    postgres_server.drop_database("messages")


@pytest.fixture
def untouched(bench: Bench) -> Iterator[None]:
    """Check that no process of the worker was replaced, and nothing was said of a payload."""
    bench.work_off()
    before = family(bench.worker.pid)
    yield
    assert family(bench.worker.pid) == before
    assert HUSH not in bench.worker.output()


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


def typed(content_type: str, body: bytes) -> dict[str, Any]:
    return {**raw_message(body), "content-type": content_type, "content-encoding": "binary"}


UNREAD = {
    "no JSON": (f"{{{HUSH}".encode(), Refusal.UNREADABLE),
    "no text": (b"\xff\xfe" + HUSH.encode(), Refusal.UNREADABLE),
    "too deep": (b"[" * 200_000, Refusal.UNREADABLE),
    "an unknown type": (b'{"__type__": "hush-hush", "__value__": 1}', Refusal.CONTENT_TYPE),
    "a list": ([HUSH], Refusal.MALFORMED),
    "no base64": ({**raw_message(), "body": f"%{HUSH}"}, Refusal.MALFORMED),
    "half a body": (raw_message(b'[[], {"hush-hush": '), Refusal.MALFORMED),
    "no body": ({**raw_message(), "body": None}, Refusal.MALFORMED),
    "no headers": ({**raw_message(), "headers": None}, Refusal.MALFORMED),
    "no id": (raw_message(id=None), Refusal.MALFORMED),
    "no properties": ({**raw_message(), "properties": {}}, Refusal.MALFORMED),
    "too long": (b'"' + HUSH.encode() * 4_000_000 + b'"', Refusal.UNREADABLE),
    "a reduce among segments": (raw_message(task=REDUCE_RECORDING), Refusal.WRONG_QUEUE),
    "too deep to be written": (b'{"x":' * 900 + b"1" + b"}" * 900, Refusal.UNREADABLE),
    "text of another encoding": (
        raw_message(f'[[], "{HUSH}", {{}}]'.encode("utf-16-le")),
        Refusal.MALFORMED,
    ),
    "a bad limit": (raw_message(timelimit=[HUSH]), Refusal.MALFORMED),
    "an unknown task": (raw_message(task=HUSH), Refusal.UNKNOWN_TASK),
    "a task of Celery's": (raw_message(task="celery.chunks"), Refusal.UNKNOWN_TASK),
    "another version": (raw_message([[], {"v": 2, "id": HUSH}, {}]), Refusal.NOT_OURS),
    "YAML": (typed("application/x-yaml", HUSH.encode()), Refusal.CONTENT_TYPE),
    "msgpack": (typed("application/x-msgpack", b"\xc4\x09hush-hush"), Refusal.CONTENT_TYPE),
}


@pytest.mark.usefixtures("untouched")
def test_what_is_no_message_of_ours_is_refused_and_counted(bench: Bench):
    before = bench.events("message_refused")

    for item, _ in UNREAD.values():
        bench.push(item)
    bench.work_off()

    refused = bench.events("message_refused")[len(before) :]
    found = dict(zip(UNREAD, (event["reason"] for event in refused), strict=True))
    assert found == {kind: reason for kind, (_, reason) in UNREAD.items()}
    assert refused[-1]["count"] == len(before) + len(UNREAD)


@pytest.mark.usefixtures("untouched")
def test_what_stands_beside_a_sound_message_goes_no_further(bench: Bench):
    """Celery reads these in the parent, which would end, put them back, and end again."""
    not_taken = len(not_claimed(bench))
    signature = {"task": HUSH, "args": [], "kwargs": {}, "options": {"queue": SEGMENTS_QUEUE}}
    deep: list = []
    for _ in range(20):
        deep = [deep]
    beside = [
        {"stamped_headers": 5},
        {"stamped_headers": [["x"]], "stamps": {"x": 1}},
        {"callbacks": [signature]},
        {"chain": [signature]},
        {"hush-hush": deep},
        {"replaced_task_nesting": "x"},
    ]
    for headers in beside:
        bench.push(raw_message(**headers))
    wait_for(lambda: len(not_claimed(bench)) == not_taken + len(beside))
    bench.work_off()


@pytest.mark.usefixtures("untouched")
def test_a_pickle_is_refused_and_not_opened(bench: Bench, tmp_path: Path):
    opened = tmp_path / "opened"
    body = pickle.dumps([[HUSH], {"evil": Evil(opened)}, {}])

    bench.push(typed("application/x-python-serialize", body))
    bench.work_off()

    assert not opened.exists()
    (*_, refused) = bench.events("message_refused")
    assert refused["content_type"] == "application/x-python-serialize"
    assert refused["reason"] == Refusal.CONTENT_TYPE


@pytest.mark.usefixtures("untouched")
def test_a_damaged_command_of_the_remote_control_ends_no_worker(bench: Bench):
    before = len(bench.events("message_refused"))
    command = {**raw_message({"method": "ping"}), "headers": {}}
    damaged = [
        *(b'{"properties": {}}', b"[" * 200_000, HUSH.encode(), b"\xff", b'"' + b"x" * 2_000_000),
        *({**command, "body": "%"}, [HUSH]),
    ]

    for item in damaged:
        raw = item if isinstance(item, bytes) else json.dumps(item)
        assert bench.redis.publish(f"{key_prefix()}/0.celery.pidbox", raw) == 1
    wait_for(lambda: len(bench.events("message_refused")) == before + len(damaged))

    assert bench.app.control.ping(timeout=30, limit=1)


FORGED = {
    "add_consumer": {"queue": "evil"},
    "cancel_consumer": {"queue": SEGMENTS_QUEUE},
    "pool_shrink": {"n": 1},
    "pool_restart": {"reload": True},
    "time_limit": {"task_name": "transcribe_segment", "hard": 1, "soft": 1},
    "rate_limit": {"task_name": "transcribe_segment", "rate_limit": "1/h"},
    "revoke": {"task_id": HUSH, "terminate": True},
    "shutdown": {},
}


@pytest.mark.usefixtures("untouched")
def test_remote_control_changes_nothing_of_what_a_worker_does(bench: Bench):
    before = len(bench.events("message_refused"))

    for method, arguments in FORGED.items():
        asked = bench.app.control.broadcast(method, arguments=arguments, reply=True, timeout=0.5)
        assert asked == [], method
    for pattern in ("(a|a)*b", "*"):
        bench.app.control.broadcast("ping", pattern=pattern, matcher="pcre")
    wait_for(lambda: len(bench.events("message_refused")) == before + len(FORGED) + 2)

    reasons = {event["reason"] for event in bench.events("message_refused")[before:]}
    assert reasons == {Refusal.COMMAND}
    (queues,) = bench.app.control.inspect(timeout=10, limit=1).active_queues().values()
    assert [queue["name"] for queue in queues] == [SEGMENTS_QUEUE]
    bench.work_off()


def test_a_probe_and_the_doctor_tell_who_takes_work(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    bench.work_off()

    assert bench.problem() is None
    assert _workers(bench.app).verdict is CheckVerdict.OK
    # Nobody can take a queue from a worker any more; a release before this one let anybody.
    monkeypatch.setattr("workers.process.liveness.SEGMENTS_QUEUE", "another")
    monkeypatch.setattr("producer.cli.doctor.SEGMENTS_QUEUE", "another")
    assert "takes work from no queue" in bench.problem()
    assert _workers(bench.app).verdict is CheckVerdict.FAIL


@pytest.mark.usefixtures("untouched")
def test_nothing_that_is_written_beside_the_queues_stops_a_worker_or_its_answers(bench: Bench):
    junk = {"_kombu.binding.reply.celery.pidbox": 3, "_kombu.binding.segments": 1}
    for key, count in junk.items():
        bench.redis.sadd(key_prefix() + key, *(f"{HUSH}-{n}" for n in range(count)))
    bench.app.control.broadcast("ping")  # the mailbox' bindings are there, too
    far = {**raw_message({"method": "ping", "arguments": {}}), "headers": {"clock": 2**53}}
    assert bench.redis.publish(f"{key_prefix()}/0.celery.pidbox", json.dumps(far)) == 1

    bench.work_off()
    for _ in range(2):
        assert bench.app.control.ping(timeout=30, limit=1)
    assert bench.problem() is None


def test_a_mailbox_that_is_no_list_keeps_no_worker_from_starting(bench: Bench, tmp_path: Path):
    other = Child(
        "asr1",
        worker_command("asr1", "tests.acceptance.nullworker"),
        tmp_path / "asr1.log",
        environment=bench.worker.environment,
        directory=ROOT,
    )
    bench.redis.set(f"{key_prefix()}asr1@{socket.gethostname()}.celery.pidbox", HUSH)
    with other:
        wait_for(lambda: " ready." in other.output())
        assert HeartbeatFile(bench.settings, "asr1").problem() is None


@pytest.mark.parametrize("key", ["segments", "unacked", "unacked_index", "_kombu.binding.segments"])
def test_a_key_of_another_type_costs_no_more_than_until_the_next_sweep(bench: Bench, key: str):
    bench.work_off()
    bench.redis.delete(key_prefix() + key)
    bench.redis.set(key_prefix() + key, HUSH)
    waiting = bench.submitted(high_water=0)
    (row,) = bench.rows("select dispatch_token from segments where id = :id", id=waiting)
    assert bench.problem() is None

    Namespace(bench.app, bench.ledger, bench.settings).keep()
    bench.push(raw_message([[], Message(waiting, row["dispatch_token"]).to_kwargs(), {}]))
    wait_for(lambda: bench.state(waiting) == "done")

    assert bench.worker.exit_code is None
    assert bench.problem() is None
    assert HUSH not in bench.worker.output()


@pytest.mark.usefixtures("untouched")
def test_a_reply_goes_to_nobody_but_who_asks_by_remote_control(bench: Bench):
    """Else a forged command would let the worker itself write into a queue of tasks."""
    before = len(bench.events("message_refused"))
    body = {"method": "ping", "arguments": {}, "ticket": str(uuid4())}
    body["reply_to"] = {"exchange": "", "routing_key": SEGMENTS_QUEUE}
    forged = {**raw_message(body), "headers": {"clock": 1}}

    bench.redis.publish(f"{key_prefix()}/0.celery.pidbox", json.dumps(forged))

    wait_for(lambda: len(bench.events("message_refused")) == before + 1)


@pytest.mark.usefixtures("untouched")
def test_what_is_put_back_into_a_list_is_looked_at_and_what_cannot_be_keeps_nothing_from_it(
    bench: Bench,
):
    """Of a message that was taken Redis has the list that it goes back to, if its worker dies."""
    before = len(bench.events("message_refused"))
    forged = raw_message(task="celery.chunks")
    sound = raw_message()
    poison = (b"no json", b"[1, 2]", b'["hush-hush", "y", "z"]', b"[" * 200_000)
    entries = [*poison, json.dumps([forged, "", SEGMENTS_QUEUE]).encode()]
    for number, item in enumerate(entries):
        bench.redis.hset(f"{key_prefix()}unacked", f"forged-{number}", item)
        bench.redis.zadd(f"{key_prefix()}unacked_index", {f"forged-{number}": 1.0 + number})
    # A sound task, said to have been in another list.
    bench.redis.hset(f"{key_prefix()}unacked", "elsewhere", json.dumps([sound, "", "evil"]))
    bench.redis.zadd(f"{key_prefix()}unacked_index", {"elsewhere": 0.5})
    not_taken = len(not_claimed(bench))

    wait_for(lambda: len(bench.events("message_refused")) == before + len(entries))

    wait_for(lambda: len(not_claimed(bench)) == not_taken + 1)
    assert not bench.redis.exists(
        *(f"{key_prefix()}{key}" for key in ("unacked", "unacked_index", "evil"))
    )
    reasons = [event["reason"] for event in bench.events("message_refused")[before:]]
    assert sorted(reasons) == [Refusal.MALFORMED, Refusal.UNKNOWN_TASK, *[Refusal.UNREADABLE] * 3]


@pytest.mark.usefixtures("untouched")
def test_a_forged_or_unknown_id_or_token_does_nothing(bench: Bench):
    bench.work_off()
    waiting = bench.submitted(high_water=0)
    (row,) = bench.rows(
        "select recording_id, dispatch_token, lease_token from segments where id = :id", id=waiting
    )
    forged = [
        Message(waiting, uuid4()),
        Message(uuid4(), uuid4()),
        Message(uuid4(), row["dispatch_token"]),
        Message(row["recording_id"], row["dispatch_token"]),
    ]
    before = everything(bench)
    not_taken = len(not_claimed(bench))

    for message in forged:
        bench.push(raw_message([[], message.to_kwargs(), {}]))
    wait_for(lambda: len(not_claimed(bench)) == not_taken + len(forged))

    assert everything(bench) == before
    assert bench.state(waiting) == "pending"


def everything(bench: Bench) -> dict[str, list[dict[str, Any]]]:
    tables = ("submissions", "recordings", "segments", "results", "transcripts")
    return {table: bench.rows(f"select * from {table} order by 1") for table in tables}


def not_claimed(bench: Bench) -> list[dict[str, Any]]:
    return bench.events("segment_not_claimed") + bench.events("reduce_not_claimed")


@pytest.mark.parametrize("kind", ["climbs out", "absolute", "a link out", "a link to a directory"])
@pytest.mark.usefixtures("untouched")
def test_a_path_that_leads_out_is_refused_even_if_the_ledger_names_it(
    bench: Bench, kind: str, tmp_path: Path
):
    segment = bench.submitted(high_water=0)
    (row,) = bench.rows(
        "select r.id, r.name, s.dispatch_token from segments s"
        " join recordings r on r.id = s.recording_id where s.id = :id",
        id=segment,
    )
    outside = tmp_path / "outside.wav"
    # What was planned, so that nothing but its place speaks against it; and a word to look for.
    outside.write_bytes((bench.calls / row["name"]).read_bytes() + HUSH.encode())
    link = bench.calls / f"{uuid4()}"
    link.symlink_to(outside if kind == "a link out" else tmp_path)
    path = {
        "climbs out": f"../../{tmp_path.name}/outside.wav",
        "absolute": str(outside),
        "a link out": link.name,
        "a link to a directory": f"{link.name}/outside.wav",
    }[kind]
    with bench.ledger.engine.begin() as connection:
        connection.execute(
            text("update recordings set audio_path = :path where id = :id"),
            {"path": path.encode(), "id": row["id"]},
        )

    message = Message(segment, row["dispatch_token"])
    bench.push(raw_message([[], message.to_kwargs(), {}]))
    wait_for(lambda: bench.state(segment) == "failed")

    (ended,) = bench.rows("select error_code from segments where id = :id", id=segment)
    assert ended["error_code"] == "path.outside-roots"
    assert HUSH not in str(everything(bench))
    assert HUSH not in bench.worker.output()
