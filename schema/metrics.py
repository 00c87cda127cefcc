"""The catalogue of metrics: every name that Prometheus sees of us, with its unit and meaning.

Names end in their unit, seconds, bytes or a ratio, and counters in ``total``. A label's values are
all listed here, so that none can ever be a path, a recording, a customer or a secret. Alerts and
dashboards (``ops/prometheus``, ``ops/grafana``) use no other names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from schema.errors import ErrorCode
from schema.states import RecordingState, SegmentState


class Kind(StrEnum):
    """What Prometheus may do with a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Source(StrEnum):
    """Which process serves a metric: by its role in ``python -m workers ROLE``."""

    SEGMENTS = "segments"
    REDUCE = "reduce"
    SWEEP = "sweep"
    LEDGER = "metrics"


@dataclass(frozen=True, slots=True)
class Metric:
    """One name. ``labels`` are all the values that each label may have."""

    name: str
    kind: Kind
    meaning: str
    sources: tuple[Source, ...]
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def samples(self) -> tuple[str, ...]:
        """The names that it goes by in a query."""
        if self.kind is Kind.HISTOGRAM:
            return tuple(f"{self.name}_{end}" for end in ("bucket", "sum", "count"))
        return (self.name,)


class Outcome(StrEnum):
    """How a worker's attempt at a segment ended."""

    #: Decoded and stored.
    DONE = "done"
    #: Its words were in the ledger already: nothing was decoded.
    KNOWN = "known"
    #: The recording was at fault, or an error was raised.
    FAILED = "failed"
    #: This host or the moment was at fault; tried again after a pause.
    POSTPONED = "postponed"


class Stage(StrEnum):
    """A part of a segment's time; features are computed by whichever of VAD and ASR asks first."""

    READ = "read"
    VAD = "vad"
    ASR = "asr"
    STORE = "store"


class RecycleReason(StrEnum):
    """Why a worker replaced its process."""

    #: The device stayed nearly full after it was cleaned.
    MEMORY = "memory"
    #: An error after which the device computes nothing more.
    ERROR = "error"


class Task(StrEnum):
    """What a write that came too late was of."""

    SEGMENT = "segment"
    REDUCE = "reduce"


class ReduceOutcome(StrEnum):
    """How a reduce ended."""

    DONE = "done"
    PARTIAL = "partial"
    #: Every segment had failed.
    FAILED = "failed"
    #: Places are decoded once more first.
    REPAIRS = "repairs"
    ERROR = "error"


class RetentionOutcome(StrEnum):
    """What became of a recording that was old enough to go."""

    ERASED = "erased"
    #: It was still being transcribed.
    SPARED = "spared"


#: Buckets of seconds: from the read of a short segment to the decode of a long one on a CPU.
SECONDS_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

_CODES = tuple(code.value for code in ErrorCode)
_SEGMENTS = (Source.SEGMENTS,)
_REDUCE = (Source.REDUCE,)
_CHILDREN = (Source.SEGMENTS, Source.REDUCE)
#: The sweep runs in a reducer, or alone.
_SWEEP = (Source.REDUCE, Source.SWEEP)
_LEDGER = (Source.LEDGER,)

# Every process of ours.

UP = Metric(
    "callscribe_up",
    Kind.GAUGE,
    "1 for each process that serves figures, by its role",
    tuple(Source),
    {"role": tuple(Source)},
)

# Workers that decode.

