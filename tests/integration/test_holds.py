"""What is held survives, what was erased stays erased: in any order, across restores of dumps."""

from __future__ import annotations

import fcntl
import json
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import Connection, select, text

from producer.erasure.holds import apply_register, place_hold, release_holds
from producer.erasure.retention import run_retention
from schema.erasure_register import ErasedRecording, ErasureRegister
from schema.errors import BadRequest, Misconfigured
from schema.records import CallInfo
from schema.store.erasure import forget, holds
from schema.store.ledger import Ledger
from schema.tables import Base, Recording
from tests.factories import added, recording

CALLS = ("ACD-1", "ACD-2", "ACD-3")
LINES = ("sales", "billing")


def hand_in(ledger: Ledger, call_id: str, line: str) -> UUID:
    """Enter a recording whose work has ended."""
    digest = recording("x").content_digest
    added(ledger, recording(digest, call=CallInfo(call_id=call_id, line=line)))
    with ledger.connect() as connection:
        known = "select id from recordings order by created_at desc, id limit 1"
        recording_id = (
            connection.execute(
                text("select recording_id from segments where pcm_digest = :d"), {"d": digest}
            ).scalar()
            or connection.execute(text(known)).scalar_one()
        )
    ledger.transact(
        lambda c: c.execute(text("update recordings set state = 'done', open_segments = 0"))
    )
    return UUID(str(recording_id))


def erase(ledger: Ledger, ids: list[UUID], register: ErasureRegister | None = None) -> Any:
    forgotten = ledger.transact(lambda c: forget.erase_recordings(c, ids, lambda _: None, register))
    forget.confirm_erasure(register, forgotten)
    return forgotten


def retain(ledger: Ledger, register: ErasureRegister | None = None) -> Any:
    """Let retention erase whatever is older than an hour to come."""
    with ledger.connect() as connection:
        before = connection.execute(text("select now() + interval '1 hour'")).scalar_one()
    return run_retention(ledger, before, lambda _: None, lambda _: None, register=register)


def dump(ledger: Ledger) -> dict[str, list[dict[str, Any]]]:
    """Return every row of every table, as a dump has it."""
    with ledger.connect() as connection:
        return {
            table.name: [dict(row) for row in connection.execute(select(table)).mappings()]
            for table in Base.metadata.sorted_tables
        }


def restore(ledger: Ledger, rows: dict[str, list[dict[str, Any]]]) -> None:
    """Put every table in the state of a dump; no trigger writes what the dump has."""

    def put(connection: Connection) -> None:
        names = ", ".join(rows)
        connection.execute(text(f"truncate {names}"))
        connection.execute(text("set local session_replication_role = replica"))
        for table in Base.metadata.sorted_tables:
            if rows[table.name]:
                connection.execute(table.insert(), rows[table.name])

    ledger.transact(put)


@pytest.fixture
def register(tmp_path: Path) -> ErasureRegister:
    return ErasureRegister(tmp_path / "register.jsonl")


def present(ledger: Ledger) -> set[UUID]:
    with ledger.connect() as connection:
        return set(connection.scalars(select(Recording.id)))


def test_what_is_held_is_spared_and_named_and_goes_once_it_is_let_go(ledger: Ledger):
    kept, other = hand_in(ledger, "ACD-1", "sales"), hand_in(ledger, "ACD-2", "sales")
    place_hold(ledger, None, call_id="ACD-1", reason="claim 77")
    done = erase(ledger, [kept, other])
    assert (done.recordings, done.held_ids) == (1, [kept])
    assert retain(ledger).recordings == 0
    with ledger.connect() as connection:
        now = connection.execute(text("select now() + interval '1 hour'")).scalar_one()
        old = forget.preview_retention(connection, now)
        assert (old.recordings, old.held_recordings) == (0, 1)
    [released] = release_holds(ledger, None, "ACD-1")
    assert released.reason == "claim 77"
    assert retain(ledger).recordings == 1
    assert present(ledger) == set()


def test_a_line_that_is_held_holds_what_is_handed_in_later(ledger: Ledger):
    place_hold(ledger, None, line="billing", reason="audit")
    kept = hand_in(ledger, "ACD-3", "billing")
    assert erase(ledger, [kept]).held_ids == [kept]


