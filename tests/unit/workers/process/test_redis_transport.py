"""Only what we send is handed to Celery; everything else has a name for what is wrong with it."""

from __future__ import annotations

import base64
import json
import zlib
from types import SimpleNamespace
from uuid import uuid4

import pytest
from kombu.transport import redis

from schema.wire import MESSAGE_VERSION, REDUCE_QUEUE, REDUCE_RECORDING, SEGMENTS_QUEUE
from tests.factories import encoded, raw_message
from workers.process import redis_transport
from workers.process.redis_transport import (
    COMMANDS,
    MESSAGE_MAX,
    DeliveredMessage,
    Refusal,
    Transport,
    UnreadableMessage,
    parse,
    refusal_of,
)


def without(field: str, **parts: object) -> dict:
    message = raw_message()
    message.pop(field)
    return {**message, **parts}


def kwargs(**changes: object) -> dict:
    return {"v": MESSAGE_VERSION, "id": str(uuid4()), "token": str(uuid4()), **changes}


def test_a_sound_message_is_not_refused():
    limited = raw_message(timelimit=[330, 300], root_id="r", argsrepr="recording 1", eta=None)

    assert refusal_of(limited, queue=SEGMENTS_QUEUE) is None


@pytest.mark.parametrize(
    "content_type",
    [
        "application/x-python-serialize",
        "application/x-yaml",
        "application/x-msgpack",
        "application/data",
        "text/plain",
        None,
        [],
    ],
)
def test_everything_but_json_is_refused_unread(content_type: object):
    message = without("body", **{"content-type": content_type})

    assert refusal_of(message, queue=SEGMENTS_QUEUE) is Refusal.CONTENT_TYPE


@pytest.mark.parametrize(
    "message",
    [
        None,
        7,
        "segment",
        [raw_message()],
        *(without(field) for field in ("body", "headers", "properties", "content-encoding")),
        without("properties", properties={}),
        without("properties", properties={"delivery_tag": [], "body_encoding": "base64"}),
        without("headers", headers=None),
        *(without("body", body=body) for body in (None, "%%%", "abc", {}, "")),
        raw_message(b"\x80\x04."),
        raw_message(b"[" * 100_000),
        raw_message(b'[[], {"v": 1'),
        raw_message(task=None),
        raw_message(id=None),
        raw_message(id=["unhashable"]),
        *(raw_message(timelimit=limit) for limit in (5, [1], ["1", "2"])),
        raw_message(id="x" * 101),
        raw_message(argsrepr="x" * 10_000),
        without("properties", properties={**raw_message()["properties"], "priority": 1e400}),
        without(
            "properties", properties={**raw_message()["properties"], "delivery_tag": "x" * 999}
        ),
        raw_message(retries="many"),
        raw_message(eta="2026-01-01T00:00:00"),
        raw_message(expires=1),
    ],
)
def test_a_damaged_message_is_refused(message: object):
    assert refusal_of(message, queue=SEGMENTS_QUEUE) is Refusal.MALFORMED


def test_compression_which_could_fill_the_memory_is_refused():
    bomb = raw_message(compression="application/x-gzip")
    bomb["body"] = encoded(zlib.compress(b"[" * 1_000_000))

    assert refusal_of(bomb, queue=SEGMENTS_QUEUE) is Refusal.MALFORMED
    assert refusal_of(raw_message(compression="application/x-gzip"), queue=None)


@pytest.mark.parametrize("task", ["celery.chunks", "celery.backend_cleanup", "os.system"])
def test_a_task_that_is_not_ours_is_refused(task: str):
    assert refusal_of(raw_message(task=task), queue=SEGMENTS_QUEUE) is Refusal.UNKNOWN_TASK


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        [[], kwargs()],
        [["positional"], kwargs(), {}],
        [[], kwargs(v=MESSAGE_VERSION + 1), {}],
        [[], kwargs(id="1; drop table segments"), {}],
        [[], kwargs(path="/etc/passwd"), {}],
        [[], kwargs(), {"callbacks": [{"task": "celery.chunks"}]}],
    ],
)
def test_other_fields_versions_and_callbacks_are_refused(body: object):
    assert refusal_of(raw_message(body), queue=SEGMENTS_QUEUE) is Refusal.NOT_OURS


ASKED = {"exchange": "reply.celery.pidbox", "routing_key": str(uuid4())}


