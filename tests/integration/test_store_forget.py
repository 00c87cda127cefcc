"""A forgotten recording leaves nothing, and its twins lose nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

import pytest
from sqlalchemy import Connection, func, inspect, select, text

from schema.errors import BadRequest, LeaseLost
from schema.records import CallInfo, Location, NewRecording, Notice
from schema.settings import SPOOL_ROOT
from schema.span import Span
from schema.states import RecordingState
from schema.store.erasure import forget
from schema.store.erasure.forget import ErasureResult
from schema.store.erasure.traces import Needle, collect_needles, find_traces
from schema.store.intake import submissions as intake
from schema.store.ledger import Ledger
from schema.store.read import recordings
from schema.store.read.progress import find_submission
from schema.store.read.transcripts import read_transcript
from schema.store.work import events, reduces
from schema.store.work import segments as work
from schema.tables import Base, Recording, ResultRow, SegmentRow
from schema.transcript import Draft, Gap, Seam, SeamRule, Utterance
from schema.words import Word
from tests.factories import PROFILE, added, quarantined, recording, result, submission

WORD = Word("secret", 0, 500, 0.9)
DRAFT = Draft(
    "en",
    (),
    500,
    500,
    (Utterance(0, "agent", "secret", (WORD,)),),
    (Seam(0, 0, SeamRule.MIDPOINT, 250, 0.3, (WORD,), ()),),
    (Gap(0, "agent", Span(500, 900), "engine.failed"),),
)


def forgotten(ledger: Ledger, *ids: UUID, removed: list[bytes] | None = None) -> ErasureResult:
    remove = [].append if removed is None else removed.append
    return ledger.transact(lambda c: forget.erase_recordings(c, ids, remove))


def claimed(ledger: Ledger, dispatch):
    return ledger.run_statement(
        lambda c: work.claim_segment(c, dispatch.message, owner="w", lease_s=60)
    )


def transcribed(
    ledger: Ledger,
    item: NewRecording,
    to: intake.OpenSubmission,
    draft: Draft = DRAFT,
    said: Sequence[str] = ("secret",),
) -> UUID:
    """Take a recording of one segment to its transcript; return its id."""
    (dispatch,) = added(ledger, item, to=to).dispatches
    if dispatch.task == "transcribe_segment":
        held = claimed(ledger, dispatch)
        dispatch = ledger.run_statement(
            lambda c: work.finish_segment(c, held, result(*said))
        ).reduce
    held = ledger.run_statement(
        lambda c: reduces.claim_reduce(c, dispatch.message, owner="r", lease_s=60)
    )
    segments = ledger.transact(lambda c: reduces.read_ended_segments(c, held.recording_id))
    ledger.transact(lambda c: reduces.store_transcript(c, held, segments, draft))
    return held.recording_id


def seal(ledger: Ledger, *submissions: intake.OpenSubmission) -> None:
    for each in submissions:
        ledger.transact(lambda c, s=each: intake.seal_submission(c, s.id))


def row_counts(ledger: Ledger) -> dict[str, int]:
    with ledger.connect() as connection:
        return {
            table.name: connection.scalar(select(func.count()).select_from(table))
            for table in Base.metadata.sorted_tables
        }


def copied(item: NewRecording, name: bytes = b"ab/copy.flac") -> NewRecording:
    return replace(item, audio=Location(SPOOL_ROOT, name))


def test_the_only_recording_of_a_ledger_leaves_no_row(ledger: Ledger):
    mine = submission(ledger)
    item = copied(recording("a", call=CallInfo(call_id="c1")))
    found = transcribed(ledger, item, mine)
    notice = Notice("manifest.unmatched-file", item.source.name, "no row")
    ledger.transact(lambda c: intake.add_notices(c, mine.id, [notice]))
    seal(ledger, mine)
    removed: list[bytes] = []

    done = forgotten(ledger, found, removed=removed)

    assert (done.recordings, done.results, done.copies, done.submissions) == (1, 1, 1, 1)
    assert removed == [b"ab/copy.flac"]
    assert set(row_counts(ledger).values()) == {0}


def test_a_twin_keeps_its_words_and_the_copy_it_is_read_from(ledger: Ledger):
    mine, theirs = submission(ledger), submission(ledger)
    found = transcribed(ledger, copied(recording("same")), mine)
    twin = transcribed(ledger, copied(recording("same")), theirs)
    seal(ledger, mine, theirs)
    removed: list[bytes] = []

    done = forgotten(ledger, found, removed=removed)

    assert (done.recordings, done.results, done.copies) == (1, 0, 0)
    assert removed == []
    with ledger.connect() as connection:
        (left,) = recordings.list_recordings(connection, theirs.id)
        assert left.id == twin
        assert read_transcript(connection, left).utterances == DRAFT.utterances
        (segment,) = reduces.read_ended_segments(connection, twin)
    assert segment.result == result("secret")


def test_twins_forgotten_together_take_their_words_with_them(ledger: Ledger):
    mine = submission(ledger)
    both = [transcribed(ledger, recording("same"), mine) for _ in range(2)]

    assert forgotten(ledger, *both).results == 1


def test_a_worker_at_it_stores_nothing(ledger: Ledger):
    (dispatch,) = added(ledger, recording("a")).dispatches
    held = claimed(ledger, dispatch)

    forgotten(ledger, held.recording_id)

    assert not ledger.run_statement(lambda c: work.renew_lease(c, held, lease_s=60))
    with pytest.raises(LeaseLost):
        ledger.run_statement(lambda c: work.finish_segment(c, held, result("late")))
    assert row_counts(ledger)["results"] == 0


def test_who_waited_for_the_decode_of_a_forgotten_one_is_woken(ledger: Ledger):
    (dispatch,) = added(ledger, recording("same")).dispatches
    (joined,) = added(ledger, recording("same")).dispatches
    held = claimed(ledger, dispatch)

    (woken,) = forgotten(ledger, held.recording_id).dispatches

    assert woken.message.id == joined.message.id
    assert claimed(ledger, woken) is not None


def test_words_that_were_known_and_are_forgotten_are_decoded_again(ledger: Ledger):
    mine = submission(ledger)
    force = submission(ledger, force=True)
    (waiting,) = added(ledger, recording("same"), to=force).dispatches
    found = transcribed(ledger, recording("same"), mine)
    ledger.transact(lambda c: c.execute(text("update segments set force = false")))
    with ledger.connect() as connection:
        waits = connection.scalar(
            select(SegmentRow.dispatch_token).where(SegmentRow.id == waiting.message.id)
        )
    held = claimed(ledger, replace(waiting, message=replace(waiting.message, token=waits)))
    assert held.is_cached

    forgotten(ledger, found)

    with pytest.raises(LeaseLost):
        ledger.run_statement(lambda c: work.finish_segment(c, held, None))


def test_a_copy_stays_while_a_submission_is_open_that_may_use_it(ledger: Ledger):
    mine = submission(ledger)
    found = transcribed(ledger, copied(recording("a")), mine)
    removed: list[bytes] = []

    done = forgotten(ledger, found, removed=removed)

    assert (done.copies, done.remaining_copies, removed) == (0, 1, [])
    assert done.submissions == 0, "it is still open"


def test_a_copy_that_cannot_be_removed_erases_nothing(ledger: Ledger):
    mine = submission(ledger)
    found = transcribed(ledger, copied(recording("a")), mine)
    seal(ledger, mine)
    before = row_counts(ledger)

    def refuse(path: bytes) -> None:
        raise PermissionError(path)

    with pytest.raises(PermissionError):
        ledger.transact(lambda c: forget.erase_recordings(c, [found], refuse))

    assert row_counts(ledger) == before


def test_recordings_are_found_by_id_call_and_submission(ledger: Ledger):
    mine = submission(ledger)
    call = CallInfo(call_id="ACD-1")
    added(ledger, recording("a", call=call), recording("b"), quarantined(), to=mine)
    with ledger.connect() as connection:
        everything = recordings.list_recordings(connection, mine.id)
        by_call = forget.find_recordings(connection, calls=["ACD-1"])
        by_id = forget.find_recordings(connection, recordings=[str(by_call[0].id)[:13].upper()])
        all_of_it = forget.find_recordings(connection, submissions=[mine.id], calls=["ACD-1"])

    assert [r.call.call_id for r in by_call] == ["ACD-1"]
    assert by_id == by_call
    assert {r.id for r in all_of_it} == {r.id for r in everything}
    assert len(all_of_it) == len(everything)


@pytest.mark.parametrize("wrong", [{"calls": ["nobody"]}, {"recordings": ["ffff"]}])
def test_what_is_not_there_is_said(ledger: Ledger, wrong):
    with ledger.connect() as connection, pytest.raises(BadRequest):
        forget.find_recordings(connection, **wrong)


def test_every_table_is_reached(ledger: Ledger):
    """A new table must be thought of here: what it keeps of a recording has to go, too.

    What retention erased is kept, and names no recording.
    """
    with ledger.connect() as connection:
        tables = set(inspect(connection).get_table_names()) - {
            "alembic_version",
            "purges",
            "erasures",
        }

    assert tables == {
        "submissions",
        "notices",
        "recordings",
        "segments",
        "results",
        "transcripts",
        "utterances",
        "seams",
        "voices",
        "events",
        # Holds nothing of a recording: a URL, and how it fares.
        "receivers",
        # Nor this: a call that somebody held by its id, and why; it is let go of, not erased.
        "holds",
    }


def test_what_a_receiver_is_still_to_be_told_goes_with_its_recording(ledger: Ledger):
    def opened(connection: Connection) -> intake.OpenSubmission:
        receiver = events.find_or_add_receiver(connection, "https://crm.example/", "crm.example")
        return intake.open_submission(
            connection, "key", "calls", PROFILE, force=False, receiver=receiver
        )

    mine = ledger.transact(opened)
    added(ledger, quarantined(), quarantined(), to=mine)
    seal(ledger, mine)
    ledger.transact(events.add_submission_events)
    with ledger.connect() as connection:
        first, second = connection.scalars(select(Recording.id))

    forgotten(ledger, first)
    assert row_counts(ledger)["events"] == 2, "the other recording's, and the submission's"
    forgotten(ledger, second)
    assert set(row_counts(ledger).values()) == {0, 1}
    assert row_counts(ledger)["receivers"] == 1


def test_a_quarantined_recording_is_forgotten_too(ledger: Ledger):
    mine = submission(ledger)
    added(ledger, quarantined(), to=mine)
    seal(ledger, mine)
    with ledger.connect() as connection:
        (bad,) = connection.scalars(
            select(Recording.id).where(Recording.state == RecordingState.QUARANTINED)
        )

    forgotten(ledger, bad)

    assert set(row_counts(ledger).values()) == {0}


def test_words_go_by_the_key_that_they_are_stored_by(ledger: Ledger):
    """A smaller model, or a worker of another release, stored them by another key than planned."""
    to = submission(ledger)
    (dispatch,) = added(ledger, recording("a"), to=to).dispatches
    held = claimed(ledger, dispatch)
    ledger.run_statement(
        lambda c: work.finish_segment(c, replace(held, decode_key="another"), result("secret"))
    )
    assert forgotten(ledger, held.recording_id).results == 1
    with ledger.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(ResultRow)) == 0


def test_no_row_of_any_table_has_anything_left(ledger: Ledger):
    ann = Location("calls", b'acme/ann "secret" smith.wav')
    mine = replace(recording("a", call=CallInfo(call_id="ACD-77")), source=ann, audio=ann)
    title = '/srv/calls/acme/ann "secret" smith.wav, /srv/calls/others'
    to = ledger.transact(lambda c: intake.open_submission(c, "key", title, PROFILE, force=False))
    notices = [
        Notice("audio.flag", f"/srv/calls/{ann.name}", "it begins late"),
        Notice("manifest.duplicate", "calls.csv", f"lines 1 and 2 both describe {ann.name}"),
        Notice("manifest.unmatched-row", "calls.csv, line 7", "ACD-77 names no file"),
        Notice("sidecar.invalid", '/srv/calls/acme/ann "secret" smith.json', "it is no JSON"),
        Notice("scan.left-out", "/srv/calls", "2 files are no audio"),
        Notice("sidecar.invalid", '/srv/calls/acme/ann "secret" smith-2.json', "another's"),
    ]
    ledger.transact(lambda c: intake.add_notices(c, to.id, notices))
    words = tuple(Word(f"secret{n}", 100 * n, 100 * n + 90, 0.9) for n in range(20))
    said = " ".join(word.text for word in words)
    draft = replace(DRAFT, utterances=(Utterance(0, "agent", said, words),))
    gone = transcribed(ledger, mine, to, draft=draft, said=[word.text for word in words])
    other = transcribed(ledger, recording("b"), to)
    needles = ledger.transact(lambda c: collect_needles(c, [gone]))
    before = ledger.transact(lambda c: find_traces(c, needles))
    assert {trace.kind for trace in before} == {"id", "name", "path", "call id", "words", "copy"}
    assert {"recordings", "segments", "results", "utterances", "notices", "submissions"} <= {
        trace.table for trace in before
    }
    forgotten(ledger, gone)
    assert ledger.transact(lambda c: find_traces(c, needles)) == []
    with ledger.connect() as connection:
        assert connection.scalars(select(Recording.id)).all() == [other]
        kept = connection.execute(text("select subject from notices")).scalars().all()
        assert kept == ["/srv/calls", '/srv/calls/acme/ann "secret" smith-2.json']
        assert connection.execute(text("select title from submissions")).scalar_one() == (
            "(erased), /srv/calls/others"
        )


@pytest.mark.parametrize(
    "asked",
    ["/srv/calls/Ann.wav", "call ann", "Call Ann Back", "我要退款", "ACD-77", "acd-77", "Ünal"],
)
def test_what_is_asked_for_is_found_in_whatever_form_a_table_has_it(ledger: Ledger, asked: str):
    """As text, as a path's bytes, and word by word as results have it."""
    mine = replace(
        recording("a", call=CallInfo(call_id="ACD-77", agent="Ünal")),
        source=Location("calls", b"/srv/calls/Ann.wav"),
    )
    transcribed(
        ledger, mine, submission(ledger), said=["call", "ann", "back", "我", "要", "退", "款"]
    )

    assert ledger.transact(lambda c: find_traces(c, [Needle("text", asked)]))
    assert not ledger.transact(lambda c: find_traces(c, [Needle("text", f"{asked} x")]))


