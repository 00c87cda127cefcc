"""Only what we send is handed to Celery; everything else has a name for what is wrong with it."""

from __future__ import annotations

import zlib
from uuid import uuid4

import pytest

from schema.wire import MESSAGE_VERSION
from tests.factories import encoded, raw_message
from workers.inbox import Refusal, refusal_of


def without(field: str, **parts: object) -> dict:
    message = raw_message()
    message.pop(field)
    return {**message, **parts}


def kwargs(**changes: object) -> dict:
    return {"v": MESSAGE_VERSION, "id": str(uuid4()), "token": str(uuid4()), **changes}


def test_a_sound_message_is_not_refused():
    limited = raw_message(timelimit=[330, 300], root_id="r", argsrepr="recording 1", eta=None)

    assert refusal_of(limited, task=True) is None


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

    assert refusal_of(message, task=True) is Refusal.CONTENT_TYPE


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
        raw_message(retries="many"),
        raw_message(eta="2026-01-01T00:00:00"),
        raw_message(expires=1),
    ],
)
def test_a_damaged_message_is_refused(message: object):
    assert refusal_of(message, task=True) is Refusal.MALFORMED


def test_compression_which_could_fill_the_memory_is_refused():
    bomb = raw_message(compression="application/x-gzip")
    bomb["body"] = encoded(zlib.compress(b"[" * 1_000_000))

    assert refusal_of(bomb, task=True) is Refusal.MALFORMED
    assert refusal_of(raw_message(compression="application/x-gzip"), task=False)


@pytest.mark.parametrize("task", ["celery.chunks", "celery.backend_cleanup", "os.system"])
def test_a_task_that_is_not_ours_is_refused(task: str):
    assert refusal_of(raw_message(task=task), task=True) is Refusal.UNKNOWN_TASK


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
    assert refusal_of(raw_message(body), task=True) is Refusal.NOT_OURS


def test_a_command_needs_an_envelope_and_no_task():
    command = raw_message({"method": "ping", "arguments": {}})
    command["headers"] = {"clock": 1, "expires": 0}

    assert refusal_of(command, task=False) is None
    assert refusal_of({**command, "body": "%%%"}, task=False) is Refusal.MALFORMED
