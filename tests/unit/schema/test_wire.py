"""Messages hold ids and nothing else, and what is not one is refused."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest

from schema.errors import BadRequest
from schema.store.dispatches import segment_dispatch
from schema.wire import Message


def test_a_message_survives_json():
    message = Message(uuid4(), uuid4())
    assert Message.from_kwargs(json.loads(json.dumps(message.to_kwargs()))) == message


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"v": 2, "id": str(uuid4()), "token": str(uuid4())},
        {"v": 1, "id": "1; drop table segments", "token": str(uuid4())},
        {"v": 1, "id": None, "token": None},
        {"v": 1, "id": str(uuid4()), "token": str(uuid4()), "path": "/etc/passwd"},
    ],
)
def test_what_is_no_message_of_ours_is_refused(kwargs):
    with pytest.raises(BadRequest):
        Message.from_kwargs(kwargs)


def test_flower_is_shown_what_an_operator_can_read_and_no_path():
    submission, identifier = uuid4(), uuid4()
    dispatch = segment_dispatch(
        {
            "id": uuid4(),
            "dispatch_token": uuid4(),
            "submission_id": submission,
            "recording_id": identifier,
            "kind": "plan",
            "channel": 1,
            "index": 2,
            "start_ms": 584_000,
            "end_ms": 892_000,
            "urgent": False,
        }
    )

    options = dispatch.send_options()

    recording, submitted = str(identifier)[:8], str(submission)[:8]
    label = f"recording {recording} ch 1 seg 2 9:44-14:52, submission {submitted}"
    assert options["argsrepr"] == label
    assert set(options["kwargs"]) == {"v", "id", "token"}
    assert options["time_limit"] > options["soft_time_limit"] > 308
