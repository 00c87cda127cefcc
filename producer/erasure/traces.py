"""What is left of a recording anywhere: in the ledger's tables, and in the spool."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence

from schema.settings import SPOOL_ROOT, Settings
from schema.store.connection import patient
from schema.store.erasure.traces import Needle, Trace, find_traces
from schema.store.ledger import Ledger


def search_traces(settings: Settings, ledger: Ledger, needles: Sequence[Needle]) -> list[Trace]:
    """Return where any of these is: every table of the ledger, and the spool if this host has one.

    Copies in the spool have names that say nothing, so that one is looked for by the path that its
    recording had, beside whatever names hold what is looked for.
    """
    with patient(ledger.engine) as connection:
        traces = find_traces(connection, needles)
    copies = {needle.text for needle in needles if needle.what == "copy"}
    found: Counter[str] = Counter()
    for path in _spooled(settings):
        if path.hex() in copies:
            found["copy"] += 1
        found.update({needle.what for needle in needles if needle.is_in(path)})
    return traces + [Trace("spool", what, count) for what, count in sorted(found.items())]


def _spooled(settings: Settings) -> Iterator[bytes]:
    """Yield the files of the spool, by their paths below it."""
    if settings.spool is None:
        return
    top = os.fsencode(settings.root_path(SPOOL_ROOT))
    for directory, _, files in os.walk(top):
        for name in files:
            yield os.path.relpath(os.path.join(directory, name), top)