def test_what_is_said_of_other_calls_stays(ledger: Ledger):
    """Names and ids that hold the erased call's are others'."""
    mine = replace(
        recording("a", call=CallInfo(call_id="ACD-1")), source=Location("calls", b"nn/call1.wav")
    )
    title = "/srv/nn/call1.wav, /srv/nn/mycall1.wav"
    to = ledger.transact(lambda c: intake.open_submission(c, "key", title, PROFILE, force=False))
    others = [
        Notice("manifest.unmatched-file", "/srv/nn/mycall1.wav", "it has no row"),
        Notice("manifest.unmatched-row", "calls.csv, line 3", "other-call1.wav names no file"),
        Notice("manifest.unmatched-row", "calls.csv, line 4", "ACD-10 names no file"),
        Notice("manifest.unmatched-row", "calls.csv, line 5", "ACD-1-2 names no file"),
    ]
    own = [
        Notice("audio.flag", "/srv/nn/call1.wav", "it begins late"),
        Notice("sidecar.invalid", "/srv/nn/call1.json", "it is no JSON"),
        Notice("manifest.unmatched-row", "calls.csv, line 6", "ACD-1 names no file"),
        Notice("manifest.duplicate", "calls.csv", "lines 1 and 2 both describe nn/call1.wav."),
    ]
    ledger.transact(lambda c: intake.add_notices(c, to.id, [*others, *own]))
    gone = transcribed(ledger, mine, to)
    transcribed(ledger, recording("b"), to)

    forgotten(ledger, gone)

    with ledger.connect() as connection:
        kept = connection.execute(text("select subject, message from notices order by id")).all()
        title = connection.execute(text("select title from submissions")).scalar_one()
    assert [tuple(each) for each in kept] == [(each.subject, each.message) for each in others]
    assert title == "(erased), /srv/nn/mycall1.wav"


