"""Receivers are told what has ended, at least once, whatever they and those who tell them do."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trustme
from sqlalchemy import text
from structlog.testing import capture_logs

from ops.local.bootstrap import ROOT
from ops.local.sockets import free_port
from producer.cli.doctor import CheckVerdict, _notify
from schema.errors import ErrorCode
from schema.records import CallInfo
from schema.settings import Settings
from schema.signature import signed_headers
from schema.store.erasure import forget
from schema.store.intake import submissions
from schema.store.intake.cancel import cancel_submission
from schema.store.intake.submissions import OpenSubmission
from schema.store.ledger import Ledger
from schema.store.read.fleet import read_figures
from schema.store.work import events as notify
from schema.store.work import reduces, segments
from schema.store.work.segments import FailureKind
from schema.urls import check_receiver_url
from tests import factories
from tests.factories import (
    PROFILE,
    added,
    quarantined,
    recording,
    reduced,
    transcribed,
    unique,
    utterance,
)
from tests.receiver import DOCUMENT, SECRET, Received, documented, receiving
from workers.background.webhooks import PER_RECEIVER_MAX, Notifier, post_json

URL = "http://127.0.0.1:1/never"


def told(ledger: Ledger, url: str = URL) -> OpenSubmission:
    """Open a submission whose ends are told to a URL."""
    host = check_receiver_url(url, ())

    def opened(connection: Any) -> OpenSubmission:
        receiver = notify.find_or_add_receiver(connection, url, host)
        return submissions.open_submission(
            connection, unique("key"), "calls", PROFILE, force=False, receiver=receiver
        )

    return ledger.transact(opened)


def sealed(ledger: Ledger, submission: OpenSubmission) -> None:
    ledger.transact(lambda c: submissions.seal_submission(c, submission.id))


def events(ledger: Ledger) -> list[dict[str, Any]]:
    query = text("select *, created_at > now() - interval '1 day' as recent from events")
    return [dict(row) for row in ledger.transact(lambda c: c.execute(query).mappings().all())]


def let_pass(ledger: Ledger, interval: str = "1 day") -> None:
    """Let every pause have ended, and every claim have run out."""
    for table in ("events", "receivers"):
        statement = f"update {table} set next_attempt_at = next_attempt_at - interval '{interval}'"
        ledger.transact(lambda c, s=statement: c.execute(text(s)))


def settings(**changes: Any) -> Settings:
    given = {"database_url": "postgresql://", "redis_url": "redis://", "notify_secret": SECRET}
    return Settings(**{**given, **changes})


def round_of(ledger: Ledger, **options: Any) -> int:
    """Let a notifier look once and wait for its attempts to end; return how many there were."""
    notifier = Notifier(ledger, options.pop("settings", settings()), **options)
    earlier = set(threading.enumerate())
    notifier.update_events()
    begun = notifier.start_attempts()
    for thread in set(threading.enumerate()) - earlier:
        if thread.name == "notify":
            thread.join(60)
    return begun


def states(ledger: Ledger) -> list[str]:
    return sorted(event["state"] for event in events(ledger))


def bodies(received: Received) -> list[dict[str, Any]]:
    return [json.loads(body) for _, body in received.requests]


def failed(ledger: Ledger, submission: OpenSubmission) -> None:
    (dispatch,) = added(ledger, recording(unique("pcm")), to=submission).dispatches
    held = ledger.run_statement(
        lambda c: segments.claim_segment(c, dispatch.message, owner="w", lease_s=60)
    )
    code = ErrorCode.AUDIO_CHANGED
    end = ledger.transact(
        lambda c: segments.fail_segment(c, held, code, "changed", FailureKind.PERMANENT)
    )
    reduced(ledger, end.reduce)


def test_every_end_of_a_recording_is_told_and_then_that_of_the_submission(ledger: Ledger):
    call = CallInfo("ACD-7", customer="c-1", attributes={"campaign": "spring", "n": 1})
    with receiving() as received:
        submission = told(ledger, received.url)
        recording_id = transcribed(ledger, call=call, to=submission)
        failed(ledger, submission)
        added(ledger, quarantined(), to=submission)
        added(ledger, recording("waits"), to=submission)
        round_of(ledger)
        assert {body["type"] for body in bodies(received)} == {"recording.ended"}
        ledger.transact(lambda c: cancel_submission(c, submission.id))
        round_of(ledger)
        round_of(ledger)

    of_recordings = {b["state"]: b for b in bodies(received) if b["type"] == "recording.ended"}
    assert set(of_recordings) == {"done", "failed", "quarantined", "cancelled"}
    done = of_recordings["done"]
    assert done["recording"] == str(recording_id)
    assert done["submission"] == str(submission.id)
    assert (done["call_id"], done["customer"]) == ("ACD-7", "c-1")
    assert done["attributes"] == {"campaign": "spring", "n": 1}
    assert done["created_at"] <= done["ended_at"]
    assert (done["speakers_from"], done["flags"]) == ("channel", [])
    assert of_recordings["failed"]["error_code"] == "audio.changed"
    assert of_recordings["quarantined"]["error_code"] == "audio.empty"
    assert of_recordings["quarantined"]["speakers_from"] is None
    (whole,) = (b for b in bodies(received) if b["type"] == "submission.ended")
    counts = {"total": 4, "done": 1, "failed": 1, "quarantined": 1, "cancelled": 1}
    assert whole["recordings"] == counts
    assert states(ledger) == ["delivered"] * 5


def test_no_word_that_was_said_is_told(ledger: Ledger):
    with receiving() as received:
        submission = told(ledger, received.url)
        transcribed(ledger, utterance("agent", "confidential"), to=submission)
        sealed(ledger, submission)
        round_of(ledger)

    assert len(received.requests) == 2
    assert not [body for _, body in received.requests if b"confidential" in body]


def test_a_receiver_is_told_what_was_found_and_that_speakers_are_guessed(ledger: Ledger):
    with receiving() as received:
        submission = told(ledger, received.url)
        transcribed(ledger, utterance("speaker 1", "hello"), to=submission)
        for statement in (
            'update recordings set flags = \'["truncated", "no-speech"]\'',
            'update transcripts set flags = \'["truncated", "speakers-doubtful"]\','
            " speakers_from = 'guessed'",
        ):
            ledger.transact(lambda c, s=statement: c.execute(text(s)))
        round_of(ledger)

    (body,) = bodies(received)
    assert body["speakers_from"] == "guessed"
    assert body["flags"] == ["truncated", "no-speech", "speakers-doubtful"]


def test_a_submission_without_a_receiver_makes_no_event(ledger: Ledger):
    transcribed(ledger)
    added(ledger, quarantined())

    assert events(ledger) == []


def test_an_open_submission_has_not_ended(ledger: Ledger):
    submission = told(ledger)
    transcribed(ledger, to=submission)

    assert ledger.transact(notify.add_submission_events) == 0
    sealed(ledger, submission)
    assert ledger.transact(notify.add_submission_events) == 1
    assert ledger.transact(notify.add_submission_events) == 0


def test_what_a_retry_ends_anew_is_told_anew(ledger: Ledger):
    submission = told(ledger)
    failed(ledger, submission)
    sealed(ledger, submission)
    ledger.transact(notify.add_submission_events)
    ledger.transact(lambda c: reduces.retry_failed_segments(c, submission.id))
    assert ledger.transact(notify.add_submission_events) == 0

    ledger.transact(lambda c: cancel_submission(c, submission.id))
    ledger.transact(notify.add_submission_events)

    told_of = [event["recording_state"] for event in events(ledger)]
    assert sorted(map(str, told_of)) == ["None", "None", "cancelled", "failed"]


def test_an_end_that_is_rolled_back_is_not_told(ledger: Ledger):
    submission = told(ledger)
    with ledger.engine.connect() as connection:
        submissions.add_recordings(connection, submission, [quarantined()], capacity=0)
        connection.rollback()

    assert events(ledger) == []


def test_a_receiver_that_fails_twice_is_told_the_same_a_third_time(ledger: Ledger):
    answers = iter([500, 503, 200])
    with receiving(lambda _: next(answers)) as received:
        added(ledger, quarantined(), to=told(ledger, received.url))
        for _ in range(3):
            round_of(ledger)
            assert round_of(ledger) == 0, "it was given no pause"
            let_pass(ledger)

    assert len(set(received.ids)) == 1
    assert len({body for _, body in received.requests}) == 1
    assert len(received.requests) == 3
    (event,) = events(ledger)
    assert (event["state"], event["attempts"], event["error"]) == ("delivered", 3, None)


def test_the_receiver_that_the_document_shows_knows_ours_and_no_other(
    ledger: Ledger, tmp_path: Path
):
    """It runs as documented, and answers 401 to what is not signed with the secret, or not now."""
    script = tmp_path / "receiver.py"
    script.write_text(documented())
    port = free_port()
    environment = {**os.environ, "CALLSCRIBE_NOTIFY_SECRET": SECRET, "PORT": str(port)}
    url = f"http://127.0.0.1:{port}/"
    submission = told(ledger, url)
    added(ledger, quarantined(), to=submission)
    with subprocess.Popen(
        [sys.executable, str(script)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            wait_until(lambda: post_json(url, b"{}", {}) == "HTTP 401")
            round_of(ledger, settings=settings(notify_secret=SECRET[::-1]))
            assert events(ledger)[0]["error"] == "HTTP 401"
            assert post_json(url, *resigned(time_s=-400)) == "HTTP 401"
            assert post_json(url, *resigned(time_s=0)) is None
            let_pass(ledger)
            round_of(ledger)
            assert states(ledger) == ["delivered"]
        finally:
            process.terminate()
        said = process.stdout.read() if process.stdout else ""
    assert "recording.ended None quarantined" in said


def resigned(time_s: int) -> tuple[bytes, dict[str, str]]:
    event_id = uuid4()
    body = json.dumps({"event": str(event_id), "type": "test"}).encode()
    return body, signed_headers(SECRET, event_id, int(time.time()) + time_s, body)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_receiver_that_hangs_or_drips_is_broken_off(caplog: pytest.LogCaptureFixture):
    over = threading.Event()

    def hang(_: Any) -> None:
        over.wait(60)

    def drip(handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not over.wait(0.02):
            handler.wfile.write(b"x")

    try:
        for answer in (hang, drip):
            with receiving(answer) as received:
                assert post_json(received.url, b"{}", {}, limit_s=0.5) == "no answer in 0.5 s"
    finally:
        over.set()
    assert "hush" not in caplog.text


def test_an_answer_that_is_none_of_http_is_a_refusal(ledger: Ledger):
    with receiving(lambda handler: handler.wfile.write(b"220 mail ready\r\n") and None) as received:
        added(ledger, quarantined(), to=told(ledger, received.url))
        round_of(ledger)

    (event,) = events(ledger)
    assert (event["state"], event["error"]) == ("waiting", "BadStatusLine")


def test_a_redirect_is_not_followed(ledger: Ledger):
    with receiving() as elsewhere:

        def redirect(handler: Any) -> None:
            handler.send_response(307)
            handler.send_header("location", elsewhere.url)
            handler.end_headers()

        with receiving(redirect) as received:
            added(ledger, quarantined(), to=told(ledger, received.url))
            round_of(ledger)

    assert len(received.requests) == 1
    assert elsewhere.requests == []
    assert events(ledger)[0]["error"] == "HTTP 307"


def test_a_certificate_that_is_not_trusted_is_told_nothing(monkeypatch: pytest.MonkeyPatch):
    authority = trustme.CA()
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    url = f"https://127.0.0.1:{server.server_port}/"
    try:
        refused = post_json(url, b"{}", {})
        with authority.cert_pem.tempfile() as path:
            monkeypatch.setenv("SSL_CERT_FILE", path)
            trusted = post_json(url, b"{}", {})
    finally:
        server.shutdown()
        server.server_close()
    assert "SSL" in str(refused)
    assert trusted == "HTTP 501", "a server that knows no POST"


def test_a_receiver_that_is_dead_for_long_is_asked_less_and_less_and_given_up(ledger: Ledger):
    submission = told(ledger, f"http://127.0.0.1:{free_port()}/")
    added(ledger, *(quarantined() for _ in range(10)), to=submission)

    assert round_of(ledger) == PER_RECEIVER_MAX, "nobody knew that it was dead"
    let_pass(ledger)
    assert [round_of(ledger), round_of(ledger)] == [1, 0], "one asks whether it is back"
    pause = text("select round(extract(epoch from next_attempt_at - now()), -1) from receivers")
    pauses = []
    for _ in range(8):
        let_pass(ledger)
        round_of(ledger)
        pauses.append(int(ledger.transact(lambda c: c.execute(pause).scalar_one())))
    assert pauses == [160, 320, *[600] * 6]

    for table, column in (("receivers", "failing_since"), ("events", "created_at")):
        statement = f"update {table} set {column} = {column} - interval '25 hours'"
        ledger.transact(lambda c, s=statement: c.execute(text(s)))
    added(ledger, quarantined(), to=submission)
    round_of(ledger)

    assert states(ledger) == ["given-up"] * 10 + ["waiting"]
    assert all(event["error"] for event in events(ledger) if event["state"] == "given-up")


def test_what_was_given_up_comes_again_as_the_document_says(ledger: Ledger):
    answers = iter([500, 200, 200])
    with receiving(lambda _: next(answers)) as received:
        submission = told(ledger, received.url)
        added(ledger, quarantined(), to=submission)
        round_of(ledger)
        for table, column in (("receivers", "failing_since"), ("events", "created_at")):
            statement = f"update {table} set {column} = {column} - interval '25 hours'"
            ledger.transact(lambda c, s=statement: c.execute(text(s)))
        round_of(ledger)
        assert states(ledger) == ["given-up"]

        (again,) = re.findall(r"^```sql\n(.*?)^```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
        ledger.transact(lambda c: c.exec_driver_sql(again))
        round_of(ledger)

    assert states(ledger) == ["delivered"]
    assert len(set(received.ids)) == 1


def test_an_event_that_a_receiver_never_takes_is_given_up_and_holds_up_no_other(ledger: Ledger):
    def answer(_: Any) -> int:
        return 400 if b'"audio.empty"' in received.requests[-1][1] else 200

    with receiving(answer) as received:
        submission = told(ledger, received.url)
        added(ledger, quarantined("audio.empty"), to=submission)
        for _ in range(notify.EVENT_ATTEMPTS_MAX):
            round_of(ledger)
            let_pass(ledger)
        added(ledger, quarantined("audio.truncated"), to=submission)
        round_of(ledger)
        ledger.transact(
            lambda c: c.execute(text("update events set created_at = now() - interval '1 year'"))
        )
        round_of(ledger)

    assert {e["error_code"]: e["state"] for e in events(ledger)} == {
        "audio.empty": "given-up",
        "audio.truncated": "delivered",
    }


def test_the_pauses_of_an_event_add_up_to_a_day():
    pauses = [min(10 * 2**n, 3_600) for n in range(notify.EVENT_ATTEMPTS_MAX - 1)]

    assert 22 < sum(pauses) / 3_600 < 25


def test_one_receiver_that_is_dead_holds_up_no_other(ledger: Ledger):
    dead = told(ledger, f"http://127.0.0.1:{free_port()}/")
    added(ledger, *(quarantined() for _ in range(40)), to=dead)
    with receiving() as received:
        added(ledger, *(quarantined() for _ in range(3)), to=told(ledger, received.url))
        round_of(ledger)

    assert len(received.requests) == 3


def test_two_that_deliver_send_each_event_once(ledger: Ledger):
    added(ledger, *(quarantined() for _ in range(8)), to=told(ledger))

    def claims(each: int = 5) -> list[str]:
        found = ledger.transact(
            lambda c: notify.claim_events(
                c, limit=16, per_receiver=each, busy_receivers=(), lease_s=60
            )
        )
        return [str(delivery.event_id) for delivery in found]

    first, second = claims(), claims()

    assert (len(first), len(second)) == (5, 3)
    assert not set(first) & set(second)


_KILLED = """
import os, signal, sys
from schema.settings import load_settings
from schema.store.work import events as notify
from schema.store.ledger import Ledger
from workers.background.webhooks import Notifier

