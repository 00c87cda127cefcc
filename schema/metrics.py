"""The catalogue of metrics: every name that Prometheus sees of us, with its unit and meaning.

Names end in their unit, seconds, bytes or a ratio, and counters in ``total``. A label's values are
all listed here, so that none can ever be a path, a recording, a customer or a secret. Alerts and
dashboards (``ops/prometheus``, ``ops/grafana``) use no other names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial

from schema.errors import ErrorCode
from schema.redaction import MaskClass
from schema.states import RecordingState, SegmentState


class MetricKind(StrEnum):
    """What Prometheus may do with a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class MetricsRole(StrEnum):
    """Which process serves a metric: by its role in ``python -m workers ROLE``."""

    SEGMENTS = "segments"
    REDUCE = "reduce"
    SWEEP = "sweep"
    LEDGER = "metrics"


@dataclass(frozen=True, slots=True)
class Metric:
    """One name. ``labels`` are all the values that each label may have."""

    kind: MetricKind
    name: str
    meaning: str
    sources: tuple[MetricsRole, ...]
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def samples(self) -> tuple[str, ...]:
        """The names that it goes by in a query."""
        if self.kind is MetricKind.HISTOGRAM:
            return tuple(f"{self.name}_{end}" for end in ("bucket", "sum", "count"))
        return (self.name,)


class SegmentOutcome(StrEnum):
    """How a worker's attempt at a segment ended."""

    #: Decoded and stored.
    DONE = "done"
    #: Its words were in the ledger already: nothing was decoded.
    CACHED = "known"
    #: The recording was at fault, or an error was raised.
    FAILED = "failed"
    #: This host or the moment was at fault; tried again after a pause.
    POSTPONED = "postponed"


class Stage(StrEnum):
    """A part of a segment's time; features are computed by whichever of VAD and ASR asks first."""

    READ = "read"
    VAD = "vad"
    ASR = "asr"
    VOICES = "voices"
    STORE = "store"


class RecycleReason(StrEnum):
    """Why a worker replaced its process."""

    #: The device stayed nearly full after it was cleaned.
    MEMORY = "memory"
    #: An error after which the device computes nothing more.
    ERROR = "error"


class FencedTask(StrEnum):
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
    VOICES = "voices"
    #: Segments are decoded again first: nobody can unseal their words.
    DECODES = "decodes"
    ERROR = "error"


class RetentionOutcome(StrEnum):
    """What became of a recording that was old enough to go."""

    ERASED = "erased"
    #: It was still being transcribed.
    SPARED = "spared"


_counter = partial(Metric, MetricKind.COUNTER)
_gauge = partial(Metric, MetricKind.GAUGE)
_histogram = partial(Metric, MetricKind.HISTOGRAM)

#: Buckets of seconds: from the read of a short segment to the decode of a long one on a CPU.
SECONDS_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

_CODES = tuple(code.value for code in ErrorCode)
_SEGMENTS = (MetricsRole.SEGMENTS,)
_REDUCE = (MetricsRole.REDUCE,)
_CHILDREN = (MetricsRole.SEGMENTS, MetricsRole.REDUCE)
#: The sweep runs in a reducer, or alone.
_SWEEP = (MetricsRole.REDUCE, MetricsRole.SWEEP)
_LEDGER = (MetricsRole.LEDGER,)

# Every process of ours.

UP = _gauge(
    "callscribe_up",
    "1 for each process that serves figures, by its role",
    tuple(MetricsRole),
    {"role": tuple(MetricsRole)},
)

# Workers that decode.