@pytest.mark.parametrize("prefix", ["", " ", "1", "abc"])
def test_less_than_four_letters_name_nobodys_recording(ledger: Ledger, prefix: str):
    transcribed(ledger, recording("a"), submission(ledger))
    with ledger.connect() as connection:
        with pytest.raises(BadRequest, match="4 of its characters"):
            forget.find_recordings(connection, recordings=[prefix])
        with pytest.raises(BadRequest, match="4 of its characters"):
            find_submission(connection, prefix)


@pytest.mark.parametrize("name", ["alpha-1", "ALPHA-1", "may/alpha-1.wav"])
def test_a_name_is_not_found_in_a_longer_one(ledger: Ledger, name: str):
    """Neither as text nor in a path's bytes; what is longer is another call."""
    needle = Needle("text", name)
    for longer in ("alpha-10", "alpha-12", "xalpha-1", "alpha-1a"):
        call = CallInfo(call_id=longer)
        path = Location("calls", f"/srv/may/{longer}.wav".encode())
        added(ledger, replace(recording("a", call=call), source=path, audio=path))
        assert not needle.is_in(path.path)
    assert ledger.transact(lambda c: find_traces(c, [needle])) == []

    path = Location("calls", b"/srv/may/alpha-1.wav")
    call = CallInfo(call_id="alpha-1")
    added(ledger, replace(recording("a", call=call), source=path, audio=path))
    assert [trace.rows for trace in ledger.transact(lambda c: find_traces(c, [needle]))] == [1]
    assert Needle("text", "alpha-1").is_in(path.path)


def test_words_that_only_a_result_has_are_looked_for(ledger: Ledger):
    """A reducer writes marks and numbers: its words are not those that a worker heard."""
    heard = ["two", "hundred", "and", "ten", "pounds", "back"]
    gone = transcribed(ledger, recording("a"), submission(ledger), said=heard)

    needles = ledger.transact(lambda c: collect_needles(c, [gone]))

    assert Needle("words", " ".join(heard)) in needles


def test_who_shares_the_audio_is_named_and_keeps_its_words(ledger: Ledger):
    to = submission(ledger)
    gone = transcribed(ledger, recording("a"), to)
    twin = transcribed(ledger, recording("a"), to)
    assert ledger.transact(lambda c: forget.find_same_audio(c, [gone])) == [twin]
    assert ledger.transact(lambda c: forget.find_same_audio(c, [gone, twin])) == []
    done = forgotten(ledger, gone)
    assert (done.results, done.shared_ids) == (0, [twin])
    assert forgotten(ledger, twin).shared_ids == []