settings = load_settings()
notify.record_delivery = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
notifier = Notifier(Ledger.open(settings), settings)
notifier.run(__import__("threading").Event())
"""


def test_one_that_is_killed_after_it_sent_has_it_sent_again_with_the_same_id(ledger: Ledger):
    url = ledger.engine.url.render_as_string(hide_password=False)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "CALLSCRIBE_DATABASE_URL": url,
        "CALLSCRIBE_REDIS_URL": "redis://",
        "CALLSCRIBE_NOTIFY_SECRET": SECRET,
    }
    with receiving() as received:
        added(ledger, quarantined(), to=told(ledger, received.url))
        done = subprocess.run(
            [sys.executable, "-c", _KILLED], env=environment, check=False, timeout=60
        )
        assert done.returncode == -signal.SIGKILL
        assert states(ledger) == ["waiting"]
        assert round_of(ledger) == 0, "its claim has not run out"
        let_pass(ledger)
        round_of(ledger)

    assert len(received.requests) == 2
    assert len(set(received.ids)) == 1
    assert states(ledger) == ["delivered"]


def test_nothing_is_held_while_a_receiver_thinks(ledger: Ledger):
    """What a slow receiver is told of can even be erased meanwhile."""
    go_on = threading.Event()

    def think(_: Any) -> int:
        assert go_on.wait(60)
        return 200

    with receiving(think) as received:
        submission = told(ledger, received.url)
        recording_id = transcribed(ledger, to=submission)
        notifier = Notifier(ledger, settings())
        notifier.start_attempts()
        received.wait(1)
        query = text("select count(*) from pg_stat_activity where state like 'idle in trans%'")
        try:
            assert ledger.transact(lambda c: c.execute(query).scalar_one()) == 0
            ledger.transact(lambda c: forget.erase_recordings(c, [recording_id], lambda _: None))
            assert events(ledger) == []
        finally:
            go_on.set()
        wait_until(lambda: not notifier._attempts.total())


def test_a_notifier_goes_on_until_it_is_stopped(ledger: Ledger):
    stop = threading.Event()
    with receiving() as received:
        submission = told(ledger, received.url)
        running = threading.Thread(target=Notifier(ledger, settings()).run, args=(stop,))
        running.start()
        try:
            added(ledger, *(quarantined() for _ in range(20)), to=submission)
            received.wait(20)
            sealed(ledger, submission)
            received.wait(21)
            wait_until(lambda: states(ledger) == ["delivered"] * 21)
        finally:
            stop.set()
            running.join(60)
    assert not running.is_alive()
    assert len(set(received.ids)) == 21


def test_no_url_and_no_secret_is_logged(ledger: Ledger):
    with receiving(lambda _: 500) as received, capture_logs() as logs:
        added(ledger, quarantined(), to=told(ledger, received.url))
        round_of(ledger)

    said = repr(logs)
    assert "not_notified" in said
    assert "127.0.0.1" in said
    assert "hush" not in said
    assert SECRET not in said


def test_a_host_that_is_not_among_those_allowed_is_sent_nothing(ledger: Ledger):
    with receiving() as received:
        added(ledger, quarantined(), to=told(ledger, received.url))
        round_of(ledger, settings=settings(notify_hosts="crm.example"))

    assert received.requests == []
    assert "CALLSCRIBE_NOTIFY_HOSTS" in events(ledger)[0]["error"]


def test_without_a_secret_nothing_is_sent_and_a_log_says_so(ledger: Ledger):
    stop = threading.Event()
    with receiving() as received, capture_logs() as logs:
        added(ledger, quarantined(), to=told(ledger, received.url))
        stop.set()
        notifier = Notifier(ledger, settings(notify_secret=None))
        notifier._warn_without_secret()
        notifier.run(stop)

    assert received.requests == []
    assert [entry["event"] for entry in logs] == ["notify_secret_missing"]
    assert states(ledger) == ["waiting"]


def test_how_far_a_receiver_was_told_is_known(ledger: Ledger):
    submission = told(ledger, "https://crm.example/hook?token=hush")
    added(ledger, quarantined(), quarantined(), to=submission)
    ledger.transact(
        lambda c: c.execute(
            text(
                "update events set state = 'given-up', error = 'HTTP 410'"
                " where id = (select id from events limit 1)"
            )
        )
    )

    with ledger.connect() as connection:
        found = notify.read_notification_status(connection, submission.id)
        nobody = notify.read_notification_status(connection, added_to_nobody(ledger))

    assert found == notify.NotificationStatus(
        "crm.example", {"waiting": 1, "given-up": 1}, "HTTP 410"
    )
    assert nobody is None


def test_the_doctor_says_who_takes_nothing_and_where_a_secret_is_missing(ledger: Ledger):
    quiet = _notify(settings(), ledger)
    added(ledger, quarantined(), to=told(ledger, "https://crm.example/hook?token=hush"))
    unsigned = _notify(settings(notify_secret=None), ledger)
    (delivery,) = ledger.transact(
        lambda c: notify.claim_events(c, limit=1, per_receiver=1, busy_receivers=(), lease_s=60)
    )
    ledger.transact(lambda c: notify.record_refusal(c, delivery, "HTTP 503"))
    failing = _notify(settings(), ledger)

    assert quiet.verdict is CheckVerdict.OK
    assert unsigned.verdict is failing.verdict is CheckVerdict.WARN
    assert "1 events wait" in unsigned.detail
    assert "CALLSCRIBE_NOTIFY_SECRET" in unsigned.remedy
    assert "crm.example (1 since" in failing.detail
    assert "hush" not in failing.detail


def test_how_long_a_receiver_has_taken_nothing_is_a_figure(ledger: Ledger):
    assert ledger.transact(read_figures).oldest_event_s == 0
    added(ledger, quarantined(), to=told(ledger))
    older = text("update events set created_at = created_at - interval '1 hour'")
    ledger.transact(lambda c: c.execute(older))

    assert 3_600 <= ledger.transact(read_figures).oldest_event_s < 3_700


def added_to_nobody(ledger: Ledger) -> Any:
    return factories.submission(ledger).id