def test_nothing_is_let_go_by_a_name_that_is_not_held(ledger: Ledger):
    hold = place_hold(ledger, None, call_id="ACD-1", reason="claim")
    with pytest.raises(BadRequest, match="nothing is held"):
        release_holds(ledger, None, "ACD-9")
    assert release_holds(ledger, None, str(hold.id)[:8])[0].id == hold.id


def test_a_restored_ledger_is_put_right_once_somebody_says_so(
    ledger: Ledger, register: ErasureRegister
):
    gone, kept = hand_in(ledger, "ACD-1", "sales"), hand_in(ledger, "ACD-2", "sales")
    before = dump(ledger)
    erase(ledger, [gone], register)
    hold = place_hold(ledger, register, call_id="ACD-2", reason="claim")
    restore(ledger, before)
    assert present(ledger) == {gone, kept}
    apply = partial(apply_register, ledger, register, lambda _: None)
    said = apply(really=False)
    assert (said.erased_recordings, said.placed_holds, present(ledger)) == (1, 1, {gone, kept})
    apply(really=True)
    assert present(ledger) == {kept}
    with ledger.connect() as connection:
        assert holds.list_active_holds(connection) == [hold]
    again = apply(really=True)
    assert (again.erased_recordings, again.placed_holds, again.released_holds) == (0, 0, 0)


def test_a_hold_that_the_register_does_not_know_is_never_let_go(
    ledger: Ledger, register: ErasureRegister
):
    """It was placed on a host that names no register, and what it holds may have no other copy."""
    kept = hand_in(ledger, "ACD-1", "sales")
    hold = place_hold(ledger, None, call_id="ACD-1", reason="claim")
    register.note_erased(register.note_erasing([ErasedRecording(UUID(int=1), "other", None)]))
    done = apply_register(ledger, register, lambda _: None, really=True)
    assert (done.erased_recordings, done.released_holds) == (0, 0)
    with ledger.connect() as connection:
        assert holds.list_active_holds(connection) == [hold]
    assert erase(ledger, [kept], register).held_ids == [kept]


def test_a_register_that_lacks_what_the_ledger_has_erased_is_told(
    ledger: Ledger, register: ErasureRegister, tmp_path: Path
):
    """It is another one, or an older copy of it."""
    gone = hand_in(ledger, "ACD-1", "sales")
    place_hold(ledger, register, call_id="ACD-9", reason="claim")
    older = tmp_path / "older"
    older.write_bytes(register._path.read_bytes())
    erase(ledger, [gone], register)

    assert apply_register(ledger, register, lambda _: None, really=False).unknown_erasures == 0
    assert (
        apply_register(
            ledger, ErasureRegister(older), lambda _: None, really=False
        ).unknown_erasures
        == 1
    )
    assert (
        apply_register(ledger, ErasureRegister(older), lambda _: None, really=True).unknown_erasures
        == 1
    )


def test_a_register_that_another_process_keeps_is_waited_for_and_named(
    register: ErasureRegister, monkeypatch: pytest.MonkeyPatch
):
    register.note_erasing([])
    monkeypatch.setattr("schema.erasure_register._LOCK_S", 0.1)
    with register._path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Misconfigured, match="another process has kept it"):
            register.note_erasing([])
    register.note_erasing([])


def test_who_reads_the_register_learns_no_call_that_was_erased(
    ledger: Ledger, register: ErasureRegister
):
    gone = hand_in(ledger, "ACD-1", "sales")
    erase(ledger, [gone], register)
    written = register._path.read_text()
    assert "ACD-1" not in written
    assert str(gone) not in written
    assert register._path.stat().st_mode & 0o077 == 0
    assert [set(json.loads(line)) for line in written.splitlines()] == [
        {"version", "key"},
        {"erasing", "note"},
        {"erased"},
    ]


def test_a_line_that_a_crash_broke_off_costs_itself_alone(register: ErasureRegister):
    ids = [ErasedRecording(UUID(int=number), "content", "ACD") for number in range(3)]
    register.note_erased(register.note_erasing(ids[:1]))
    with register._path.open("ab") as file:
        file.write(b'{"erasing": ["abc')
    register.note_erased(register.note_erasing(ids[1:2]))
    assert register.find_erased(ids).erased_ids == [each.id for each in ids[:2]]


