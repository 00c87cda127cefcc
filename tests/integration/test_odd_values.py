"""One odd value in the ledger costs itself alone, whoever reads many, and can be mended."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from producer.cli import doctor
from schema.records import CallInfo
from schema.search_query import parse_query
from schema.store.erasure import forget
from schema.store.intake import cancel, submissions
from schema.store.ledger import Ledger
from schema.store.read import recordings
from schema.store.read.search import Filters, search_utterances
from schema.store.work import events
from tests.factories import PROFILE, added, recording, submission

#: What switches, spreadsheets and databases write for none; and what a year's overflow makes.
ODD = [
    "0001-01-01T00:00:00+00:00",
    "0001-01-01T00:00:00+14:00",
    "4713-01-01T00:00:00+00:00 BC",
    "9999-12-31T23:59:59+00:00",
    "9999-12-31T23:59:59-12:00",
    "58440-05-01T00:00:00+00:00",
    "-infinity",
    "infinity",
]


def put(ledger: Ledger, moment: str, zone: str = "Asia/Tokyo") -> None:
    """Put a date into a recording that is stored, as an earlier release did."""

    def change(connection) -> None:
        connection.execute(text(f"set local timezone = '{zone}'"))
        connection.execute(text("update recordings set started_at = :m"), {"m": moment})

    ledger.transact(change)


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York", "UTC"])
@pytest.mark.parametrize("moment", ODD)
def test_a_stored_date_that_no_call_has_is_read_as_none(ledger: Ledger, moment, zone):
    added(ledger, recording("a", call=CallInfo(call_id="x")))
    put(ledger, moment)

    def look(connection):
        connection.execute(text(f"set local timezone = '{zone}'"))
        raw = connection.execute(text("select started_at from recordings")).scalar_one()
        return (
            raw,
            recordings.select_recordings(connection, text("true")),
            forget.find_recordings(connection, calls=["x"]),
        )

    raw, [summary], _ = ledger.transact(look)
    assert raw.astimezone(UTC).year in (2, 9998)
    assert summary.call.started_at is None


@pytest.mark.parametrize("moment", ODD)
def test_it_neither_keeps_a_call_for_ever_nor_erases_it_before_its_time(ledger: Ledger, moment):
    added(ledger, recording("a"))
    put(ledger, moment)
    ledger.transact(lambda c: c.execute(text("update recordings set state = 'done'")))
    yesterday, tomorrow = (
        ledger.transact(lambda c, d=day: c.execute(text(f"select now() + interval '{d}'")).scalar())
        for day in ("-1 day", "1 day")
    )
    assert ledger.transact(lambda c: forget.preview_retention(c, yesterday)).recordings == 0
    assert ledger.transact(lambda c: forget.preview_retention(c, tomorrow)).recordings == 1


@pytest.mark.parametrize("moment", ODD)
def test_every_receiver_is_told_and_search_goes_on(ledger: Ledger, moment):
    def opened(key: str, url: str):
        def open_one(connection):
            receiver = events.find_or_add_receiver(connection, url, url)
            return submissions.open_submission(
                connection, key, "calls", PROFILE, force=False, receiver=receiver
            )

        return ledger.transact(open_one)

    for key, url in (("one", "https://one.example/"), ("two", "https://two.example/")):
        to = opened(key, url)
        added(ledger, recording(key), to=to)
        ledger.transact(lambda c, to=to: cancel.cancel_submission(c, to.id))
    put(ledger, moment)
    told = ledger.transact(
        lambda c: events.claim_events(c, limit=16, per_receiver=4, busy_receivers=(), lease_s=60)
    )
    assert len(told) == 2
    query = parse_query("hello")
    assert ledger.transact(lambda c: search_utterances(c, query, Filters(), limit=5)) == []


def test_what_is_out_of_bounds_is_left_out_and_the_rest_of_the_batch_kept(ledger: Ledger):
    odd = CallInfo(
        call_id="x" * 6_000,
        started_at=datetime(1, 1, 1, tzinfo=UTC),
        agent="ann",
        attributes={"queue": "sales"},
    )
    to = submission(ledger)
    added(ledger, recording("a"), recording("b", call=odd), recording("c"), to=to)
    found = ledger.transact(lambda c: recordings.select_recordings(c, text("true")))
    assert len(found) == 3
    [bad] = [each for each in found if each.call.agent == "ann"]
    assert bad.call == CallInfo(agent="ann", attributes={"queue": "sales"})
    assert set(bad.flags) == {"left-out:call_id", "left-out:started_at"}


def test_the_doctor_names_odd_dates_and_takes_them_away(ledger: Ledger):
    added(ledger, recording("a"), recording("b"), recording("c"))
    put(ledger, "0001-01-01T00:00:00+00:00")
    ledger.transact(
        lambda c: c.execute(
            text(
                "update recordings set started_at = now()"
                " where id = (select min(id::text)::uuid from recordings)"
            )
        )
    )
    assert "2 recordings" in doctor._values(ledger).detail
    assert "--fix" in doctor._values(ledger).remedy
    assert doctor.fix(ledger).detail.startswith("dates of 2 recordings")
    assert doctor._values(ledger).verdict is doctor.CheckVerdict.OK
    with ledger.connect() as connection:
        flags = connection.execute(text("select flags from recordings where started_at is null"))
        assert [row.flags for row in flags] == [["left-out:started_at"]] * 2
    assert doctor.fix(ledger).detail.startswith("dates of 0 recordings")
