"""The page of settings, from schema.settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from annotated_types import Ge, Le
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from ops.reference.markdown import head, table, to_page, wrap
from schema.settings import Limits, Settings


@dataclass(frozen=True, slots=True)
class Section:
    """Settings that are set together: a heading, what to know of them, and the fields' names."""

    title: str
    introduction: str
    names: tuple[str, ...]
    settings: type[BaseSettings] = Settings


#: A new setting goes into one of these.
SECTIONS = (
    Section(
        "Servers",
        "Every process needs these. [Security](../operate/security.md) says which login is for"
        " what; [database](../operate/database.md) has TLS, poolers and standbys.",
        ("database_url", "redis_url", "namespace", "node"),
    ),
    Section(
        "Files",
        "Paths are absolute. Of S3-compatible storage, each host's own `AWS_*` variables say where"
        " it is and whose keys to use: `AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`,"
        " `AWS_SECRET_ACCESS_KEY` and so on. A key needs `s3:ListBucket` and `s3:GetObject`. The"
        " producer examines each object in a temporary copy, in `TMPDIR`.",
        ("roots", "spool", "spool_reserve_bytes", "models", "erasures"),
    ),
    Section(
        "Decoding",
        "These are for workers (`python -m workers segments`). `CUDA_VISIBLE_DEVICES` chooses a"
        " worker's GPU.",
        ("device", "minibatch", "together", "compile", "read_ahead", "shutdown_s"),
    ),
    Section(
        "Recovery and the queue",
        "A lost host's work is taken up after `CALLSCRIBE_LEASE_S` and `CALLSCRIBE_SWEEP_S`"
        " together.",
        ("lease_s", "sweep_s", "high_water"),
    ),
    Section(
        "Privacy",
        "`CALLSCRIBE_VOICES_KEEP` is for the reducer (`python -m workers reduce`);"
        " [speakers](../guide/speakers.md) says what voices are for. [Protected"
        " calls](../guide/protected-calls.md) says what the keys are for.",
        ("voices_keep", "seal_keys"),
    ),
    Section(
        "Notifications",
        "[Notifications](../guide/notify.md) has what is sent, and a receiver.",
        ("notify_secret", "notify_hosts"),
    ),
    Section(
        "Metrics",
        "[Metrics](metrics.md) has their names, [monitoring](../operate/monitoring.md) how to"
        " collect them. Nothing asks for a password: other addresses than loopback belong behind a"
        " firewall or a proxy. A process keeps its counts in a directory in `TMPDIR` (400 KB), and"
        " removes it.",
        ("metrics",),
    ),
    Section(
        "Limits",
        "A recording beyond these is quarantined. They count where recordings are submitted.",
        tuple(name for name, field in Limits.model_fields.items() if field.init is not False),
        Limits,
    ),
)

#: Defaults that each host computes.
_COMPUTED: Mapping[str, str] = {
    "node": "its host name",
    "models": "`~/.cache/callscribe/models`; `/var/cache/callscribe/models` for a user without a"
    " home",
    "together": "4 on a GPU, else 1",
    "read_ahead": "1 on a GPU, else 0",
}

#: By the end of a name, the units that people would say its number in.
_UNITS = (
    ("_s", ((86_400, " d"), (3_600, " h"), (60, " min"), (1, " s"))),
    ("bytes", ((2**60, " EiB"), (2**50, " PiB"), (2**30, " GiB"), (1, " B"))),
    ("_hz", ((1, " Hz"),)),
    ("", ((1, ""),)),
)


def page() -> str:
    """Return the page, as Markdown."""
    return to_page(_lines())


def _lines() -> Iterator[str]:
    yield from head(
        "Settings", "Every environment variable that configures a host.", "schema/settings.py"
    )
    yield wrap(
        "All hosts of a fleet have the same values, but for what is of one host: its node, device,"
        " directories and metrics. `producer doctor` checks what they name, and prints no password."
        " An empty path, secret or address counts as not set. [Flower](../operate/flower.md) has"
        " variables of its own."
    )
    yield ""
    for section in SECTIONS:
        yield f"## {section.title}\n"
        yield wrap(section.introduction) + "\n"
        rows = (_row(section.settings, name) for name in section.names)
        yield from table(("Variable", "Meaning", "Default", "Bounds"), rows)


def variable(settings: type[BaseSettings], name: str) -> str:
    """Return the environment variable of a field."""
    return f"{settings.model_config['env_prefix']}{name}".upper()


def _row(settings: type[BaseSettings], name: str) -> tuple[str, ...]:
    field = settings.model_fields[name]
    return (
        f"`{variable(settings, name)}`",
        field.description or "",
        _default(name, field),
        _bounds(name, field),
    )


def _default(name: str, field: FieldInfo) -> str:
    if name in _COMPUTED:
        return _COMPUTED[name]
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value in ({}, frozenset()):
        return "not set"
    if not isinstance(value, int):
        return f"`{value}`"
    short = _short(name, value)
    unit_is_plain = short.partition(" ")[0].replace(",", "") == str(value)
    return f"`{int(value)}`" if unit_is_plain or value is False else f"`{value}` ({short})"


def _bounds(name: str, field: FieldInfo) -> str:
    lowest = next((bound.ge for bound in field.metadata if isinstance(bound, Ge)), None)
    highest = next((bound.le for bound in field.metadata if isinstance(bound, Le)), None)
    if lowest is None or highest is None:
        return ""
    return f"{_short(name, lowest)} to {_short(name, highest)}"


def _short(name: str, value: Any) -> str:
    """Return a number as people say it, such as "12 h"."""
    units = next(units for end, units in _UNITS if name.endswith(end))
    size, unit = next((s, u) for s, u in units if s == 1 or (value >= s and value % s == 0))
    return f"{value // size:,}{unit}"
