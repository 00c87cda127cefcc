"""Checks of everything that a fleet needs: each returns what it found, and what to do."""

from __future__ import annotations

import os
import platform
import re
import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from celery import Celery
from redis.exceptions import AuthenticationError

from schema.broker import explain_redis_error
from schema.errors import CallscribeError
from schema.migrate import current_revision, head_revision, missing_indexes, outdated_ledger
from schema.models import KNOWN_MODELS
from schema.namespace import Namespace, namespace_taken_error
from schema.processor import has_bfloat16
from schema.roles import existing_roles, find_excess_rights
from schema.seal import KeyDirectory
from schema.settings import SPOOL_ROOT, Settings
from schema.storage.roots import storage_of
from schema.store.checks import check_database
from schema.store.connection import is_pooled, sets_limits
from schema.store.erasure.invalid_values import count_odd_dates, mend_dates
from schema.store.ledger import Ledger
from schema.store.work.events import find_pending_receivers
from schema.store.work.seals import count_sealed
from schema.wire import REDUCE_QUEUE, SEGMENTS_QUEUE, read_queue_lengths

_PACKAGES = ("celery", "redis", "sqlalchemy", "psycopg", "soundfile", "av")

#: NVIDIA's own tool, which comes with its driver.
_DRIVER = "nvidia-smi"

#: Workers have this long to answer; one that decodes answers at once, from its parent process.
_PING_S = 2.0


class CheckVerdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check's result."""

    check: str
    verdict: CheckVerdict
    detail: str
    remedy: str = ""


class CheckFinding(NamedTuple):
    """What a check found, and what to do."""

    verdict: CheckVerdict
    detail: str
    remedy: str = ""


_ok = partial(CheckFinding, CheckVerdict.OK)
_warn = partial(CheckFinding, CheckVerdict.WARN)
_fail = partial(CheckFinding, CheckVerdict.FAIL)

_OTHER_RELEASE = _warn("not checked: the ledger is another release's")
_NO_TABLES = _warn("not checked: the ledger has no tables yet", "Run: producer migrate.")


def examine_host(settings: Settings, ledger: Ledger, app: Celery) -> Iterator[CheckResult]:
    """Yield the result of every check, as it is made."""
    versions = [f"python {platform.python_version()}", *map(_version, _PACKAGES)]
    yield CheckResult("versions", *_ok(", ".join(versions)))
    yield _run("ledger", lambda: _ledger(ledger))
    yield _run("pooler", lambda: _pooler(ledger))
    yield _run("roles", lambda: _roles(ledger))
    yield _run("values", lambda: _values(ledger))
    yield _run("notify", lambda: _notify(settings, ledger))
    yield _run("keys", lambda: _keys(settings, ledger))
    redis = _run("redis", lambda: _redis(app, settings))
    yield redis
    if redis.verdict is CheckVerdict.FAIL:
        namespace = CheckResult("namespace", *_warn("not checked: Redis does not answer"))
    else:
        namespace = _run("namespace", lambda: _namespace(app, settings, ledger))
    yield namespace
    for root in settings.roots:
        yield _run(f"root {root}", partial(_root, settings, root))
    if not settings.roots:
        yield CheckResult("roots", *_fail("none is set", "Set CALLSCRIBE_ROOTS=calls=/path."))
    yield _run("spool", lambda: _spool(settings))
    for model in KNOWN_MODELS:
        yield CheckResult(f"model {model}", *_model(settings, model))
    yield _run("device", lambda: device(settings))
    workers = partial(_workers, app)
    if redis.verdict is CheckVerdict.FAIL:
        workers = partial(_warn, "not checked: workers answer through Redis")
    elif namespace.verdict is CheckVerdict.FAIL:
        workers = partial(_warn, "not checked: the workers that answer are another fleet's")
    yield _run("workers", workers)


def _run(check: str, function: Callable[[], CheckFinding]) -> CheckResult:
    """Run a check; an error in it is its result. Never a URL: it may hold a password."""
    try:
        return CheckResult(check, *function())
    except CallscribeError as error:
        return CheckResult(check, *_fail(error.cause, error.remedy))
    except Exception as error:
        return CheckResult(check, *_fail(*_explain(error)))


