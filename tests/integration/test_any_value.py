"""Whatever is handed in, and whatever a release before let in, comes back out of every command."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from ops.local.servers import RedisServer
from producer.cli.exit_codes import ExitCode
from producer.export.files import export_files
from producer.export.incremental import write_changes
from schema.errors import ErrorCode
from schema.records import CallInfo
from schema.settings import load_settings
from schema.store.erasure import forget
from schema.store.erasure.traces import collect_needles, find_traces
from schema.store.intake import submissions
from schema.store.ledger import Ledger
from schema.store.read.progress import read_quality, read_talks
from schema.store.work import events
from schema.store.work.sweep import sweep
from schema.tables import Base
from schema.wire import QueueLengths
from tests.factories import added, quarantined, recording, submission, transcribed, utterance
from tests.integration.command import Producer, Ran
from workers.background.fleet_metrics import FleetFigures

#: An example runs twenty commands: to make it smaller would take as long as the suite.
HARD = settings(
    max_examples=int(os.environ.get("CALLSCRIBE_EXAMPLES", "4")),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=list(HealthCheck),
)

#: Texts as people, switches and attackers leave them; the last are no Unicode that has bytes.
ODD_TEXTS = [
    "",
    " ",
    "=cmd|' /C calc'!A0",
    "-1",
    "\x1b[31mred\x1b[0m",
    "<script>alert(1)</script>",
    "[bold]x[/bold][/]",
    "'; drop table recordings; --",
    "%s%d{}{0}",
    "a\x00b",
    "\u202egnp.exe",
    "\u2028\u2029\x85",
    "\ufeffx",
    "e\u0301",
    "\U0001f600" * 200,
    "x" * 6_000,
    "\ud800",
    "\x7f\x80\xff",
]
texts = st.one_of(st.sampled_from(ODD_TEXTS), st.text(max_size=30))
#: What Postgres can hold: an earlier release refused nothing else.
stored_texts = texts.map(lambda said: said.replace("\0", "").encode(errors="ignore").decode())
names = st.binary(min_size=1, max_size=40).map(
    lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"_").lstrip(b".") or b"x"
)
dates = st.one_of(
    st.sampled_from(
        ["", "soon", "0001-01-01T00:00:00Z", "9999-12-31", "1777626000", "1777626000000", "-1"]
    ),
    st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(lambda moment: moment.isoformat()),
    st.integers(-(10**20), 10**20).map(str),
    texts,
)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)

#: Every command that reads what others wrote; of each the arguments that read the most.
COMMANDS = (
    ("status",),
    ("status", "--json"),
    ("status", "--all"),
    ("status", "--all", "--json"),
    ("search", "hello"),
    ("search", "hello", "--json"),
    ("export", "--format", "json,txt,srt,vtt,csv,html", "--out", "files", "--no-audio"),
    ("export", "--format", "jsonl,parquet", "--out", "lake", "--since", "1990-01-01"),
    ("export", "--format", "jsonl", "--out", "-", "--cursor", "cursor"),
    ("recheck",),
    ("recheck", "--json"),
    ("retry",),
    ("hold",),
    ("hold", "--json"),
    ("forget", "--older-than", "30d"),
    ("forget", "--older-than", "30d", "--json"),
    ("forget", "--older-than", "30d", "--yes"),
    ("doctor", "--json"),
)

#: How a command may end: anything but a bug of ours, and a wrong command line.
FINE = {ExitCode.OK, ExitCode.INCOMPLETE, ExitCode.NOTHING}


@pytest.fixture
def at_once(producer: Producer, redis_server: RedisServer, monkeypatch, tmp_path) -> Producer:
    """The command line, with a Redis that answers and roots that every example empties."""
    monkeypatch.setenv("CALLSCRIBE_REDIS_URL", redis_server.url)
    monkeypatch.setenv("CALLSCRIBE_ROOTS", f"calls={tmp_path / 'calls'}")
    return producer


def write_tone(path: Path, hz: int) -> None:
    samples = 0.3 * np.sin(2 * np.pi * hz * np.arange(8_000) / 8_000)
    with path.open("wb") as file:
        soundfile.write(file, samples, 8_000, format="WAV")


def empty(ledger: Ledger) -> None:
    tables = ", ".join(table.name for table in Base.metadata.sorted_tables)
    ledger.transact(lambda c: c.execute(text(f"truncate {tables}")))


def check(ran: Ran, arguments: tuple[str, ...]) -> None:
    assert "Traceback" not in ran.err, ran.err
    fine = FINE | ({ExitCode.MISCONFIGURED} if arguments[0] == "doctor" else set())
    assert ran.code in fine, (arguments, ran)
    assert "\x1b[31m" not in ran.out, arguments
    if "--json" in arguments:
        json.loads(ran.out)
    elif "-" in arguments:
        for line in ran.out.splitlines():
            json.loads(line)


def check_everything(producer: Producer, ledger: Ledger, submission_id: Any) -> None:
    """Read the ledger by every command, and by what runs by itself."""
    for arguments in COMMANDS:
        check(producer(*arguments), arguments)
    for arguments in (
        ("forget", "--submission", str(submission_id)),
        ("forget", "--submission", str(submission_id), "--yes", "--json"),
    ):
        ran = producer(*arguments)
        check(ran, arguments)
    with ledger.connect() as connection:
        assert connection.execute(text("select count(*) from recordings")).scalar_one() == 0
        assert connection.execute(text("select count(*) from notices")).scalar_one() == 0
    for path in ("files", "lake", "cursor"):
        shutil.rmtree(path, ignore_errors=True)
        Path(path).unlink(missing_ok=True)


def run_by_itself(ledger: Ledger) -> None:
    """Sweep, scrape and notify, as a reducer and the metrics process do."""
    swept = ledger.transact(
        lambda c: sweep(c, queue_lengths=QueueLengths(0, 0), high_water=9, interval_s=15)
    )
    assert swept is not None
    registry = CollectorRegistry()
    figures = FleetFigures(
        ledger, SimpleNamespace(queue_lengths=lambda: QueueLengths(0, 0)), load_settings()
    )
    registry.register(figures)
    assert b"callscribe" in generate_latest(registry)
    ledger.transact(
        lambda c: events.claim_events(c, limit=16, per_receiver=4, busy_receivers=(), lease_s=60)
    )


@HARD
@given(data=st.data())
def test_what_is_handed_in_comes_back_out_of_every_command(
    at_once: Producer, ledger: Ledger, tmp_path: Path, data: st.DataObject
):
    empty(ledger)
    calls = tmp_path / "calls"
    shutil.rmtree(calls, ignore_errors=True)
    calls.mkdir()
    rows = io.StringIO(newline="")
    writer = csv.writer(rows)
    headers = ["file", "call_id", "started_at", "agent", "line", data.draw(texts)]
    writer.writerow(headers)
    for number, name in enumerate(data.draw(st.lists(names, min_size=1, max_size=3, unique=True))):
        path = calls / os.fsdecode(name + b".wav")
        write_tone(path, hz=300 + number)
        if data.draw(st.booleans()):
            sidecar = {"agent": data.draw(json_values), "call_id": data.draw(json_values)}
            sidecar[data.draw(texts)] = data.draw(json_values)
            Path(os.fsdecode(os.fsencode(path)[:-4] + b".json")).write_text(json.dumps(sidecar))
        listed = data.draw(st.sampled_from([path.name, data.draw(texts)]))
        values = [data.draw(texts), data.draw(dates), *(data.draw(texts) for _ in range(3))]
        writer.writerow([listed, *values])
    manifest = tmp_path / "calls.csv"
    manifest.write_bytes(rows.getvalue().encode(errors=data.draw(st.sampled_from(ENCODERS))))

    ran = at_once("submit", str(calls), "--manifest", str(manifest), "--json")

    if ran.code == ExitCode.USAGE:  # The manifest as a whole is none, and says so.
        assert "manifest.invalid" in ran.err
        ran = at_once("submit", str(calls), "--json")
    check(ran, ("submit", "--json"))
    submitted = json.loads(ran.out)
    files = list(calls.glob("*.wav")) + list(calls.glob(".*.wav"))
    assert submitted["recordings"]["total"] == len(files)
    assert not submitted["recordings"].get("quarantined")
    run_by_itself(ledger)
    check_everything(at_once, ledger, submitted["submission"])


ENCODERS = ["surrogatepass", "replace", "ignore"]

#: SQL: put a value into each place of a ledger into which an earlier release let anything.
SPOIL = (
    "update recordings set call_id = :text where :which < 3",
    "update recordings set agent = :text, customer = :text, line = :text, direction = :text",
    "update recordings set attributes = jsonb_build_object(cast(:text as text), :text)"
    " where :which <> 1",
    "update recordings set started_at = cast(:moment as timestamptz) where :which <> 2",
    "update recordings set name = :name",
    "update recordings set error_message = :text where state = 'quarantined'",
    "update recordings set flags = jsonb_build_array(cast(:text as text)) where :which <> 3",
    "update notices set subject = :text, message = :text",
    "update submissions set title = :text",
    "update utterances set text = :said, speaker = :text",
)

#: And what no release wrote: JSON that is sound, and means nothing here.
SPOIL_JSON = (
    "update transcripts set gaps = cast(:json as jsonb)",
    "update transcripts set coverage = cast(:json as jsonb)",
    "update transcripts set repairs = cast(:json as jsonb)",
    "update transcripts set languages = cast(:json as jsonb)",
    "update transcripts set talk = cast(:json as jsonb)",
    "update transcripts set flags = cast(:json as jsonb)",
    "update utterances set words = cast(:json as jsonb)",
    "update results set body = cast(:json as json)",
)


@pytest.mark.parametrize("statement", SPOIL_JSON)
@pytest.mark.parametrize(
    "spoilt", ["{}", "[]", "[[1]]", '[["a", "1", "2", 0.5]]', '"x"', "null", "7"]
)
def test_a_row_that_no_release_wrote_costs_its_own_recording(
    ledger: Ledger, statement: str, spoilt: str, tmp_path: Path
):
    to = submission(ledger)
    bad = transcribed(ledger, utterance("agent", "hello"), to=to, call=CallInfo(call_id="bad"))
    with ledger.engine.begin() as connection:
        try:
            connection.execute(text(statement), {"json": spoilt})
        except IntegrityError:
            return  # The ledger itself refuses it.
    good = transcribed(ledger, utterance("agent", "well met"), to=to, said=["good", "evening"])
    ledger.transact(lambda c: submissions.seal_submission(c, to.id))

    delivered = export_files(ledger, to.id, tmp_path, ["json", "csv", "html"])
    streamed = write_changes(ledger, (written := []).append)
    with ledger.connect() as connection:
        read_talks(connection, to.id)
        read_quality(connection, to.id)
    needles = ledger.transact(lambda c: collect_needles(c, [bad]))

    assert delivered.recordings + len(delivered.errors) == 2
    assert streamed.recordings + len(streamed.errors) == 2
    assert good in {each.recording.id for each in written}
    for error in (*delivered.errors, *streamed.errors):
        assert error.code is ErrorCode.TRANSCRIPT_UNREADABLE
    erased = ledger.transact(lambda c: forget.erase_recordings(c, [bad], lambda _: None))
    assert erased.recordings == 1
    assert ledger.transact(lambda c: find_traces(c, needles)) == []


moments = st.one_of(
    st.sampled_from(["-infinity", "infinity", "4713-01-01 BC", "0001-01-01", "294276-12-31"]),
    st.datetimes().map(lambda moment: moment.replace(tzinfo=UTC).isoformat()),
)


@HARD
@given(
    said=stored_texts,
    name=stored_texts,
    moment=moments,
    which=st.integers(0, 3),
    words=stored_texts,
)
@example(said="x" * 6_000, name="../../x", moment="-infinity", which=0, words="hello \x1b[31m")
@example(
    said="\x1b[31mred\x1b[0m",
    name="<script>alert(1)</script>",
    moment="7469-10-12T18:42:08.193926+00:00",
    which=2,
    words="\u202egnp.exe",
)
@example(said="[/]", name="", moment="infinity", which=0, words="")
def test_what_an_earlier_release_let_in_comes_back_out_of_every_command(
    at_once: Producer, ledger: Ledger, tmp_path: Path, said, name, moment, which, words
):
    empty(ledger)
    (tmp_path / "calls").mkdir(exist_ok=True)
    to = submission(ledger)
    old = CallInfo(started_at=datetime.now(UTC) - timedelta(days=90))
    transcribed(ledger, utterance("agent", "hello there"), to=to, call=old)
    added(ledger, recording("a", "b"), quarantined(), to=to)
    values = {"text": said, "name": name, "moment": moment, "which": which, "said": words}
    for statement in SPOIL:
        ledger.transact(lambda c, s=statement: c.execute(text(s), values))

    run_by_itself(ledger)
    check_everything(at_once, ledger, to.id)
