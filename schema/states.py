r"""The states of the ledger's rows, and every move between them.

A submission is OPEN while its producer may still add recordings, then SEALED. Whoever waits for a
submission waits until it is sealed and each of its recordings is terminal.

A segment:

    pending --claim--> leased --finish--> done
       ^                 |  \--give up--> failed      (the recording ends "partial" or "failed")
       '--- returned ----'                             (an error below the cap, a death, a shutdown)

  A leased segment whose lease has expired may be claimed by another worker, which fences the
  first; until then the first may still renew it and finish. A segment whose decode key has a
  result is done without a claim. A repair moves like any other; where it fails, its recording is
  none the worse.

A recording:

    (door) --> quarantined                            the file is at fault; nothing was planned
    planned --first claim--> running --last segment ends--> stitching --reduce--> done
                                ^                               |    \--> partial  a segment failed
                                '---- repair segments ordered --'     \-> failed   each failed
    any but the ends --cancel--> cancelled            its open segments fail, as "cancelled"

Each of these ends is terminal. ``retry`` takes up the failed segments of a recording that is
failed or partial; ``forget`` deletes a recording's rows, in whatever state.

An event, which tells a receiver that a recording or a submission has ended:

    waiting --taken by the receiver (2xx)--> delivered
       \--refused or not answered for a day--> given-up
"""

from __future__ import annotations

from enum import StrEnum


class SubmissionState(StrEnum):
    """Whether more recordings may come."""

    OPEN = "open"
    SEALED = "sealed"


class SegmentState(StrEnum):
    """Where a segment is on its way to words."""

    PENDING = "pending"
    LEASED = "leased"
    DONE = "done"
    FAILED = "failed"


class SegmentKind(StrEnum):
    """Who wanted a segment."""

    #: The producer: together they cover each channel.
    PLAN = "plan"
    #: The reducer: a place where words may be missing, decoded once more.
    REPAIR = "repair"


class RecordingState(StrEnum):
    """Where a recording is on its way to a transcript."""

    QUARANTINED = "quarantined"
    PLANNED = "planned"
    RUNNING = "running"
    STITCHING = "stitching"
    DONE = "done"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"


class EventState(StrEnum):
    """Whether a receiver knows."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    GIVEN_UP = "given-up"


#: Recordings on which no more work will be done unless someone asks for it.
TERMINAL = frozenset(
    {
        RecordingState.QUARANTINED,
        RecordingState.DONE,
        RecordingState.PARTIAL,
        RecordingState.FAILED,
        RecordingState.CANCELLED,
    }
)