SEGMENTS = Metric(
    "callscribe_segments_total",
    Kind.COUNTER,
    "Attempts at segments, by how they ended",
    _SEGMENTS,
    {"outcome": tuple(Outcome)},
)
ERRORS = Metric(
    "callscribe_errors_total",
    Kind.COUNTER,
    "Attempts at segments that failed or were postponed, by error code",
    _SEGMENTS,
    {"code": _CODES},
)
AUDIO = Metric(
    "callscribe_audio_seconds_total",
    Kind.COUNTER,
    "Audio of the segments that were decoded, or whose words were known already",
    _SEGMENTS,
    {"outcome": (Outcome.DONE, Outcome.KNOWN)},
)
SPEECH = Metric(
    "callscribe_speech_seconds_total",
    Kind.COUNTER,
    "Speech that VAD heard in the segments that were decoded",
    _SEGMENTS,
)
STAGES = Metric(
    "callscribe_stage_seconds",
    Kind.HISTOGRAM,
    "Time that decoded segments took, by stage",
    _SEGMENTS,
    {"stage": tuple(Stage)},
)
TIMES_REAL_TIME = Metric(
    "callscribe_times_real_time_ratio",
    Kind.GAUGE,
    "Seconds of audio per second of work, of the last segment that was decoded",
    _SEGMENTS,
)
BUDGET_HALVINGS = Metric(
    "callscribe_budget_halvings_total",
    Kind.COUNTER,
    "How often the device's memory ran out, and minibatches were made half as large",
    _SEGMENTS,
)
RECYCLES = Metric(
    "callscribe_recycles_total",
    Kind.COUNTER,
    "How often a worker replaced its process, by the reason",
    _SEGMENTS,
    {"reason": tuple(RecycleReason)},
)
RESIDENT = Metric(
    "callscribe_resident_bytes",
    Kind.GAUGE,
    "Resident memory of the process that decodes, after its last segment",
    _SEGMENTS,
)
DEVICE_USED = Metric(
    "callscribe_device_used_bytes",
    Kind.GAUGE,
    "Device memory in use by this worker after its last segment: the weights",
    _SEGMENTS,
)
DEVICE_RESERVED = Metric(
    "callscribe_device_reserved_bytes",
    Kind.GAUGE,
    "Device memory that this worker's allocator holds after its last segment, used or not",
    _SEGMENTS,
)
DEVICE_PEAK = Metric(
    "callscribe_device_peak_bytes",
    Kind.GAUGE,
    "The most device memory that this worker's last segment used",
    _SEGMENTS,
)
DEVICE_FREE = Metric(
    "callscribe_device_free_bytes",
    Kind.GAUGE,
    "Free memory of the device, other processes' use considered, after the last segment",
    _SEGMENTS,
)
DEVICE_CAPACITY = Metric(
    "callscribe_device_capacity_bytes", Kind.GAUGE, "All memory of the device", _SEGMENTS
)
DEVICE_FRAGMENTATION = Metric(
    "callscribe_device_fragmentation_ratio",
    Kind.GAUGE,
    "Share of the reserved device memory that nothing used after the last segment",
    _SEGMENTS,
)

# Workers and reducers: a parent, whose one child is replaced when it dies.

CHILDREN = Metric(
    "callscribe_children_started_total",
    Kind.COUNTER,
    "Processes that a worker started to work in; each but the first replaced one that died",
    _CHILDREN,
)
FENCED_WRITES = Metric(
    "callscribe_fenced_writes_total",
    Kind.COUNTER,
    "Writes refused since another worker had taken over, or the work was cancelled",
    _CHILDREN,
    {"task": tuple(Task)},
)
REFUSED = Metric(
    "callscribe_messages_refused_total",
    Kind.COUNTER,
    "Messages in Redis that are none of ours and were dropped",
    _CHILDREN,
)

# Reducers, and the sweep.

REDUCES = Metric(
    "callscribe_reduces_total",
    Kind.COUNTER,
    "Reduces of recordings, by how they ended",
    _REDUCE,
    {"outcome": tuple(ReduceOutcome)},
)
REDUCE_SECONDS = Metric(
    "callscribe_reduce_seconds", Kind.HISTOGRAM, "Time that a reduce took", _REDUCE
)
SWEEP_LAST = Metric(
    "callscribe_sweep_last_timestamp_seconds",
    Kind.GAUGE,
    "When this process last swept, or saw that another one was at it, by its own clock",
    _SWEEP,
)
LEASES_EXPIRED = Metric(
    "callscribe_leases_expired_total",
    Kind.COUNTER,
    "Segments that were sent again since the worker that held them fell silent",
    _SWEEP,
)
GIVEN_UP = Metric(
    "callscribe_given_up_total",
    Kind.COUNTER,
    "Segments and recordings that the sweep gave up after too many attempts",
    _SWEEP,
)
REDISPATCHED = Metric(
    "callscribe_redispatched_total",
    Kind.COUNTER,
    "Messages that the sweep sent, expired leases' among them",
    _SWEEP,
)