def command(method: object = "ping", headers: object = None, **parts: object) -> dict:
    message = raw_message({"method": method, "arguments": {}, **parts})
    message["headers"] = {"clock": 1, "expires": 0} if headers is None else headers
    return message


def test_a_command_needs_an_envelope_and_no_task():
    assert refusal_of(command(), queue=None) is None
    assert refusal_of({**command(), "body": "%%%"}, queue=None) is Refusal.MALFORMED


@pytest.mark.parametrize("method", sorted(COMMANDS))
def test_what_looks_is_let_through(method: str):
    asked = command(method, reply_to=ASKED, ticket=str(uuid4()), destination=["gpu0@host"])

    assert refusal_of(asked, queue=None) is None


@pytest.mark.parametrize(
    "method",
    [
        *("add_consumer", "cancel_consumer", "pool_grow", "pool_shrink", "pool_restart"),
        *("autoscale", "rate_limit", "time_limit", "revoke", "revoke_by_stamped_headers"),
        *("terminate", "shutdown", "election", "memdump", "memsample", "objgraph", "hello"),
        *("disable_events", "query_task", "PING", "", None, 7, ["ping"]),
    ],
)
def test_what_would_change_what_a_worker_does_is_refused(method: object):
    assert refusal_of(command(method), queue=None) is Refusal.COMMAND


@pytest.mark.parametrize(
    "parts",
    [
        {"pattern": "(a|a)*b", "matcher": "pcre"},
        {"pattern": "*", "matcher": "glob"},
        {"reply_to": {"exchange": "", "routing_key": "segments"}},
        {"reply_to": {**ASKED, "routing_key": "segments"}},
        {"reply_to": {**ASKED, "exchange": "celeryev"}},
        {"reply_to": "x"},
        {"arguments": {"queue": "evil"}},
        {"arguments": {"taskinfoitems": ["app"]}},
        {"arguments": [1]},
        {"destination": "gpu0@host"},
        {"destination": [7]},
        {"ticket": "x" * 100_000},
        {"unheard": "of"},
    ],
)
def test_a_command_that_asks_for_more_is_refused(parts: dict):
    assert refusal_of(command(**parts), queue=None) is Refusal.COMMAND


@pytest.fixture(autouse=True)
def no_commands_yet(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(redis_transport, "_command_rate", redis_transport._CommandRate())


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict, str]]:
    """What Celery is given, and from where."""
    handed: list[tuple[dict, str]] = []
    monkeypatch.setattr(redis.Transport, "_deliver", lambda _self, *message: handed.append(message))
    return handed


@pytest.mark.parametrize("clock", ["x", -1, 2**53, 10**400, None, [1], 1.5])
def test_no_command_sets_the_clock_of_a_worker(handed: list[tuple[dict, str]], clock: object):
    object.__new__(Transport)._deliver(command(headers={"clock": clock}), "gpu0.celery.pidbox")

    ((message, _),) = handed
    assert message["headers"] == {}


