"""Holds placed and let go, in the ledger and in the register; and a restored ledger put right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import Connection

from schema.bounds import check_text
from schema.erasure_register import ErasureRegister
from schema.errors import BadRequest, ErrorCode
from schema.store.erasure import forget, holds
from schema.store.erasure.holds import Hold
from schema.store.ledger import Ledger
from schema.wire import Dispatch


def place_hold(
    ledger: Ledger,
    register: ErasureRegister | None,
    *,
    call_id: str | None = None,
    line: str | None = None,
    reason: str,
) -> Hold:
    """Hold a call, or all calls of a line.

    Raises:
        BadRequest: a text is longer than the ledger takes, or holds what is no character.
    """
    for name, value in {"CALL_ID": call_id, "--line": line, "--reason": reason}.items():
        try:
            check_text(value or "")
        except ValueError as error:
            raise BadRequest(ErrorCode.OPTION_INVALID, name, str(error)) from error
    subjects = [subject for subject in (call_id, line) if subject is not None]
    if len(subjects) != 1 or not subjects[0].strip() or not reason.strip():
        cause = "it is blank, or both a call and a line"
        remedy = "Name one call or line, and a reason."
        raise BadRequest(ErrorCode.OPTION_INVALID, "hold", cause, remedy)

    def place(connection: Connection) -> Hold:
        hold = holds.insert_hold(connection, call_id=call_id, line=line, reason=reason)
        # Before the commit: what a crash leaves in the register alone, a restore holds.
        if register is not None:
            held_at = hold.held_at.isoformat()
            register.note_hold(hold.id, call_id=call_id, line=line, reason=reason, held_at=held_at)
        return hold

    return ledger.transact(place)


def release_holds(ledger: Ledger, register: ErasureRegister | None, subject: str) -> list[Hold]:
    """Let go of the holds that a call id, a line or the beginning of an id names.

    Raises:
        BadRequest: it names none.
    """
    released_holds = ledger.transact(lambda c: holds.mark_holds_released(c, subject))
    # After the commit: what a crash leaves held in the register alone, a restore holds.
    if register is not None:
        for hold in released_holds:
            register.note_release(hold.id)
    return released_holds


@dataclass(slots=True)
class RegisterResult:
    """What was done to a restored ledger, or would be; and the messages that this makes due."""

    erased_recordings: int = 0
    placed_holds: int = 0
    released_holds: int = 0
    #: Lines of the register that say nothing that this release writes: they were left out.
    unreadable_lines: list[int] = field(default_factory=list)
    #: Erasures that the ledger has noted and the register has not: it is another, or cut short.
    unknown_erasures: int = 0
    dispatches: list[Dispatch] = field(default_factory=list)


def apply_register(
    ledger: Ledger, register: ErasureRegister, remove_copy: Callable[[bytes], None], *, really: bool
) -> RegisterResult:
    """Do to a ledger of a dump what was done since: hold, let go, then erase.

    In this order, so that what was erased and is held today is erased: it was before the hold, or
    the hold had been let go. What a crash left half noted is erased last, unless it is held. A hold
    of which the register knows nothing stays, and what it holds.

    Raises:
        Misconfigured: there is no register, or it is none that this release writes.
    """
    register.require()

    def apply(connection: Connection) -> RegisterResult:
        result = RegisterResult()
        active_holds, released_ids = register.holds()
        ledger_ids = {hold.id for hold in holds.list_active_holds(connection)}
        erasures = forget.find_erased_recordings(connection, register)
        result.unreadable_lines = register.unreadable
        result.unknown_erasures = forget.count_unregistered_erasures(connection, register)
        result.placed_holds = len(active_holds.keys() - ledger_ids)
        result.released_holds = len(ledger_ids & released_ids)
        result.erased_recordings = len(erasures.erased_ids) + len(erasures.unconfirmed_ids)
        if not really:
            return result
        for hold_id in ledger_ids & (active_holds.keys() | released_ids):
            holds.mark_holds_released(connection, str(hold_id))
        erasure = forget.erase_recordings(connection, erasures.erased_ids, remove_copy)
        holds.delete_holds(connection, active_holds)
        for hold_id, facts in active_holds.items():
            subject = {name: facts.get(name) for name in ("call_id", "line")}
            reason, held_at = facts["reason"], facts["held_at"]
            holds.insert_hold(
                connection, **subject, reason=reason, hold_id=hold_id, held_at=held_at
            )
        late_erasure = forget.erase_recordings(connection, erasures.unconfirmed_ids, remove_copy)
        result.erased_recordings = erasure.recordings + late_erasure.recordings
        result.dispatches = erasure.dispatches + late_erasure.dispatches
        return result

    return ledger.transact(apply)