def test_an_erasure_that_a_crash_ended_before_its_commit_takes_nothing_that_is_held(
    ledger: Ledger, register: ErasureRegister
):
    """The register has it, half noted; the ledger has the recordings, and one is held since."""
    kept, asked = hand_in(ledger, "ACD-1", "sales"), hand_in(ledger, "ACD-2", "sales")

    def crash(connection: Connection) -> None:
        forget.erase_recordings(connection, [kept, asked], lambda _: None, register)
        connection.rollback()

    ledger.transact(crash)
    place_hold(ledger, register, call_id="ACD-1", reason="claim")
    apply_register(ledger, register, lambda _: None, really=True)

    assert present(ledger) == {kept}


def test_a_register_that_cannot_be_written_stops_the_erasure(ledger: Ledger, tmp_path: Path):
    kept = hand_in(ledger, "ACD-1", "sales")
    with pytest.raises(Misconfigured, match="CALLSCRIBE_ERASURES"):
        erase(ledger, [kept], ErasureRegister(tmp_path / "nowhere" / "register"))
    assert present(ledger) == {kept}


class Orders(RuleBasedStateMachine):
    """Any order of handing in, holding, letting go, erasing, retention, dumps and restores."""

    ledger: Ledger
    directory: Path
    numbers = count()

    @initialize()
    def begin(self) -> None:
        self.register = ErasureRegister(self.directory / f"register-{next(self.numbers)}")
        self.register.note_erasing([])  # Of one that is empty nothing is applied.
        names = ", ".join(table.name for table in Base.metadata.sorted_tables)
        self.ledger.transact(lambda c: c.execute(text(f"truncate {names}")))
        self.facts: dict[UUID, tuple[str, str]] = {}
        self.erased: set[UUID] = set()
        self.held: set[str] = set()
        #: What must be there: handed in, in the present ledger's past, and not erased.
        self.here: set[UUID] = set()
        self.dumps: list[tuple[dict[str, Any], set[UUID]]] = []

    def is_held(self, recording_id: UUID) -> bool:
        return bool(set(self.facts[recording_id]) & self.held)

    @rule(call=st.sampled_from(CALLS), line=st.sampled_from(LINES))
    def hand_in(self, call: str, line: str) -> None:
        recording_id = hand_in(self.ledger, call, line)
        self.facts[recording_id] = call, line
        self.here.add(recording_id)

    @rule(subject=st.sampled_from(CALLS + LINES))
    def hold(self, subject: str) -> None:
        if subject not in self.held:
            named = {"call_id" if subject in CALLS else "line": subject}
            place_hold(self.ledger, self.register, reason="claim", **named)
            self.held.add(subject)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def let_go(self, data: st.DataObject) -> None:
        subject = data.draw(st.sampled_from(sorted(self.held)))
        release_holds(self.ledger, self.register, subject)
        self.held.remove(subject)

    @precondition(lambda self: self.here)
    @rule(data=st.data())
    def erase(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sets(st.sampled_from(sorted(self.here)), min_size=1))
        erase(self.ledger, sorted(chosen), self.register)
        self.note_erased(chosen)

    @rule()
    def retain(self) -> None:
        retain(self.ledger, self.register)
        self.note_erased(self.here)

    def note_erased(self, chosen: set[UUID]) -> None:
        gone = {each for each in chosen if not self.is_held(each)}
        self.erased |= gone
        self.here -= gone

    @rule()
    def dump(self) -> None:
        self.dumps.append((dump(self.ledger), set(self.here)))

    @precondition(lambda self: self.dumps)
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        rows, there = data.draw(st.sampled_from(self.dumps))
        restore(self.ledger, rows)
        apply_register(self.ledger, self.register, lambda _: None, really=True)
        self.here = there - self.erased

    @invariant()
    def what_is_there_is_what_was_not_erased(self) -> None:
        if hasattr(self, "here"):
            assert present(self.ledger) == self.here
            with self.ledger.connect() as connection:
                named = {hold.call_id or hold.line for hold in holds.list_active_holds(connection)}
            assert named == self.held


