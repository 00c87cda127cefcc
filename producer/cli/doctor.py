"""Is everything there that a fleet needs? Each check says what it found, and what to do."""

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
from typing import Any

from celery import Celery
from redis.exceptions import AuthenticationError

from schema.broker import explain
from schema.errors import CallscribeError
from schema.migrate import current_revision, head_revision, missing_indexes, outdated
from schema.models import KNOWN
from schema.namespace import Namespace, namespace_taken
from schema.processor import has_bfloat16
from schema.roles import excess, existing_roles
from schema.settings import SPOOL_ROOT, Settings
from schema.storage.roots import storage_of
from schema.store.checks import check_database
from schema.store.connection import is_pooled, sets_limits
from schema.store.erasure.invalid_values import count_odd_dates, mend_dates
from schema.store.ledger import Ledger
from schema.store.work.events import untold
from schema.wire import REDUCE_QUEUE, SEGMENTS_QUEUE, queued

_PACKAGES = ("celery", "redis", "sqlalchemy", "psycopg", "soundfile", "av")

#: NVIDIA's own tool, which comes with its driver.
_DRIVER = "nvidia-smi"

#: Workers have this long to answer; one that decodes answers at once, from its parent process.
_PING_S = 2.0


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's result."""

    check: str
    verdict: Verdict
    detail: str
    remedy: str = ""


def examine_host(settings: Settings, ledger: Ledger, app: Celery) -> Iterator[Finding]:
    """Yield the result of every check, as it is made."""
    yield Finding("versions", Verdict.OK, _versions())
    yield _guarded("ledger", lambda: _ledger(ledger))
    yield _guarded("pooler", lambda: _pooler(ledger))
    yield _guarded("roles", lambda: _roles(ledger))
    yield _guarded("values", lambda: _values(ledger))
    yield _guarded("notify", lambda: _notify(settings, ledger))
    redis = _guarded("redis", lambda: _redis(app, settings))
    yield redis
    if redis.verdict is Verdict.FAIL:
        namespace = Finding("namespace", Verdict.WARN, "not asked: Redis does not answer")
    else:
        namespace = _guarded("namespace", lambda: _namespace(app, settings, ledger))
    yield namespace
    for root in settings.roots:
        yield _guarded(f"root {root}", partial(_root, settings, root))
    if not settings.roots:
        yield Finding("roots", Verdict.FAIL, "none", "Set CALLSCRIBE_ROOTS=calls=/path")
    yield _guarded("spool", lambda: _spool(settings))
    yield from _models(settings)
    yield _guarded("device", lambda: device(settings))
    if redis.verdict is Verdict.FAIL:
        yield Finding("workers", Verdict.WARN, "not asked: they answer through Redis")
    elif namespace.verdict is Verdict.FAIL:
        yield Finding("workers", Verdict.WARN, "not asked: those that answer are another fleet's")
    else:
        yield _guarded("workers", lambda: _workers(app))


def _guarded(check: str, run: Callable[[], Finding]) -> Finding:
    """Run a check; what goes wrong in it is its result. Never a URL: it may hold a password."""
    try:
        return run()
    except CallscribeError as error:
        return Finding(check, Verdict.FAIL, error.cause, error.remedy)
    except Exception as error:
        return Finding(check, Verdict.FAIL, *_unanswered(error))


