"""Erasures and holds in a file that no dump of the ledger has.

A restored ledger is that of its dump: calls that were erased since are back, and holds that were
placed since are gone. So both are also appended to this file, a line of JSON each, and ``producer
restored`` applies them to a ledger that was restored.

An erased recording is noted by a digest of its id, its content and its call id, under a key that
lies in the file alone: whoever has the file and no ledger learns no id, and whoever guesses a call
id cannot tell whether it was erased. A hold has the call id or the line that it is of.

An erasure is two lines: that it begins, before its commit, and that it is done. Where a crash left
the first alone nobody knows whether it was committed.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from schema.bounds import check_text, is_plausible
from schema.errors import ErrorCode, Misconfigured

_VERSION = 1
_KEY_BYTES = 32
#: How long another process may keep the file.
_LOCK_S = 60.0
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class ErasedRecording:
    """What the digest of an erased recording is made of."""

    id: UUID
    content_digest: str | None
    call_id: str | None


@dataclass(frozen=True, slots=True)
class ErasureNote:
    """A note that recordings are about to be erased, by their digests."""

    id: str
    digests: list[str]


@dataclass(frozen=True, slots=True)
class PastErasures:
    """Recordings whose erasure was confirmed, and those of which it was only announced."""

    erased_ids: list[UUID] = field(default_factory=list)
    unconfirmed_ids: list[UUID] = field(default_factory=list)


class ErasureRegister:
    """The file; every line that was acknowledged is on its disk.

    Raises Misconfigured, from each method, where it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        #: Numbers of the lines that this release cannot read, as of the last reading.
        self.unreadable: list[int] = []

    def require(self) -> None:
        """Make sure that there is a register, as there is where calls were erased or held.

        Raises:
            Misconfigured: there is none, or an empty one, or one of another release.
        """
        try:
            is_empty = not self._path.stat().st_size
        except OSError:
            is_empty = True
        if is_empty:
            raise self._unusable("there is no register, or it is empty")
        with self._open_locked() as file:
            self._key(file)

    def note_erasing(self, recordings: Iterable[ErasedRecording]) -> ErasureNote:
        """Note that recordings are about to be erased; return the note, to be confirmed."""
        with self._open_locked() as file:
            key = self._key(file)
            note = ErasureNote(secrets.token_hex(8), [_digest(key, r) for r in recordings])
            _append(file, {"erasing": note.digests, "note": note.id})
        return note

    def note_erased(self, note: ErasureNote) -> None:
        """Confirm a note: its recordings are erased."""
        self._note({"erased": note.id})

    def note_hold(
        self, hold_id: UUID, *, call_id: str | None, line: str | None, reason: str, held_at: str
    ) -> None:
        """Note a hold."""
        facts = {"call_id": call_id, "line": line, "reason": reason, "held_at": held_at}
        self._note({"hold": str(hold_id), **facts})

    def note_release(self, hold_id: UUID) -> None:
        """Note that a hold was released."""
        self._note({"release": str(hold_id)})

    def count_unknown(self, digests: Iterable[str]) -> int:
        """Return how many digests of erasures it lacks; if any, it is another file or cut short."""
        with self._open_locked() as file:
            self._key(file)
            noted_digests = (line.get("erasing", ()) for line in self._lines(file))
            return len(set(digests).difference(*noted_digests))

    def find_erased(self, recordings: Iterable[ErasedRecording]) -> PastErasures:
        """Return which of these recordings were erased once."""
        notes: dict[str, list[str]] = {}
        erased_digests: set[str] = set()
        with self._open_locked() as file:
            key = self._key(file)
            for line in self._lines(file):
                if "erasing" in line:
                    notes[line["note"]] = line["erasing"]
                elif "erased" in line:
                    erased_digests.update(notes.pop(line["erased"], ()))
        unconfirmed = {digest for digests in notes.values() for digest in digests}
        past = PastErasures()
        for recording in recordings:
            digest = _digest(key, recording)
            if digest in erased_digests:
                past.erased_ids.append(recording.id)
            elif digest in unconfirmed:
                past.unconfirmed_ids.append(recording.id)
        return past

    def holds(self) -> tuple[dict[UUID, dict[str, Any]], set[UUID]]:
        """Return the holds that are in force, by their ids, and the ids of released ones.

        A hold in neither was placed without the register.
        """
        active: dict[UUID, dict[str, Any]] = {}
        released: set[UUID] = set()
        with self._open_locked() as file:
            for line in self._lines(file):
                if "hold" in line:
                    active[UUID(line["hold"])] = line
                elif "release" in line:
                    released.add(UUID(line["release"]))
        return {hold_id: active[hold_id] for hold_id in active.keys() - released}, released

    def _note(self, line: dict[str, Any]) -> None:
        with self._open_locked() as file:
            self._key(file)
            _append(file, line)

    def _open_locked(self) -> Any:
        try:
            if self._path.exists() and not self._path.is_file():
                raise self._unusable("it is no file")
            handle = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            file = os.fdopen(handle, "r+b")
            self._lock(file)
        except OSError as error:
            raise self._unusable(f"it cannot be written to: {error.strerror}") from error
        return file

    def _lock(self, file: Any) -> None:
        """Lock the register's file, which nobody else keeps for longer than a line takes."""
        deadline_s = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    file.close()
                    cause = f"another process has kept it for {_LOCK_S:.0f} s"
                    raise self._unusable(cause) from None
                time.sleep(_POLL_S)
            else:
                return

    def _unusable(self, cause: str) -> Misconfigured:
        return Misconfigured(
            ErrorCode.SETTING_MISSING,
            "CALLSCRIBE_ERASURES",
            f"{self._path}: {cause}",
            "Name the register, a file that this user may append to, outside all that is restored.",
        )

    def _lines(self, file: Any) -> Iterator[dict[str, Any]]:
        """Yield the lines after the first but those that a crash or a hand broke."""
        file.seek(0)
        file.readline()
        self.unreadable = []
        for number, raw_line in enumerate(file, start=2):
            line = _parse_line(raw_line)
            if line is None:
                self.unreadable.append(number)
            else:
                yield line

    def _key(self, file: Any) -> bytes:
        """Return the key, which the first line has; a new file gets one."""
        file.seek(0)
        first = file.readline()
        if not first:
            key = secrets.token_bytes(_KEY_BYTES)
            _append(file, {"version": _VERSION, "key": key.hex()})
            return key
        try:
            line = json.loads(first)
            key = bytes.fromhex(line["key"])
        except (ValueError, TypeError, LookupError) as error:
            raise self._unusable("its first line is none of a register's") from error
        if line.get("version") != _VERSION or len(key) < _KEY_BYTES:
            raise self._unusable("it is of another release")
        return key