SEGMENTS = _counter(
    "callscribe_segments_total",
    "Attempts at segments, by how they ended",
    _SEGMENTS,
    {"outcome": tuple(SegmentOutcome)},
)
ERRORS = _counter(
    "callscribe_errors_total",
    "Attempts at segments that failed or were postponed, by error code",
    _SEGMENTS,
    {"code": _CODES},
)
AUDIO = _counter(
    "callscribe_audio_seconds_total",
    "Audio of the segments that were decoded, or whose words were known already",
    _SEGMENTS,
    {"outcome": (SegmentOutcome.DONE, SegmentOutcome.CACHED)},
)
SPEECH = _counter(
    "callscribe_speech_seconds_total",
    "Speech that VAD heard in the segments that were decoded",
    _SEGMENTS,
)
STAGES = _histogram(
    "callscribe_stage_seconds",
    "Time that decoded segments took, by stage",
    _SEGMENTS,
    {"stage": tuple(Stage)},
)
TIMES_REAL_TIME = _gauge(
    "callscribe_times_real_time_ratio",
    "Seconds of audio per second of work, of the last segment that was decoded",
    _SEGMENTS,
)
BUDGET_HALVINGS = _counter(
    "callscribe_budget_halvings_total",
    "How often the device's memory ran out, and minibatches were made half as large",
    _SEGMENTS,
)
RECYCLES = _counter(
    "callscribe_recycles_total",
    "How often a worker replaced its process, by the reason",
    _SEGMENTS,
    {"reason": tuple(RecycleReason)},
)
RESIDENT = _gauge(
    "callscribe_resident_bytes",
    "Resident memory of the process that decodes, after its last segment",
    _SEGMENTS,
)
DEVICE_USED = _gauge(
    "callscribe_device_used_bytes",
    "Device memory in use by this worker after its last segment: the weights",
    _SEGMENTS,
)
DEVICE_RESERVED = _gauge(
    "callscribe_device_reserved_bytes",
    "Device memory that this worker's allocator holds after its last segment, used or not",
    _SEGMENTS,
)
DEVICE_PEAK = _gauge(
    "callscribe_device_peak_bytes",
    "The most device memory that this worker's last segment used",
    _SEGMENTS,
)
DEVICE_FREE = _gauge(
    "callscribe_device_free_bytes",
    "Free memory of the device, other processes' use considered, after the last segment",
    _SEGMENTS,
)
DEVICE_CAPACITY = _gauge("callscribe_device_capacity_bytes", "All memory of the device", _SEGMENTS)
DEVICE_FRAGMENTATION = _gauge(
    "callscribe_device_fragmentation_ratio",
    "Share of the reserved device memory that nothing used after the last segment",
    _SEGMENTS,
)

# Workers and reducers: a parent, whose one child is replaced when it dies.

CHILDREN = _counter(
    "callscribe_children_started_total",
    "Processes that a worker started to work in; each but the first replaced one that died",
    _CHILDREN,
)
FENCED_WRITES = _counter(
    "callscribe_fenced_writes_total",
    "Writes refused since another worker had taken over, or the work was cancelled",
    _CHILDREN,
    {"task": tuple(FencedTask)},
)
REFUSED = _counter(
    "callscribe_messages_refused_total",
    "Messages in Redis that are none of ours and were dropped",
    _CHILDREN,
)

# Reducers, and the sweep.

REDUCES = _counter(
    "callscribe_reduces_total",
    "Reduces of recordings, by how they ended",
    _REDUCE,
    {"outcome": tuple(ReduceOutcome)},
)
#: Numbers of speakers, as a label has them: none, one, two, more.
SPEAKER_NUMBERS = ("none", "one", "two", "more")
GUESSED_CALLS = _counter(
    "callscribe_guessed_calls_total",
    "Recordings whose speakers were told by their voices, by their number and by doubt",
    _REDUCE,
    {"speakers": SPEAKER_NUMBERS, "doubtful": ("true", "false")},
)
MASKS = _counter(
    "callscribe_masks_total",
    "Masks of stored transcripts of protected calls, by what they hide",
    _REDUCE,
    {"hides": tuple(MaskClass)},
)
PROTECTED_CALLS = _counter(
    "callscribe_protected_calls_total",
    "Transcripts of protected calls, by whether anything in them was masked",
    _REDUCE,
    {"masked": ("true", "false")},
)
REDUCE_SECONDS = _histogram("callscribe_reduce_seconds", "Time that a reduce took", _REDUCE)
SWEEP_LAST = _gauge(
    "callscribe_sweep_last_timestamp_seconds",
    "When this process last swept, or saw that another one was at it, by its own clock",
    _SWEEP,
)
LEASES_EXPIRED = _counter(
    "callscribe_leases_expired_total",
    "Segments that were sent again since the worker that held them fell silent",
    _SWEEP,
)
GIVEN_UP = _counter(
    "callscribe_given_up_total",
    "Segments and recordings that the sweep gave up after too many attempts",
    _SWEEP,
)
REDISPATCHED = _counter(
    "callscribe_redispatched_total",
    "Messages that the sweep sent, expired leases' among them",
    _SWEEP,
)