# The ledger, Redis and the spool, as the ``metrics`` role finds them.

LEDGER_UP = Metric(
    "callscribe_ledger_up", Kind.GAUGE, "1 if the ledger answered this scrape, else 0", _LEDGER
)
LEDGER_SECONDS = Metric(
    "callscribe_ledger_query_seconds", Kind.GAUGE, "How long the ledger took to answer", _LEDGER
)
LEDGER_SEGMENTS = Metric(
    "callscribe_ledger_segments",
    Kind.GAUGE,
    "Segments that have not ended, by state",
    _LEDGER,
    {"state": (SegmentState.PENDING, SegmentState.LEASED)},
)
LEDGER_WAITING = Metric(
    "callscribe_ledger_segments_waiting",
    Kind.GAUGE,
    "Pending segments whose last attempt failed, by its error code",
    _LEDGER,
    {"code": _CODES},
)
OLDEST_PENDING = Metric(
    "callscribe_ledger_oldest_pending_seconds",
    Kind.GAUGE,
    "Age of the oldest recording of which a segment waits; 0 where none does",
    _LEDGER,
)
LEDGER_LEASES_EXPIRED = Metric(
    "callscribe_ledger_leases_expired",
    Kind.GAUGE,
    "Leased segments whose worker fell silent, and that no other has taken up yet",
    _LEDGER,
)
LAST_HOUR_SEGMENTS = Metric(
    "callscribe_ledger_last_hour_segments",
    Kind.GAUGE,
    "Segments that ended in the last hour, cancelled ones left out, by state",
    _LEDGER,
    {"state": (SegmentState.DONE, SegmentState.FAILED)},
)
LAST_HOUR_AUDIO = Metric(
    "callscribe_ledger_last_hour_audio_seconds",
    Kind.GAUGE,
    "Audio of the segments that were done in the last hour",
    _LEDGER,
)
LAST_DAY_RECORDINGS = Metric(
    "callscribe_ledger_last_day_recordings",
    Kind.GAUGE,
    "Recordings handed in during the last day, by the state they are in now",
    _LEDGER,
    {"state": tuple(RecordingState)},
)
OLDEST_EVENT = Metric(
    "callscribe_ledger_oldest_event_seconds",
    Kind.GAUGE,
    "Age of the oldest event that waits for its receiver to take it; 0 where none does",
    _LEDGER,
)
PURGE_AGE = Metric(
    "callscribe_ledger_purge_age_seconds",
    Kind.GAUGE,
    "Time since a run of retention came to its end; absent where none ever did",
    _LEDGER,
)
PURGED = Metric(
    "callscribe_ledger_purge_recordings",
    Kind.GAUGE,
    "Recordings that this run erased, and old ones that it left since they had not ended",
    _LEDGER,
    {"outcome": tuple(RetentionOutcome)},
)
REDIS_UP = Metric(
    "callscribe_redis_up", Kind.GAUGE, "1 if Redis answered this scrape, else 0", _LEDGER
)
QUEUE = Metric(
    "callscribe_queue_messages",
    Kind.GAUGE,
    "Messages that wait in Redis, by queue",
    _LEDGER,
    {"queue": ("segments", "reduce")},
)
SPOOL_FREE = Metric(
    "callscribe_spool_free_bytes", Kind.GAUGE, "Free space where the spool is", _LEDGER
)
SPOOL_RESERVE = Metric(
    "callscribe_spool_reserve_bytes",
    Kind.GAUGE,
    "Free space that the spool leaves: below it a submit stops",
    _LEDGER,
)

#: All of them, in this order.
CATALOGUE: tuple[Metric, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Metric)
)


def served_by(source: Source) -> Iterator[Metric]:
    """Yield the metrics that a process serves."""
    return (metric for metric in CATALOGUE if source in metric.sources)
