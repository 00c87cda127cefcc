"""What is left of a recording anywhere: in the ledger's tables, and in the spool."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence

from schema.settings import SPOOL_ROOT, Settings
from schema.store.connection import unlimited_transaction
from schema.store.erasure.traces import Needle, Trace, find_traces
from schema.store.ledger import Ledger


def list_traces(settings: Settings, ledger: Ledger, needles: Sequence[Needle]) -> list[Trace]:
    """Return where any of these is: every table of the ledger, and the spool if this host has one.

    Copies in the spool have names that say nothing, so that one is looked for by the path that its
    recording had, beside whatever names hold what is looked for.
    """
    with unlimited_transaction(ledger.engine) as connection:
        traces = find_traces(connection, needles)
    copies = {needle.text for needle in needles if needle.kind == "copy"}
    counts: Counter[str] = Counter()
    for path in _spool_paths(settings):
        if path.hex() in copies:
            counts["copy"] += 1
        counts.update({needle.kind for needle in needles if needle.is_in(path)})
    return traces + [Trace("spool", kind, count) for kind, count in sorted(counts.items())]


def _spool_paths(settings: Settings) -> Iterator[bytes]:
    """Yield the files of the spool, by their paths below it."""
    if settings.spool is None:
        return
    top = os.fsencode(settings.root_path(SPOOL_ROOT))
    for directory, _, files in os.walk(top):
        for name in files:
            yield os.path.relpath(os.path.join(directory, name), top)
