"""An urgent call overtakes a backlog on a real fleet, whose receiver is told of both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile

from ops.chaos.field import Field, wait_for
from ops.chaos.oracle import broken
from tests.receiver import SECRET, receiving

pytestmark = pytest.mark.models

#: The backlog's segments, but for the one that had begun, that ended before the last urgent one.
_EARLIER = """
select count(*) from segments s join recordings r on r.id = s.recording_id
 where r.submission_id = :backlog and s.id <> :begun
   and s.ended_at < (select max(s.ended_at) from segments s join recordings r
                      on r.id = s.recording_id where r.submission_id = :urgent)
"""


def test_an_urgent_call_overtakes_a_backlog(models: Path, speech, tmp_path: Path):
    samples, rate_hz = speech
    field = Field(tmp_path / "field", models=models, workers=1)
    field.stack.environment["CALLSCRIBE_NOTIFY_SECRET"] = SECRET
    with field, receiving() as received:
        soundfile.write(field.calls / "long.wav", samples[: rate_hz * 60], rate_hz)
        later = field.calls / "later"
        with field.held():
            backlog = field.submit("--notify", received.url)
            (begun,) = field.wait_until_all_decode()
            later.mkdir()
            soundfile.write(later / "urgent.wav", samples[rate_hz * 61 : rate_hz * 75], rate_hz)
            urgent = field.submit("--priority", "--notify", received.url, directory=later)
        field.wait(urgent)
        field.wait(backlog)
        received.wait(4)

        asked = {"backlog": backlog, "urgent": urgent, "begun": begun}
        assert field.scalar(_EARLIER, **asked) == 0
        assert field.scalar("select count(*) from segments where state <> 'done'") == 0
        assert broken(field.ledger) == {}
        wait_for(lambda: field.scalar("select count(*) from events where state = 'delivered'") == 4)
    told = [json.loads(body) for _, body in received.requests]
    assert len({event["event"] for event in told}) == 4
    ended = {e["submission"]: e["ended_at"] for e in told if e["type"] == "recording.ended"}
    assert ended[str(urgent)] < ended[str(backlog)]
    whole = {e["submission"] for e in told if e["type"] == "submission.ended"}
    assert whole == {str(urgent), str(backlog)}