def _unanswered(error: Exception) -> tuple[str, str]:
    """Return why a server does not answer, as far as it is safe to say, and what to do."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            remedy = "Name the CA that signed it: rediss://...?ssl_ca_certs=/path/ca.pem"
            return f"its certificate is not trusted: {cause.verify_message}", remedy
        if isinstance(cause, AuthenticationError):
            return "it refuses the password", "Is the URL of Redis right?"
        cause = cause.__cause__ or cause.__context__
    return f"{type(error).__name__}: it does not answer", ""


def _pooler(ledger: Ledger) -> Finding:
    """Say whether a pooler lies before the ledger, and where time limits come from."""
    if not is_pooled(ledger.engine):
        return Finding("pooler", Verdict.OK, "none: statements are prepared once")
    if not sets_limits(ledger.engine):
        return Finding("pooler", Verdict.OK, "one, and the login has our time limits")
    return Finding(
        "pooler",
        Verdict.WARN,
        "one, and the login lacks our time limits: each transaction sets them, a round trip more",
        "Run producer migrate --roles with the URL of Postgres itself, then RECONNECT the pooler.",
    )


def _values(ledger: Ledger) -> Finding:
    """Say which stored values are none that can be, and how they are put right."""
    with ledger.reading() as connection:
        odd = count_odd_dates(connection)
    if not odd:
        return Finding("values", Verdict.OK, "every call's date can be one")
    detail = f"{odd:,} recordings say that their call began when none can have"
    return Finding("values", Verdict.WARN, detail, "producer doctor --fix takes these dates away")


def fix(ledger: Ledger) -> Finding:
    """Put right what :func:`examine_host` finds to be put right; say what that was."""
    mended = ledger.transact(mend_dates)
    return Finding("values", Verdict.OK, f"dates of {mended:,} recordings taken away, and flagged")


def _versions() -> str:
    return ", ".join([f"python {platform.python_version()}", *map(_version, _PACKAGES)])


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} missing"


def _ledger(ledger: Ledger) -> Finding:
    with ledger.reading() as connection:
        check_database(connection)
        found = current_revision(connection)
        server = connection.exec_driver_sql("show server_version").scalar()
        missing = [str(index.name) for index in missing_indexes(connection)]
    if found != head_revision():
        error = outdated(found)
        return Finding("ledger", Verdict.FAIL, error.cause, error.remedy)
    detail = f"Postgres {server}, revision {found}"
    if missing:
        slow = f"{detail}; not built: {', '.join(missing)}; search, export or the sweep is slow"
        return Finding("ledger", Verdict.WARN, slow, "Run: producer migrate")
    return Finding("ledger", Verdict.OK, detail)


def _roles(ledger: Ledger) -> Finding:
    """Say what the roles of Postgres may do and are not to."""
    with ledger.reading() as connection:
        if current_revision(connection) != head_revision():
            return Finding("roles", Verdict.WARN, "not asked: the ledger is another version's")
        roles, found = existing_roles(connection), excess(connection)
    if not roles:
        return Finding("roles", Verdict.OK, "none: every login is the tables' owner")
    if found:
        causes, remedies = zip(*((each.cause, each.remedy) for each in found), strict=True)
        return Finding("roles", Verdict.WARN, "; ".join(causes), ". ".join(remedies))
    return Finding("roles", Verdict.OK, "none may do more than its work")


def _notify(settings: Settings, ledger: Ledger) -> Finding:
    with ledger.reading() as connection:
        if current_revision(connection) != head_revision():
            return Finding("notify", Verdict.WARN, "not asked: the ledger is another version's")
        waiting = untold(connection)
    signed = "signed" if settings.notify_secret else "this host has no secret"
    events = sum(receiver.events for receiver in waiting)
    failing = [receiver for receiver in waiting if receiver.failing_since]
    if failing:
        hosts = ", ".join(f"{r.host} ({r.events} since {r.failing_since:%F %R})" for r in failing)
        remedy = "See to the receiver: an event is tried for a day; producer status has the error"
        return Finding("notify", Verdict.WARN, f"{signed}; not taken by {hosts}", remedy)
    if events and settings.notify_secret is None:
        remedy = "Set CALLSCRIBE_NOTIFY_SECRET where reducers run, unless this is no such host"
        return Finding("notify", Verdict.WARN, f"{signed}, and {events} events wait", remedy)
    return Finding("notify", Verdict.OK, f"{signed}; {events} events wait")


def _other_kind(info: Mapping[str, Any]) -> Finding | None:
    """Name a server that is a Redis and takes no messages."""
    mode = info.get("redis_mode", "standalone")
    if mode != "standalone":
        remedy = "Name a Redis itself in CALLSCRIBE_REDIS_URL: no Sentinel and no Cluster."
        detail = f"it is a Redis {mode.title()}, which takes no messages"
        return Finding("redis", Verdict.FAIL, detail, remedy)
    if info.get("role") == "slave":
        remedy = "Name the primary in CALLSCRIBE_REDIS_URL."
        return Finding("redis", Verdict.FAIL, "it is a replica", remedy)
    return None


def _try_as_a_worker(channel: Any) -> None:
    """Do what a worker does and a producer does not, so that a missing right is named here."""
    listener = channel.client.pubsub()
    try:
        mailbox = f"{channel.keyprefix_fanout}celery.pidbox"
        listener.psubscribe(mailbox)
        listener.get_message(timeout=_PING_S)
    finally:
        listener.close()
    # Of a script: what it calls is not named where it may not.
    channel.client.eval("return 1", 0)
    channel.client.time()


def _redis(app: Celery, settings: Settings) -> Finding:
    try:
        with app.connection_for_write() as connection:
            client = connection.default_channel.client
            info = client.info()
            if other := _other_kind(info):
                return other
            waiting = queued(client)
            _try_as_a_worker(connection.default_channel)
    except Exception as error:
        return Finding("redis", Verdict.FAIL, *explain(error))
    rest = waiting.segments - waiting.first
    detail = f"Redis {info['redis_version']}, {rest} of {settings.high_water} messages"
    if waiting.first:
        detail += f" and {waiting.first} before them"
    if (app.conf.broker_use_ssl or {}).get("ssl_cert_reqs") is ssl.CERT_NONE:
        remedy = "Name the CA by ssl_ca_certs, and say nothing of ssl_cert_reqs"
        return Finding("redis", Verdict.WARN, f"{detail}, which anybody may pose as", remedy)
    if info.get("maxmemory_policy") not in (None, "noeviction"):
        remedy = "Set maxmemory-policy noeviction: Redis may drop messages, and the sweep is slower"
        return Finding("redis", Verdict.WARN, f"{detail}, evicts keys when full", remedy)
    if not info.get("aof_enabled"):
        remedy = "Set appendonly yes; without it the sweep sends everything again after a restart"
        return Finding("redis", Verdict.WARN, f"{detail}, forgets when restarted", remedy)
    return Finding("redis", Verdict.OK, detail)


def _namespace(app: Celery, settings: Settings, ledger: Ledger) -> Finding:
    """Say whose fleet lives in this host's namespace in Redis."""
    namespace = Namespace(app, ledger, settings)
    holder = namespace.holder()
    if holder is None:
        detail = f"{settings.namespace}, which no sweep keeps now"
        return Finding("namespace", Verdict.OK, detail)
    try:
        here = namespace.identity()
    except CallscribeError:
        detail = f"{settings.namespace}; whose it is, is not known without the ledger"
        return Finding("namespace", Verdict.WARN, detail)
    if holder.ledger != here:
        raise namespace_taken(settings.namespace, holder, here)
    return Finding("namespace", Verdict.OK, f"{settings.namespace}, kept by this ledger's sweep")


