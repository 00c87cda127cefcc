"""The command line over a ledger of its own: what an operator and an analyst type every day."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console
from sqlalchemy import func, insert, select, text

from producer.cli import output
from producer.cli.exit_codes import ExitCode
from schema.records import CallInfo
from schema.store.ledger import Ledger
from schema.store.read.progress import list_submission_ids
from schema.store.work import events
from schema.tables import Recording, Submission
from tests.factories import added, recording, submission, transcribed, utterance
from tests.integration.command import Producer

CALL = CallInfo(call_id="ACD-1", started_at=datetime.now(UTC) - timedelta(days=40), line="billing")


def test_search_shows_the_call_and_marks_what_was_asked_for(ledger: Ledger, producer: Producer):
    transcribed(ledger, utterance("customer", "My \x1bmoney back!", 61_000), call=CALL)

    ran = producer("search", '"money back"', "--speaker", "Customer", "--line", "billing")

    assert ran.code == ExitCode.OK
    row = ran.out.splitlines()[1].split()
    assert row[0] == "ACD-1"
    assert row[3:] == ["1:01", "customer", "My", "[money", "back]!"]


def test_a_terminal_obeys_nothing_that_a_manifest_says(ledger: Ledger, producer: Producer):
    hostile = "\x1b[2J\x07ACD-1\x9b31m"
    transcribed(ledger, utterance(hostile, "money"), call=replace(CALL, call_id=hostile))

    printed = producer("search", "money").out + producer("forget", "--call", hostile).out

    assert printed.count("ACD-1") >= 3
    assert not {c for c in printed if not c.isprintable() and c != "\n"}


def test_search_gives_scripts_the_recording_and_its_times(ledger: Ledger, producer: Producer):
    recording = transcribed(ledger, utterance("agent", "我要退款"), utterance("agent", "退", 900))

    ran = producer("search", "退", "--json", "--limit", "1")

    found = json.loads(ran.out)
    (hit,) = found["list"]
    assert (found["more"], hit["recording"], hit["start_ms"]) == (True, str(recording), 0)
    assert hit["marks"] == [[2, 3]]


@pytest.mark.parametrize(
    ("query", "text"),
    [("voucher", "No utterance matches"), ("-x", "Name a word"), ("", "Name a word")],
)
def test_search_says_when_there_is_nothing(producer: Producer, query: str, text: str):
    ran = producer("search", "--", query)

    assert (ran.code, ran.out) == (ExitCode.NOTHING, "")
    assert ran.err.startswith(text)


def test_search_refuses_a_date_that_is_none(producer: Producer):
    ran = producer("search", "refund", "--since", "yesterday")

    assert ran.code == ExitCode.USAGE
    assert "--since" in ran.err


def test_forget_by_age_erases_nothing_until_it_is_told_to(ledger: Ledger, producer: Producer):
    transcribed(ledger, utterance("agent", "hi"), call=CALL)
    transcribed(ledger, utterance("agent", "hi"))

    dry = producer("forget", "--older-than", "30d")
    counted = json.loads(producer("forget", "--older-than", "30d", "--json").out)
    erased = json.loads(producer("forget", "--older-than", "30d", "--yes", "--json").out)

    assert dry.out.startswith("1 recording of calls before ")
    assert "Nothing was erased: add --yes" in dry.err
    assert (counted["erased"], counted["recordings"], counted["audio_ms"]) == (False, 1, 10_000)
    assert (erased["erased"], erased["recordings"]) == (True, 1)
    assert json.loads(producer("search", "hi", "--json").out)["list"][0]["call_id"] is None


def test_a_purge_comes_again_and_says_each_time_what_it_erased(
    ledger: Ledger, producer: Producer, monkeypatch: pytest.MonkeyPatch
):
    transcribed(ledger, call=CALL)
    added(ledger, recording("a", call=CALL))
    pauses: list[float] = []

    def sleep(pause_s: float) -> None:
        pauses.append(pause_s)
        transcribed(ledger, call=CALL)
        if len(pauses) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("producer.cli.common.time.sleep", sleep)

    ran = producer("forget", "--older-than", "30d", "--yes", "--every", "24h")

    assert (ran.code, pauses) == (ExitCode.INTERRUPTED, [86_400, 86_400])
    assert ran.out.count("1 recording erased") == 2
    assert ran.err.count("Skipped 1 recording still being transcribed") == 2


@pytest.mark.parametrize(
    "wrong",
    [
        ("--older-than", "soon"),
        ("--older-than", "", "--yes"),
        ("--older-than", "30d", "--call", "ACD-1"),
        ("--older-than", "30d", "--every", "24h"),
        ("--older-than", "30d", "--yes", "--every", "daily"),
        ("--call", "ACD-1", "--yes", "--every", "24h"),
        (),
    ],
)
def test_forget_refuses_what_it_does_not_understand(producer: Producer, wrong: tuple[str, ...]):
    assert producer("forget", *wrong).code == ExitCode.USAGE


def documents(directory: Path) -> dict[str, list[str]]:
    """Return the calls in each file of a directory."""
    return {
        path.name: [json.loads(line)["call_id"] for line in path.read_text().splitlines()]
        for path in directory.iterdir()
    }


def test_exports_with_a_cursor_write_every_call_once(ledger: Ledger, producer: Producer, tmp_path):
    lines = ("export", "--format", "jsonl", "--out", "lake", "--cursor", "cursors/lake")
    cursor = tmp_path / "cursors" / "lake"
    transcribed(ledger, call=CALL)

    first = producer(*lines)
    begin = cursor.read_text().splitlines()[0]
    assert producer(*lines).code == ExitCode.OK
    transcribed(ledger, call=replace(CALL, call_id="ACD-2"))
    second = json.loads(producer(*lines, "--json").out)

    assert (first.code, first.out) == (ExitCode.OK, "")
    assert begin
    assert first.err == "1 recording. Next time: the same command.\n"
    assert second["recordings"] == 1
    assert cursor.read_text().splitlines()[0] == second["next"]
    assert sorted(documents(tmp_path / "lake").values()) == [["ACD-1"], ["ACD-2"]]


def test_an_export_that_did_not_get_to_its_cursor_is_replaced(
    ledger: Ledger, producer: Producer, tmp_path
):
    lines = ("export", "--format", "jsonl", "--out", "lake", "--cursor", "lake.cursor")
    transcribed(ledger, call=CALL)
    producer(*lines)
    (tmp_path / "lake.cursor").unlink()
    transcribed(ledger, call=replace(CALL, call_id="ACD-2"))

    producer(*lines)

    assert documents(tmp_path / "lake") == {"transcripts.jsonl": ["ACD-1", "ACD-2"]}


def test_a_directory_of_exports_may_be_called_like_markup(ledger: Ledger, producer: Producer):
    transcribed(ledger, call=CALL)

    ran = producer("export", "--format", "txt", "--out", "[/b]")

    assert (ran.code, ran.out) == (ExitCode.OK, "1 file of 1 recording in [/b]\n")


def test_a_table_goes_on_from_its_cursor_as_lines_do(
    ledger: Ledger, producer: Producer, tmp_path: Path
):
    both = ("export", "--format", "jsonl,parquet,jsonl", "--out", "lake", "--cursor", "lake.cursor")
    transcribed(ledger, utterance("agent", "我要退款"), call=CALL)

    assert producer(*both).code == ExitCode.OK
    begin = (tmp_path / "lake.cursor").read_text()
    assert json.loads(producer(*both, "--json").out)["recordings"] == 0
    transcribed(ledger, call=replace(CALL, call_id="ACD-2"))
    assert json.loads(producer(*both, "--json").out)["recordings"] == 1

    files = sorted((tmp_path / "lake").glob("*.parquet"))
    tables = [pq.ParquetFile(path).read().to_pylist() for path in files]
    assert [path.with_suffix(".jsonl").exists() for path in files] == [True, True]
    assert [[row["call_id"] for row in table] for table in tables] == [["ACD-2"], ["ACD-1"]]
    assert tables[1][0]["utterances"][0]["words"][0]["text"] == "我要退款"
    assert (tmp_path / "lake.cursor").read_text() > begin


def test_a_cursor_stays_where_it_was_when_a_table_was_not_written(
    ledger: Ledger, producer: Producer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    table = ("export", "--format", "parquet", "--out", "lake", "--cursor", "lake.cursor")
    transcribed(ledger, call=CALL)
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    ran = producer(*table)

    assert (ran.code, "[parquet]" in ran.err) == (ExitCode.MISCONFIGURED, True)
    assert list(tmp_path.iterdir()) == []


def test_lines_go_to_a_pipe(ledger: Ledger, producer: Producer):
    transcribed(ledger, call=CALL)

    since = producer("export", "--format", "jsonl", "--out", "-", "--since", "2020-01-01")
    latest = producer("export", "--format", "jsonl", "--out", "-")

    assert [json.loads(line)["call_id"] for line in since.out.splitlines()] == ["ACD-1"]
    assert latest.out == since.out


def test_lines_go_to_the_pipe_also_where_a_terminal_shows_how_far_they_are(
    ledger: Ledger, producer: Producer, monkeypatch: pytest.MonkeyPatch
):
    transcribed(ledger, call=CALL)
    screen = StringIO()
    monkeypatch.setattr(output, "err", Console(file=screen, force_terminal=True, width=40))

    ran = producer("export", "--format", "jsonl", "--out", "-")

    assert [json.loads(line)["call_id"] for line in ran.out.splitlines()] == ["ACD-1"]
    assert "1 recording" in screen.getvalue()


def test_what_lies_under_no_root_is_refused_before_it_is_a_submission(
    ledger: Ledger, producer: Producer, tmp_path
):
    (tmp_path / "a.wav").write_bytes(b"RIFF")

    ran = producer("submit", "a.wav")

    assert ran.code == ExitCode.USAGE
    assert "[path.outside-roots]" in ran.err
    with ledger.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(Submission)) == 0


def test_submit_says_by_code_what_is_wrong_with_files(producer: Producer, tmp_path, monkeypatch):
    monkeypatch.setenv("CALLSCRIBE_ROOTS", f"calls={tmp_path}")
    (tmp_path / "a.wav").write_bytes(b"RIFF")

    ran = producer("submit", "a.wav")

    assert ran.code == ExitCode.INCOMPLETE
    assert "1 recording needs attention (1 audio." in ran.err


@pytest.mark.parametrize(
    "wrong",
    [
        ("--since", "2026-05-01"),
        ("--cursor", "x", "--format", "json"),
        ("--out", "-"),
        ("--format", "jsonl,json"),
        ("--format", "jsonl", "--out", "-", "--json"),
        ("--format", "parquet", "--out", "-"),
        ("--format", "parquet,json"),
        ("--format", "jsonl", "--since", "soon"),
        ("--format", "jsonl", "--cursor", "broken"),
    ],
)
def test_export_refuses_what_it_does_not_understand(
    producer: Producer, wrong: tuple[str, ...], tmp_path
):
    (tmp_path / "broken").write_text("not a moment")

    assert producer("export", *wrong).code == ExitCode.USAGE


@pytest.fixture
def submitter(producer: Producer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Producer:
    """Submits a directory of one empty file, which is quarantined at once."""
    calls = tmp_path / "calls"
    calls.mkdir()
    (calls / "empty.wav").touch()
    monkeypatch.setenv("CALLSCRIBE_ROOTS", f"calls={calls}")
    return lambda *arguments: producer("submit", str(calls), *arguments)


SECRET = "nobody could ever guess this one"  # noqa: S105 - the tests' own
HOOK = "https://crm.example/hook?token=hush"


def test_without_a_secret_notify_is_refused_at_once(ledger: Ledger, submitter: Producer):
    ran = submitter("--notify", HOOK)

    assert ran.code == ExitCode.MISCONFIGURED
    assert "CALLSCRIBE_NOTIFY_SECRET" in ran.err
    assert ledger.transact(lambda c: list_submission_ids(c, 1)) == []


@pytest.mark.parametrize("url", ["ftp://crm.example/hush", "https://me:hush@crm.example/"])
def test_a_receiver_that_cannot_be_is_refused_and_not_quoted(
    ledger: Ledger, submitter: Producer, monkeypatch: pytest.MonkeyPatch, url: str
):
    monkeypatch.setenv("CALLSCRIBE_NOTIFY_SECRET", SECRET)

    ran = submitter("--notify", url)

    assert ran.code == ExitCode.USAGE
    assert "hush" not in ran.err
    assert ledger.transact(lambda c: list_submission_ids(c, 1)) == []


def test_status_says_how_far_a_receiver_was_told_and_not_its_url(
    ledger: Ledger, producer: Producer, submitter: Producer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CALLSCRIBE_NOTIFY_SECRET", SECRET)
    monkeypatch.setenv("CALLSCRIBE_NOTIFY_HOSTS", "crm.example")
    submitter("--notify", HOOK)
    (delivery,) = ledger.transact(
        lambda c: events.claim_events(c, limit=1, per_receiver=1, busy_receivers=(), lease_s=60)
    )
    ledger.transact(lambda c: events.record_refusal(c, delivery, "HTTP 503"))

    people, scripts = producer("status"), producer("status", "--json")

    assert delivery.url == HOOK
    assert "crm.example · 1 waiting · HTTP 503" in " ".join(people.out.split())
    told = json.loads(scripts.out)["notified"]
    assert told == {"host": "crm.example", "events": {"waiting": 1}, "error": "HTTP 503"}
    assert "hush" not in people.out + scripts.out + people.err


def test_whoever_is_forgotten_is_in_no_table_and_can_be_looked_for(
    ledger: Ledger, producer: Producer
):
    added(ledger, recording("a", call=CallInfo(call_id="ACD-20431", agent="ann")))
    assert "recordings: text in 1 row" in producer("forget", "--check", "ACD-20431").out
    assert producer("forget", "--check", "ACD-20431").code == ExitCode.INCOMPLETE
    erased = producer("forget", "--call", "ACD-20431", "--yes")
    assert "Nothing found: it is in no table and in no file of the spool." in erased.out
    looked = producer("forget", "--check", "ACD-20431", "--json")
    assert (looked.code, json.loads(looked.out)) == (ExitCode.OK, [])


def test_a_check_erases_nothing_and_stands_alone(producer: Producer):
    assert producer("forget", "--check", "x", "--yes").code == ExitCode.USAGE
    assert producer("forget", "--check", "x", "--call", "y").code == ExitCode.USAGE


def test_a_cursor_is_of_what_it_was_first_used_for(
    ledger: Ledger, producer: Producer, tmp_path: Path
):
    to = submission(ledger)
    transcribed(ledger, utterance("agent", "hello"), to=to)
    cursor = tmp_path / "lake.cursor"
    export = ("export", "--format", "jsonl", "--out", str(tmp_path), "--cursor", str(cursor))
    assert producer(*export, str(to.id)).code == ExitCode.OK
    refused = producer(*export)
    assert refused.code == ExitCode.USAGE
    assert str(to.id) in refused.err
    assert producer(*export, str(to.id)).code == ExitCode.OK
    cursor.unlink()
    assert producer(*export).code == ExitCode.OK
    assert producer(*export, str(to.id)).code == ExitCode.USAGE


def test_a_dry_run_says_what_would_be_handed_in_and_hands_nothing_in(
    ledger: Ledger, producer: Producer, tmp_path: Path, monkeypatch
):
    monkeypatch.setenv("CALLSCRIBE_ROOTS", f"calls={tmp_path}")
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    (tmp_path / "b.wav").write_bytes(b"RIFF")
    manifest = tmp_path / "calls.csv"
    manifest.write_text("Call ID,file\nACD-1,a.wav\nACD-9,gone.wav\n")
    command = ("submit", str(tmp_path), "--manifest", str(manifest), "--dry-run")
    said = json.loads(producer(*command, "--json").out)
    assert [(f["file"], f["call"]["call_id"]) for f in said["files"]] == [
        ("a.wav", "ACD-1"),
        ("b.wav", None),
    ]
    assert {notice["code"] for notice in said["notices"]} >= {
        "manifest.unmatched-row",
        "manifest.unmatched-file",
    }
    plain = producer(*command)
    assert "2 files found. Nothing was submitted." in plain.err
    with ledger.connect() as connection:
        assert connection.execute(text("select count(*) from submissions")).scalar() == 0


def test_a_hold_is_placed_listed_respected_and_let_go(ledger: Ledger, producer: Producer):
    added(ledger, recording("a", call=CallInfo(call_id="ACD-20431", line="billing")))
    placed = json.loads(producer("hold", "ACD-20431", "--reason", "claim 77", "--json").out)
    assert [hold["reason"] for hold in placed] == ["claim 77"]
    assert "claim 77" in producer("hold").out
    spared = producer("forget", "--call", "ACD-20431", "--yes")
    assert spared.code == ExitCode.INCOMPLETE
    assert "[held] 1 recording on hold" in spared.err
    assert json.loads(producer("release", "ACD-20431", "--json").out)[0]["released_at"]
    assert json.loads(producer("hold", "--json").out) == []
    assert producer("release", "ACD-20431").code == ExitCode.NOTHING
    assert producer("forget", "--call", "ACD-20431", "--yes").code == ExitCode.OK


@pytest.mark.parametrize(
    "wrong", [("ACD-1",), ("--reason", "x"), ("ACD-1", "--line", "sales", "--reason", "x")]
)
def test_a_hold_that_makes_no_sense_is_refused(producer: Producer, wrong: tuple[str, ...]):
    assert producer("hold", *wrong).code == ExitCode.USAGE


def test_what_a_dump_brings_back_is_erased_again(
    ledger: Ledger, producer: Producer, tmp_path: Path, monkeypatch
):
    assert producer("restored").code == ExitCode.MISCONFIGURED
    monkeypatch.setenv("CALLSCRIBE_ERASURES", str(tmp_path / "erasures.jsonl"))
    added(ledger, recording("a", call=CallInfo(call_id="ACD-20431")))
    with ledger.connect() as connection:
        rows = [dict(row) for row in connection.execute(select(Recording.__table__)).mappings()]
    assert producer("forget", "--call", "ACD-20431", "--yes").code == ExitCode.OK
    back = {**rows[0], "submission_id": submission(ledger).id}
    ledger.transact(lambda c: c.execute(insert(Recording), [back]))
    assert json.loads(producer("restored", "--json").out)["erased"] == 1
    assert "ACD-20431" in producer("forget", "--call", "ACD-20431").out
    assert "1 recording erased again" in producer("restored", "--yes").out
    assert producer("forget", "--check", "ACD-20431").code == ExitCode.OK