def _explain(error: Exception) -> tuple[str, str]:
    """Return why a server does not answer, as far as it is safe to say, and what to do."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            remedy = "Name the CA that signed it: rediss://...?ssl_ca_certs=/path/ca.pem."
            return f"its certificate is not trusted: {cause.verify_message}", remedy
        if isinstance(cause, AuthenticationError):
            return "it refuses the password", "Check CALLSCRIBE_REDIS_URL."
        cause = cause.__cause__ or cause.__context__
    return f"{type(error).__name__}: it does not answer", ""


def _pooler(ledger: Ledger) -> CheckFinding:
    """Return whether a pooler is in front of the ledger, and where time limits come from."""
    if not is_pooled(ledger.engine):
        return _ok("none, so statements are prepared once")
    if not sets_limits(ledger.engine):
        return _ok("present; this login has our time limits")
    return _warn(
        "present; this login lacks our time limits, so each transaction costs one more round trip",
        "Run producer migrate --roles with the URL of Postgres itself, then RECONNECT the pooler.",
    )


def _values(ledger: Ledger) -> CheckFinding:
    with ledger.connect() as connection:
        if current_revision(connection) is None:
            return _NO_TABLES
        count = count_odd_dates(connection)
    if not count:
        return _ok("every call has a possible date")
    detail = f"{count:,} recordings have a date on which no call can have started"
    return _warn(detail, "Remove these dates: producer doctor --fix.")


def fix(ledger: Ledger) -> CheckResult:
    """Remove stored values that cannot be; return how many they were."""
    count = ledger.transact(mend_dates)
    return CheckResult("values", *_ok(f"dates of {count:,} recordings removed, and flagged"))


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} missing"


def _ledger(ledger: Ledger) -> CheckFinding:
    with ledger.connect() as connection:
        check_database(connection)
        revision = current_revision(connection)
        server = connection.exec_driver_sql("show server_version").scalar()
        missing = [str(index.name) for index in missing_indexes(connection)]
    if revision != head_revision():
        raise outdated_ledger(revision)
    detail = f"Postgres {server}, revision {revision}"
    if missing:
        detail = f"{detail}; missing indexes: {', '.join(missing)}; queries are slow without them"
        return _warn(detail, "Run: producer migrate.")
    return _ok(detail)


def _roles(ledger: Ledger) -> CheckFinding:
    with ledger.connect() as connection:
        if (revision := current_revision(connection)) != head_revision():
            return _OTHER_RELEASE if revision else _NO_TABLES
        roles, privileges = existing_roles(connection), find_excess_rights(connection)
    if not roles:
        return _ok("none: every login owns the tables")
    if privileges:
        causes, remedies = zip(*((p.cause, p.remedy) for p in privileges), strict=True)
        return _warn("; ".join(causes), ". ".join(remedies))
    return _ok("no role has more privileges than it needs")


def _notify(settings: Settings, ledger: Ledger) -> CheckFinding:
    with ledger.connect() as connection:
        if (revision := current_revision(connection)) != head_revision():
            return _OTHER_RELEASE if revision else _NO_TABLES
        receivers = find_pending_receivers(connection)
    signed = "signed" if settings.notify_secret else "no secret on this host"
    events = sum(receiver.events for receiver in receivers)
    failing = [receiver for receiver in receivers if receiver.failing_since]
    if failing:
        hosts = ", ".join(f"{r.host} ({r.events} since {r.failing_since:%F %R})" for r in failing)
        remedy = "Repair the receiver: events are retried for a day. producer status has the error."
        return _warn(f"{signed}; not accepted by {hosts}", remedy)
    if events and settings.notify_secret is None:
        remedy = "Set CALLSCRIBE_NOTIFY_SECRET on reducer hosts (ignore this elsewhere)."
        return _warn(f"{signed}; {events} events wait", remedy)
    return _ok(f"{signed}; {events} events wait")


def _keys(settings: Settings, ledger: Ledger) -> CheckFinding:
    """Return which keys of protected calls this host has, and what waits to be unsealed."""
    with ledger.connect() as connection:
        if (revision := current_revision(connection)) != head_revision():
            return _OTHER_RELEASE if revision else _NO_TABLES
        sealed = count_sealed(connection)
    waiting = f"{sum(sealed.values())} results are sealed"
    if settings.seal_keys is None:
        remedy = "Set CALLSCRIBE_SEAL_KEYS where workers and reducers run (ignore this elsewhere)."
        return _warn(f"none; {waiting}", remedy) if sealed else _ok(f"none; {waiting}")
    keys = KeyDirectory(settings.seal_keys)
    public, private = keys.public_key().id, keys.private_ids()
    if private and (lacking := sorted(sealed.keys() - set(private))):
        remedy = "Copy them from the reducer that made them, or wait: the calls are decoded again."
        return _warn(f"{waiting}; this host lacks the private {', '.join(lacking)}", remedy)
    unseals = f"unseals {', '.join(private)}" if private else "unseals nothing"
    return _ok(f"seals to {public}, {unseals}; {waiting}")


def _other_kind(info: Mapping[str, Any]) -> CheckFinding | None:
    """Return what is wrong with a server that is a Redis and accepts no messages."""
    mode = info.get("redis_mode", "standalone")
    if mode != "standalone":
        remedy = "Name a single Redis in CALLSCRIBE_REDIS_URL, no Sentinel and no Cluster."
        return _fail(f"it is a Redis {mode.title()}, which accepts no messages", remedy)
    if info.get("role") == "slave":
        return _fail("it is a replica", "Name the primary in CALLSCRIBE_REDIS_URL.")
    return None


def _try_as_a_worker(channel: Any) -> None:
    """Do what a worker does and a producer does not, so that a missing privilege shows here."""
    listener = channel.client.pubsub()
    try:
        listener.psubscribe(f"{channel.keyprefix_fanout}celery.pidbox")
        listener.get_message(timeout=_PING_S)
    finally:
        listener.close()
    # A script: Redis does not name the commands in it that this login may not run.
    channel.client.eval("return 1", 0)
    channel.client.time()


def _redis(app: Celery, settings: Settings) -> CheckFinding:
    try:
        with app.connection_for_write() as connection:
            client = connection.default_channel.client
            info = client.info()
            if wrong_server := _other_kind(info):
                return wrong_server
            lengths = read_queue_lengths(client)
            _try_as_a_worker(connection.default_channel)
    except Exception as error:
        return _fail(*explain_redis_error(error))
    normal = lengths.segments - lengths.urgent
    detail = (
        f"Redis {info['redis_version']}, {normal} normal and {lengths.urgent} urgent messages"
        f" queued (limit {settings.high_water})"
    )
    if (app.conf.broker_use_ssl or {}).get("ssl_cert_reqs") is ssl.CERT_NONE:
        remedy = "Name the CA by ssl_ca_certs, and leave out ssl_cert_reqs."
        return _warn(f"{detail}; its TLS certificate is not verified", remedy)
    if info.get("maxmemory_policy") not in (None, "noeviction"):
        remedy = "Set maxmemory-policy noeviction. Otherwise messages are lost until the sweep."
        return _warn(f"{detail}; it evicts keys when full", remedy)
    if not info.get("aof_enabled"):
        remedy = "Set appendonly yes. Otherwise the sweep sends everything again after a restart."
        return _warn(f"{detail}; a restart loses its messages", remedy)
    return _ok(detail)


def _namespace(app: Celery, settings: Settings, ledger: Ledger) -> CheckFinding:

    namespace = Namespace(app, ledger, settings)
    holder = namespace.holder()
    if holder is None:
        return _ok(f"{settings.namespace}, in which no sweep runs now")
    try:
        identity = namespace.identity()
    except CallscribeError:
        return _warn(f"{settings.namespace}; its owner is unknown without the ledger")
    if holder.ledger != identity:
        raise namespace_taken_error(settings.namespace, holder, identity)
    return _ok(f"{settings.namespace}, used by this ledger's sweep")


def _root(settings: Settings, root: str) -> CheckFinding:
    storage_of(settings, root).check()
    return _ok(str(settings.roots[root]))


def _spool(settings: Settings) -> CheckFinding:
    if settings.spool is None:
        remedy = "Set CALLSCRIBE_SPOOL. Without it m4a, amr, GSM and the like are refused."
        return _warn("not set", remedy)
    path = settings.root_path(SPOOL_ROOT)
    if not os.path.isdir(path) or not os.access(path, os.W_OK):
        remedy = "Create the directory, and let this user write to it."
        return _fail(f"{path} cannot be written to", remedy)
    free = shutil.disk_usage(path).free
    detail = f"{path}, {free / 1024**3:.1f} GiB free"
    if free < settings.spool_reserve_bytes:
        return _fail(detail, "Free space, or lower CALLSCRIBE_SPOOL_RESERVE_BYTES.")
    return _ok(detail)


def _model(settings: Settings, name: str) -> CheckFinding:
    directory = settings.models / name
    missing = [file for file in KNOWN_MODELS[name].files if not (directory / file).is_file()]
    if not missing:
        return _ok(str(directory))
    detail = f"{', '.join(missing)} missing in {directory}"
    return _warn(detail, f"Only workers need it: python -m ops.local.models {name}.")


def device(settings: Settings) -> CheckFinding:
    """Return what this host's workers decode on; a GPU is asked through its driver, not torch."""
    if not settings.device.startswith("cuda"):
        cores = len(os.sched_getaffinity(0))
        precision_text = "bfloat16 is fast" if has_bfloat16() else "bfloat16 is slow"
        return _ok(f"{settings.device}, {cores} cores: run one worker for each; {precision_text}")
    index = settings.device.partition(":")[2] or "0"
    fields = "name,driver_version,memory.total,memory.free"
    try:
        process = subprocess.run(
            [_DRIVER, "-i", index, f"--query-gpu={fields}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=_PING_S * 5,
        )
    except (OSError, subprocess.SubprocessError):
        remedy = "Install NVIDIA's driver, or set CALLSCRIBE_DEVICE to a device of this host."
        return _fail(f"{settings.device}: no GPU answers", remedy)
    name, driver, total, free = (part.strip() for part in process.stdout.strip().split(","))
    detail = f"{settings.device}: {name}, driver {driver}, {free} free of {total}"
    return _with_libraries(detail, _torch_cuda(), has_cublas=_has_cublas())


def _with_libraries(detail: str, cuda: str | None, *, has_cublas: bool) -> CheckFinding:
    """Add what torch was built for, and whether Whisper finds its library."""
    if cuda is None:
        return _fail(
            f"{detail}; no torch for CUDA is installed",
            "Install torch for CUDA: ops/quickstart --torch cuda, or torch's own package index.",
        )
    detail = f"{detail}; torch for CUDA {cuda}"
    if not has_cublas:
        remedy = "Install the extra cuda beside worker. FunASR alone does not need it."
        return _warn(f"{detail}, no cuBLAS 12 for Whisper", remedy)
    return _ok(f"{detail}, cuBLAS 12")


def _torch_cuda() -> str | None:
    """Return the CUDA that the installed torch was built for; None for none. Torch stays unloaded.

    A producer must not import it, and importing it takes seconds.
    """
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(r"^cuda[^=\n]*= *'([0-9.]+)'", text, re.MULTILINE)
    return match[1] if match else None


def _has_cublas() -> bool:
    """Tell whether the wheel is there whose library CTranslate2 opens."""
    try:
        return version("nvidia-cublas-cu12") != ""
    except PackageNotFoundError:
        return False


def _workers(app: Celery) -> CheckFinding:
    answers = app.control.inspect(timeout=_PING_S).active_queues() or {}
    if not answers:
        remedy = "Start them: python -m workers segments, and python -m workers reduce."
        return _warn("no worker answers", remedy)
    idle = sorted(
        name
        for name, queues in answers.items()
        if not {queue["name"] for queue in queues} & {SEGMENTS_QUEUE, REDUCE_QUEUE}
    )
    if idle:
        return _fail(f"{', '.join(idle)}: it answers, but takes work from no queue", "Restart it.")
    return _ok(", ".join(sorted(answers)))
