"""What was erased and what is held, in a file that no dump of the ledger has.

A ledger that is restored is that of the dump: calls that were erased since are back, and holds that
were placed since are gone. So both are noted here as well, a line of JSON each, which is only ever
appended to; ``producer restored`` applies them to a ledger that was restored.

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
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from schema.errors import ErrorCode, Misconfigured

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Erased:
    """Of a recording: what its digest is made of."""

    id: UUID
    content_digest: str | None
    call_id: str | None


@dataclass(frozen=True, slots=True)
class Noted:
    """Of recordings those that were erased, and those of which an erasure was ``begun``."""

    erased: list[UUID] = field(default_factory=list)
    begun: list[UUID] = field(default_factory=list)


class Register:
    """The file; every line that was acknowledged is on its disk.

    Raises Misconfigured, from each method, where it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def note_erasing(self, recordings: Iterable[Erased]) -> str:
        """Note that recordings are about to be erased; return the note, to be confirmed."""
        note = secrets.token_hex(8)
        with self._locked() as file:
            key = self._key(file)
            _append(file, {"erasing": [_digest(key, each) for each in recordings], "note": note})
        return note

    def note_erased(self, note: str) -> None:
        """Confirm a note: its recordings are erased."""
        with self._locked() as file:
            self._key(file)
            _append(file, {"erased": note})

    def note_hold(
        self, hold_id: UUID, *, call_id: str | None, line: str | None, reason: str, held_at: str
    ) -> None:
        """Note a hold."""
        facts = {"call_id": call_id, "line": line, "reason": reason, "held_at": held_at}
        with self._locked() as file:
            self._key(file)
            _append(file, {"hold": str(hold_id), **facts})

    def note_release(self, hold_id: UUID) -> None:
        """Note that a hold was let go."""
        with self._locked() as file:
            self._key(file)
            _append(file, {"release": str(hold_id)})

    def erased_among(self, recordings: Iterable[Erased]) -> Noted:
        """Return which of these recordings were erased once."""
        notes: dict[str, list[str]] = {}
        erased: set[str] = set()
        with self._locked() as file:
            key = self._key(file)
            for line in _lines(file):
                if "erasing" in line:
                    notes[line["note"]] = line["erasing"]
                elif "erased" in line:
                    erased.update(notes.pop(line["erased"], ()))
        begun = {digest for digests in notes.values() for digest in digests}
        noted = Noted()
        for each in recordings:
            digest = _digest(key, each)
            if digest in erased:
                noted.erased.append(each.id)
            elif digest in begun:
                noted.begun.append(each.id)
        return noted

    def holds(self) -> tuple[dict[UUID, dict[str, Any]], set[UUID]]:
        """Return the holds that are in force, by their ids, and the ids of those let go of.

        Of a hold that is in neither it knows nothing: it was placed without it.
        """
        active: dict[UUID, dict[str, Any]] = {}
        released: set[UUID] = set()
        with self._locked() as file:
            for line in _lines(file):
                if "hold" in line:
                    active[UUID(line["hold"])] = line
                elif "release" in line:
                    released.add(UUID(line["release"]))
        return {hold_id: active[hold_id] for hold_id in active.keys() - released}, released

    def _locked(self) -> Any:
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            file = os.fdopen(handle, "r+b")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise Misconfigured(
                ErrorCode.SETTING_MISSING,
                "CALLSCRIBE_ERASURES",
                f"{self._path} cannot be written to: {error.strerror}",
                "Name a file that this user may append to, outside whatever is restored.",
            ) from error
        return file

    def _key(self, file: Any) -> bytes:
        """Return the key, which the first line has; a new file gets one."""
        file.seek(0)
        first = file.readline()
        if not first:
            key = secrets.token_hex(32)
            _append(file, {"version": _VERSION, "key": key})
            return bytes.fromhex(key)
        return bytes.fromhex(json.loads(first)["key"])


def _digest(key: bytes, recording: Erased) -> str:
    said = json.dumps([str(recording.id), recording.content_digest, recording.call_id])
    return hmac.new(key, said.encode(), hashlib.sha256).hexdigest()


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


def _lines(file: Any) -> Iterator[dict[str, Any]]:
    """Yield the lines behind the first; one that a crash broke off is none."""
    file.seek(0)
    file.readline()
    for line in file:
        with suppress(ValueError):
            yield json.loads(line)