def test_a_flood_of_commands_is_not_looked_at_and_costs_no_other_worker(
    handed: list[tuple[dict, str]], monkeypatch: pytest.MonkeyPatch
):
    now_s = [7.0]
    monkeypatch.setattr(redis_transport, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    refused: list[Refusal] = []
    monkeypatch.setattr(redis_transport, "_refuse", lambda reason, *_: refused.append(reason))
    transport = object.__new__(Transport)

    for _ in range(5_000):
        transport._deliver(command(destination=["gpu1@host"]), "gpu0@host.celery.pidbox")
    assert handed == []
    for _ in range(5_000):
        transport._deliver(command(), "gpu0@host.celery.pidbox")
    assert (len(handed), refused) == (100, [Refusal.FLOOD])
    now_s[0] += 1
    transport._deliver(command(destination=["gpu0@host"]), "gpu0@host.celery.pidbox")
    assert len(handed) == 101


@pytest.mark.parametrize(
    "body",
    [
        "\ufeff[]".encode(),
        "[]".encode("utf-16-le"),
        b'["\xed\xa0\x80"]',
    ],
)
def test_a_body_that_kombu_would_log_is_refused(body: bytes):
    assert refusal_of(raw_message(body), queue=SEGMENTS_QUEUE) is Refusal.MALFORMED
    assert refusal_of({**command(), "body": encoded(body)}, queue=None) is Refusal.MALFORMED


@pytest.mark.parametrize(
    "headers",
    [
        {"stamped_headers": 5},
        {"stamps": {"x": [[1]]}, "stamped_headers": [["x"]]},
        {"callbacks": [{"task": "evil"}]},
        {"chain": [{"task": "evil", "options": {"retry": True}}]},
        {"x": [[[]]]},
    ],
)
@pytest.mark.parametrize("embedded", [{}, None, {"__type__": "", "__value__": 0}])
def test_nothing_that_comes_after_a_task_goes_on(
    handed: list[tuple[dict, str]], headers: dict, embedded: dict | None
):
    own = kwargs()
    body = [[], own] if embedded is None else [[], own, embedded]
    object.__new__(Transport)._deliver(raw_message(body, **headers), SEGMENTS_QUEUE)

    for message, _ in handed:
        assert set(message["headers"]) == {"task", "id"}
        sent = json.loads(base64.b64decode(message["body"]))
        assert sent == [[], own, dict.fromkeys(("callbacks", "errbacks", "chain", "chord"))]


def test_nothing_goes_on_that_nobody_has_looked_at(handed: list[tuple[dict, str]]):
    message = {**raw_message(stamps={"a": [[1]]}, lang="py"), "extra": [1]}
    message["properties"]["reply_to"] = "x"

    object.__new__(Transport)._deliver(message, SEGMENTS_QUEUE)

    ((delivered, _),) = handed
    assert set(delivered) == {"body", "content-type", "content-encoding", "headers", "properties"}
    assert set(delivered["headers"]) == {"task", "id", "lang"}
    assert "reply_to" not in delivered["properties"]


@pytest.mark.parametrize("deep", ["[" * 500 + "]" * 500, '{"a":' * 500 + "1" + "}" * 500])
def test_what_is_nested_too_deeply_is_refused_wherever_it_is(deep: str):
    """Python reads it, and fails when it is written, to a log or back to Redis."""
    with pytest.raises(UnreadableMessage):
        parse(deep)
    body = f'{{"method": "ping", "arguments": {{}}, "x": {deep}}}'.encode()
    assert refusal_of({**command(), "body": encoded(body)}, queue=None) is Refusal.MALFORMED
    task = raw_message(f"[[], {deep}, {{}}]".encode())
    assert refusal_of(task, queue=SEGMENTS_QUEUE) is Refusal.MALFORMED


@pytest.mark.parametrize(
    ("task", "queue"), [(REDUCE_RECORDING, SEGMENTS_QUEUE), ("transcribe_segment", REDUCE_QUEUE)]
)
def test_a_task_in_the_list_of_another_is_refused(task: str, queue: str):
    assert refusal_of(raw_message(task=task), queue=queue) is Refusal.WRONG_QUEUE


def test_a_message_goes_back_to_where_it_was_whatever_it_says(handed: list[tuple[dict, str]]):
    message = raw_message()
    message["properties"]["delivery_info"] = {"exchange": "", "routing_key": "evil"}

    object.__new__(Transport)._deliver(message, SEGMENTS_QUEUE)

    ((delivered, _),) = handed
    assert delivered["properties"]["delivery_info"] == {
        "exchange": "",
        "routing_key": SEGMENTS_QUEUE,
    }


@pytest.mark.parametrize(
    "text",
    ["", "{", "\ud800", "[" * 200_000, "1" * 5_000, " " * MESSAGE_MAX + "1"],
)
def test_what_is_no_json_or_too_long_is_unreadable(text: str):
    with pytest.raises(UnreadableMessage):
        parse(text)


def test_json_that_names_a_type_makes_no_object():
    marked = '{"__type__": "uuid", "__value__": {"hex": "0"}}'

    assert parse(marked) == {"__type__": "uuid", "__value__": {"hex": "0"}}


@pytest.mark.parametrize("limits", [[0.2, None], [0.1, 0.2], [10**9, 10**9], [None, None]])
def test_no_message_says_how_long_its_work_may_take(limits: list[float | None]):
    raw = raw_message(timelimit=limits)

    message = DeliveredMessage(raw, SimpleNamespace(decode_body=lambda body, _: body))

    assert message.headers["timelimit"] == [None, None]
    # For a worker of an earlier release, if it has to go back.
    assert raw["headers"]["timelimit"] == limits


@pytest.mark.parametrize("queue", ["evil", "celery", "reduce", "celery.pidbox.evil", ""])
def test_whatever_list_but_a_mailbox_holds_tasks(handed: list[tuple[dict, str]], queue: str):
    transport = object.__new__(Transport)

    transport._deliver(raw_message(task="celery.map"), queue)
    transport._deliver(command(), queue)

    assert handed == []