# The ledger, Redis and the spool, as the ``metrics`` role finds them.

LEDGER_UP = _gauge("callscribe_ledger_up", "1 if the ledger answered this scrape, else 0", _LEDGER)
LEDGER_SECONDS = _gauge(
    "callscribe_ledger_query_seconds", "How long the ledger took to answer", _LEDGER
)
LEDGER_SEGMENTS = _gauge(
    "callscribe_ledger_segments",
    "Segments that have not ended, by state",
    _LEDGER,
    {"state": (SegmentState.PENDING, SegmentState.LEASED)},
)
LEDGER_WAITING = _gauge(
    "callscribe_ledger_segments_waiting",
    "Pending segments whose last attempt failed, by its error code",
    _LEDGER,
    {"code": _CODES},
)
OLDEST_PENDING = _gauge(
    "callscribe_ledger_oldest_pending_seconds",
    "Age of the oldest recording of which a segment waits; 0 where none does",
    _LEDGER,
)
LEDGER_LEASES_EXPIRED = _gauge(
    "callscribe_ledger_leases_expired",
    "Leased segments whose worker fell silent, and that no other has taken up yet",
    _LEDGER,
)
LAST_HOUR_SEGMENTS = _gauge(
    "callscribe_ledger_last_hour_segments",
    "Segments that ended in the last hour, cancelled ones left out, by state",
    _LEDGER,
    {"state": (SegmentState.DONE, SegmentState.FAILED)},
)
LAST_HOUR_AUDIO = _gauge(
    "callscribe_ledger_last_hour_audio_seconds",
    "Audio of the segments that were done in the last hour",
    _LEDGER,
)
LAST_DAY_RECORDINGS = _gauge(
    "callscribe_ledger_last_day_recordings",
    "Recordings handed in during the last day, by the state they are in now",
    _LEDGER,
    {"state": tuple(RecordingState)},
)
OLDEST_EVENT = _gauge(
    "callscribe_ledger_oldest_event_seconds",
    "Age of the oldest event that waits for its receiver to take it; 0 where none does",
    _LEDGER,
)
PURGE_AGE = _gauge(
    "callscribe_ledger_purge_age_seconds",
    "Time since a run of retention came to its end; absent where none ever did",
    _LEDGER,
)
PURGED = _gauge(
    "callscribe_ledger_purge_recordings",
    "Recordings that this run erased, and old ones that it left since they had not ended",
    _LEDGER,
    {"outcome": tuple(RetentionOutcome)},
)
REDIS_UP = _gauge("callscribe_redis_up", "1 if Redis answered this scrape, else 0", _LEDGER)
QUEUE = _gauge(
    "callscribe_queue_messages",
    "Messages that wait in Redis, by queue",
    _LEDGER,
    {"queue": ("segments", "reduce")},
)
SPOOL_FREE = _gauge("callscribe_spool_free_bytes", "Free space where the spool is", _LEDGER)
SPOOL_RESERVE = _gauge(
    "callscribe_spool_reserve_bytes",
    "Free space that the spool leaves: below it a submit stops",
    _LEDGER,
)

#: All of them, in this order.
CATALOGUE: tuple[Metric, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Metric)
)


def served_by(source: MetricsRole) -> Iterator[Metric]:
    """Yield the metrics that a process serves."""
    return (metric for metric in CATALOGUE if source in metric.sources)