def _digest(key: bytes, recording: ErasedRecording) -> str:
    identity = json.dumps([str(recording.id), recording.content_digest, recording.call_id])
    return hmac.new(key, identity.encode(), hashlib.sha256).hexdigest()


def _append(file: Any, line: dict[str, Any]) -> None:
    end = file.seek(0, os.SEEK_END)
    if end:
        file.seek(end - 1)
        # Behind a line that a crash broke off.
        if file.read(1) != b"\n":
            file.write(b"\n")
    file.write(json.dumps(line).encode() + b"\n")
    file.flush()
    os.fsync(file.fileno())


def _parse_line(raw_line: bytes) -> dict[str, Any] | None:
    """Return a line's values, or None for a line that no register has."""
    try:
        line: Any = json.loads(raw_line)
        return dict(line) if _is_valid_line(line) else None
    except (ValueError, RecursionError):
        return None


def _is_valid_line(line: Any) -> bool:
    """Tell whether a register has such a line; a malformed value raises ValueError."""
    match line:
        case {"erasing": list(digests), "note": str()}:
            return _are_texts(digests)
        case {"erased": str()}:
            return True
        case {"hold": str(hold), "reason": str(reason), "held_at": str(held_at)}:
            UUID(hold)
            names = [text for text in (line.get("call_id"), line.get("line")) if text is not None]
            if not _are_texts(names):
                return False
            for text in (*names, reason):
                check_text(text)
            return len(names) == 1 and is_plausible(datetime.fromisoformat(held_at))
        case {"release": str(hold)}:
            UUID(hold)
            return True
    return False


def _are_texts(values: list[Any]) -> bool:
    return all(isinstance(value, str) and "\0" not in value for value in values)