def _root(settings: Settings, root: str) -> Finding:
    storage_of(settings, root).check()
    return Finding(f"root {root}", Verdict.OK, str(settings.roots[root]))


def _spool(settings: Settings) -> Finding:
    if settings.spool is None:
        remedy = "Set CALLSCRIBE_SPOOL; without it m4a, amr, GSM and the like are refused"
        return Finding("spool", Verdict.WARN, "none", remedy)
    path = settings.root_path(SPOOL_ROOT)
    if not os.path.isdir(path) or not os.access(path, os.W_OK):
        return Finding("spool", Verdict.FAIL, f"{path} cannot be written to")
    free = shutil.disk_usage(path).free
    detail = f"{path}, {free / 1024**3:.1f} GiB free"
    if free < settings.spool_reserve_bytes:
        return Finding("spool", Verdict.FAIL, detail, "Make room, or lower the reserve")
    return Finding("spool", Verdict.OK, detail)


def _models(settings: Settings) -> Iterator[Finding]:
    for name, model in KNOWN.items():
        directory = settings.models / name
        missing = [file for file in model.files if not (directory / file).is_file()]
        if not missing:
            yield Finding(f"model {name}", Verdict.OK, str(directory))
        else:
            detail = f"{', '.join(missing)} missing in {directory}"
            remedy = f"Only workers need it: python -m ops.local.models {name}"
            yield Finding(f"model {name}", Verdict.WARN, detail, remedy)


def device(settings: Settings) -> Finding:
    """Say what this host's workers decode on; a GPU is asked through its driver, not torch."""
    if not settings.device.startswith("cuda"):
        cores = len(os.sched_getaffinity(0))
        half = "bfloat16 is fast" if has_bfloat16() else "bfloat16 is slow"
        detail = f"{settings.device}, {cores} cores: a worker for each; {half}"
        return Finding("device", Verdict.OK, detail)
    index = settings.device.partition(":")[2] or "0"
    asked = "name,driver_version,memory.total,memory.free"
    try:
        done = subprocess.run(
            [_DRIVER, "-i", index, f"--query-gpu={asked}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=_PING_S * 5,
        )
    except (OSError, subprocess.SubprocessError):
        remedy = "Install NVIDIA's driver, or set CALLSCRIBE_DEVICE to what this host has"
        return Finding("device", Verdict.FAIL, f"{settings.device}: no GPU answers", remedy)
    name, driver, total, free = (part.strip() for part in done.stdout.strip().split(","))
    detail = f"{settings.device}: {name}, driver {driver}, {free} free of {total}"
    return _with_libraries(detail, _torch_cuda(), has_cublas=_has_cublas())


def _with_libraries(detail: str, cuda: str | None, *, has_cublas: bool) -> Finding:
    """Say as well what torch was built for, and whether Whisper finds its library."""
    if cuda is None:
        remedy = "Install torch's build for CUDA: ops/quickstart --torch cuda, or its package index"
        return Finding("device", Verdict.FAIL, f"{detail}; no torch for CUDA is installed", remedy)
    detail = f"{detail}; torch for CUDA {cuda}"
    if not has_cublas:
        remedy = "Install the extra cuda beside worker, unless only FunASR decodes here"
        return Finding("device", Verdict.WARN, f"{detail}, no cuBLAS 12 for Whisper", remedy)
    return Finding("device", Verdict.OK, f"{detail}, cuBLAS 12")


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


def _workers(app: Celery) -> Finding:
    answers = app.control.inspect(timeout=_PING_S).active_queues() or {}
    if not answers:
        remedy = "Start one: python -m workers segments, and one: python -m workers reduce"
        return Finding("workers", Verdict.WARN, "none answers", remedy)
    idle = sorted(
        name
        for name, queues in answers.items()
        if not {queue["name"] for queue in queues} & {SEGMENTS_QUEUE, REDUCE_QUEUE}
    )
    if idle:
        detail = f"{', '.join(idle)}: it answers, and takes work from no queue"
        return Finding("workers", Verdict.FAIL, detail, "Start it again.")
    return Finding("workers", Verdict.OK, ", ".join(sorted(answers)))