def test_no_order_brings_back_what_was_erased_or_erases_what_is_held(
    ledger: Ledger, tmp_path: Path
):
    case = type("Case", (Orders,), {"ledger": ledger, "directory": tmp_path}).TestCase
    case.settings = settings(
        max_examples=40,
        stateful_step_count=15,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    case().runTest()


def test_a_release_by_nothing_or_by_a_letter_lets_nothing_go(ledger: Ledger):
    """An unset variable of a shell must not let go of all that is held."""
    placed = [place_hold(ledger, None, call_id=name, reason="x") for name in ("5", "ACD-1", "b")]

    for slip in ("", "a", str(placed[1].id)[:3]):
        with pytest.raises(BadRequest, match="nothing is held"):
            release_holds(ledger, None, slip)
    assert [hold.call_id for hold in release_holds(ledger, None, "5")] == ["5"]
    assert [hold.call_id for hold in release_holds(ledger, None, str(placed[1].id)[:8])] == [
        "ACD-1"
    ]


def test_a_call_that_is_erased_leaves_no_id_in_holds_that_were_let_go(ledger: Ledger):
    gone = hand_in(ledger, "ACD-1", "sales")
    place_hold(ledger, None, call_id="ACD-1", reason="claim")
    release_holds(ledger, None, "ACD-1")

    erase(ledger, [gone])

    with ledger.connect() as connection:
        assert connection.scalar(text("select count(*) from holds")) == 0


@pytest.mark.parametrize(
    "written",
    [
        None,
        b"",
        b"{}\n",
        b'{"version": 2, "key": "' + b"0" * 64 + b'"}\n',
        b'{"version": 1, "key": "zz"}\n',
        b'{"version": 1, "ke',
        b"\xff\xfe{\x00",
        b"[]\n",
    ],
)
def test_a_register_that_is_none_puts_nothing_right_and_says_so(
    ledger: Ledger, tmp_path: Path, written: bytes | None
):
    path = tmp_path / "register.jsonl"
    if written is not None:
        path.write_bytes(written)

    with pytest.raises(Misconfigured, match="CALLSCRIBE_ERASURES"):
        apply_register(ledger, ErasureRegister(path), lambda _: None, really=True)
    assert path.exists() == (written is not None), "a name that was mistyped makes no file"


@pytest.mark.parametrize(
    "named",
    [
        {"call_id": "ACD", "line": ""},
        {"call_id": "", "line": "billing"},
        {"call_id": " "},
        {"call_id": "ACD", "line": "billing"},
        {},
    ],
)
def test_a_hold_of_nothing_or_of_two_things_is_refused(ledger: Ledger, named: dict[str, str]):
    with pytest.raises(BadRequest, match="blank"):
        place_hold(ledger, None, reason="claim", **named)


def test_lines_that_say_nothing_are_named_and_the_others_apply(
    ledger: Ledger, register: ErasureRegister
):
    gone = hand_in(ledger, "ACD-1", "sales")
    before = dump(ledger)
    erase(ledger, [gone], register)
    odd = [b"5", b'{"hold": "zz"}', b'{"hold": "00000000-0000-0000-0000-000000000000"}']
    odd += [b'{"erasing": [7], "note": "x"}', b'{"erased": ["x"]}', b"\xff", b"null", b'{"a": 1}']
    sound = {
        **{"hold": str(uuid4()), "reason": "r", "held_at": "2026-05-01T09:00:00+00:00"},
        **{"call_id": "ACD-3", "line": None},
    }
    for change in (
        *({"call_id": None}, {"line": "sales"}, {"held_at": "yesterday"}, {"reason": "r\0"}),
        *({"held_at": "0001-01-01T00:00:00+00:00"}, {"call_id": "a\ud800"}, {"line": 7}),
    ):
        odd.append(json.dumps({**sound, **change}).encode())
    odd.append(b"[" * 100_000)
    with register._path.open("ab") as file:
        file.write(b"\n".join(odd) + b"\n")
    hold = place_hold(ledger, register, call_id="ACD-2", reason="claim")
    restore(ledger, before)

    done = apply_register(ledger, register, lambda _: None, really=True)

    assert (done.erased_recordings, done.placed_holds) == (1, 1)
    assert done.unreadable_lines == list(range(4, 4 + len(odd)))
    assert present(ledger) == set()
    with ledger.connect() as connection:
        assert holds.list_active_holds(connection) == [hold]
