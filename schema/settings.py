"""What a host is told by its environment, read once at each entry point and passed down.

Every variable starts with ``CALLSCRIBE_``; ``producer doctor`` checks what they name, and prints no
credentials. ``python -m ops.reference`` generates their page from the descriptions.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from schema.errors import ErrorCode, Misconfigured
from schema.records import Location
from schema.storage.bucket_path import BucketPath, is_url
from schema.urls import check_database_url, check_redis_url

#: The root that holds copies made at submit time; a name no other root can take.
SPOOL_ROOT = "spool"

#: Before every key in Redis, unless a fleet is told another name.
NAMESPACE = "callscribe"

#: Names that stand in a key of Redis as they are: no colon, which ends them, and no wildcard.
_NAMESPACE = re.compile(r"[a-z0-9-]{1,40}")

#: What separates roots: any colon but that of s3://.
_SEPARATOR = re.compile(r"(?<!=s3):|:(?!//)")

#: Of a secret that nobody guesses, whatever it is made of.
_SECRET_MIN = 24

#: Host and port, a host of IPv6 in brackets.
_ADDRESS = re.compile(r"(?:(?P<host>[^:\[\]]*|\[[0-9a-fA-F:.]+\]):)?(?P<port>[0-9]{1,5})")


class Address(NamedTuple):
    """Where a server of ours listens; port 0 is any free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``host:port``; a port alone is on loopback.

        Raises:
            ValueError: it is neither.
        """
        match = _ADDRESS.fullmatch(text)
        if match is None or int(match["port"]) > 65_535:
            raise ValueError(f"{text!r} is not host:port, or a port")
        return cls((match["host"] or "127.0.0.1").strip("[]"), int(match["port"]))


_Settings = TypeVar("_Settings", bound="BrokerSettings")


class Limits(BaseSettings):
    """What a recording may be at most; beyond, it is quarantined.

    The ledger counts milliseconds in 32 bits: a recording of 24 days would not fit.
    """

    model_config = SettingsConfigDict(env_prefix="CALLSCRIBE_MAX_", frozen=True)

    bytes: int = Field(
        4 * 1024**3, ge=1, le=2**50, description="The largest file that is taken, in bytes."
    )
    duration_s: int = Field(
        12 * 3600,
        ge=1,
        le=7 * 86_400,
        description="The longest recording that is taken, in seconds.",
    )
    rate_hz: int = Field(
        192_000, ge=4_000, le=2**20, description="The highest sample rate that is taken, in hertz."
    )
    channels: int = Field(
        8, ge=1, le=255, description="The most channels that `--channels split` takes."
    )

    #: Not settings: below these nothing can be heard.
    min_rate_hz: int = Field(4_000, init=False)
    min_duration_ms: int = Field(100, init=False)


def _models_directory() -> Path:
    """Return where weights are unless told: in the user's cache, or the host's for who has no home.

    A container's user, or a service's, may be a number that no file knows.
    """
    try:
        return Path.home() / ".cache" / "callscribe" / "models"
    except RuntimeError:
        return Path("/var/cache/callscribe/models")


class BrokerSettings(BaseSettings):
    """What a process is told that speaks to Redis alone, as Flower does."""

    model_config = SettingsConfigDict(
        env_prefix="CALLSCRIBE_", frozen=True, hide_input_in_errors=True
    )

    redis_url: SecretStr = Field(
        description="Where Redis is: `redis://:password@host:6379/0`, or `rediss://` for TLS. Set"
        " `maxmemory-policy noeviction` and `appendonly yes` in Redis."
    )
    namespace: str = Field(
        NAMESPACE,
        description="The prefix of every key in Redis: 1 to 40 lower-case letters, digits and"
        " hyphens. All hosts of a fleet have the same one; fleets that share a Redis differ.",
    )

    device: str = Field("cpu", description="Where a worker decodes: `cpu`, `cuda` or `cuda:1`.")
    together: int | None = Field(
        None,
        ge=1,
        le=64,
        description="How many segments a worker decodes together, if as many wait.",
    )
    read_ahead: bool | None = Field(
        None,
        description="Whether a worker reads the next segments' audio while it decodes: 1 or 0.",
    )
    shutdown_s: int = Field(
        30,
        ge=1,
        le=86_400,
        description="How many seconds a worker may take to finish its segment when it is stopped."
        " After that it hands the segment back.",
    )

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, value: SecretStr) -> SecretStr:
        check_redis_url(value.get_secret_value())
        return value

    @field_validator("namespace")
    @classmethod
    def _check_namespace(cls, value: str) -> str:
        if not _NAMESPACE.fullmatch(value):
            raise ValueError("it is not 1 to 40 lower-case letters, digits and hyphens")
        return value

    @property
    def reads_ahead(self) -> bool:
        """Whether audio is read ahead here."""
        return self.device.startswith("cuda") if self.read_ahead is None else self.read_ahead

    @property
    def segments_together(self) -> int:
        """How many segments are decoded together here, where so many wait."""
        if self.together is not None:
            return self.together
        return 4 if self.device.startswith("cuda") else 1


class Settings(BrokerSettings):
    """One host's configuration."""

    database_url: SecretStr = Field(
        description="Where Postgres is: `postgresql://user:password@host/name`. It may name a"
        " pooler, or several servers, of which the primary is used."
    )
    roots: Annotated[Mapping[str, Path | BucketPath], NoDecode] = Field(
        default_factory=dict,
        description="The only places where recordings are read, by name and separated by colons:"
        " `calls=/mnt/calls:cloud=s3://bucket/calls`. A root has the same name on all hosts; its"
        " directory or bucket may differ.",
    )
    spool: Path | None = Field(
        None,
        description="A directory that all hosts share. It has copies of recordings that cannot be"
        " read in place: mp3, opus, gsm, m4a and others.",
    )
    erasures: Path | None = Field(
        None,
        description="A file that notes what was erased and what is held, for `producer restored`."
        " It lies outside the ledger's dumps and is the same on every host that erases.",
    )
    models: Path = Field(
        default_factory=_models_directory, description="The directory of the models' weights."
    )
    node: str = Field(
        default_factory=socket.gethostname, description="The name of this host in leases and logs."
    )

    minibatch: int = Field(
        8,
        ge=1,
        le=1_024,
        description="How many windows Whisper decodes together. FunASR workers measure by"
        " themselves how much the GPU holds.",
    )
    compile: bool = Field(
        False,
        description="Whether FunASR's networks are recorded as CUDA graphs, on a GPU: 1 or 0. It"
        " needs no compiler.",
    )

    lease_s: int = Field(
        60,
        ge=2,
        le=86_400,
        description="How many seconds a worker that fell silent keeps its segment. After that and"
        " the next sweep, another worker takes the segment.",
    )
    sweep_s: int = Field(
        15, ge=1, le=86_400, description="How many seconds the sweep waits between two rounds."
    )
    high_water: int = Field(
        5_000,
        ge=1,
        le=10_000_000,
        description="The most messages in Redis. The sweep sends the rest as these are worked off.",
    )
    spool_reserve_bytes: int = Field(
        1024**3,
        ge=0,
        le=2**60,
        description="How many bytes the spool leaves free. Below that, a submit stops.",
    )

    voices_keep: timedelta | None = Field(
        None,
        description="How long the voices of a recording are kept after its transcript, such as `7d`"
        ". They are biometric data: unless it is set, the transcript's transaction erases them.",
    )

    seal_keys: Path | None = Field(
        None,
        description="The directory of the keys of protected calls: public ones where workers"
        " decode, private ones, too, where reducers run.",
    )

    notify_secret: SecretStr | None = Field(
        None, description="The secret that signs notifications: 24 characters or more."
    )
    notify_hosts: Annotated[frozenset[str], NoDecode] = Field(
        frozenset(),
        description="The only hosts that notifications may go to, separated by commas. Unless it"
        " is set, any host.",
    )

    metrics: Annotated[Address | None, NoDecode] = Field(
        None,
        description="Where this process serves metrics to Prometheus: `host:port`, or a port of"
        " loopback. Each process of a host needs its own port. Unless it is set, none are served.",
    )

    limits: Limits = Field(default_factory=Limits)

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, value: SecretStr) -> SecretStr:
        check_database_url(value.get_secret_value())
        return value

    @field_validator("erasures", "spool", "seal_keys", mode="before")
    @classmethod
    def _parse_place(cls, value: Any) -> Any:
        """Return None for an empty text, which a deployment writes for what it has not."""
        return value or None

    @field_validator("models", mode="before")
    @classmethod
    def _parse_models(cls, value: Any) -> Any:
        return value or _models_directory()

    @field_validator("erasures", "spool", "seal_keys", "models")
    @classmethod
    def _check_place(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_absolute():
            raise ValueError("it is no absolute path: it would be another in each directory")
        return value

    @field_validator("voices_keep", mode="before")
    @classmethod
    def _parse_duration(cls, value: Any) -> Any:
        return value or None

    @field_validator("voices_keep")
    @classmethod
    def _check_duration(cls, value: timedelta | None) -> timedelta | None:
        if value is not None and not timedelta() <= value <= timedelta(days=3_650):
            raise ValueError("it is not 0 days to 3,650 days")
        return value

    @field_validator("notify_secret")
    @classmethod
    def _check_notify_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None
        if len(value.get_secret_value()) < _SECRET_MIN:
            raise ValueError(f"it is shorter than {_SECRET_MIN} characters")
        return value

    @field_validator("notify_hosts", mode="before")
    @classmethod
    def _parse_hosts(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return frozenset(host.strip().lower() for host in value.split(",") if host.strip())

    @field_validator("metrics", mode="before")
    @classmethod
    def _parse_address(cls, value: Any) -> Any:
        return (Address.parse(value) if value else None) if isinstance(value, str) else value

    @field_validator("roots", mode="before")
    @classmethod
    def _parse_roots(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        roots: dict[str, Path | BucketPath] = {}
        for item in filter(None, _SEPARATOR.split(value)):
            name, _, place = item.partition("=")
            in_bucket = is_url(os.fsencode(place))
            if not name or not (in_bucket or os.path.isabs(place)):
                raise ValueError(f"{item!r} is not name=/absolute/path or name=s3://bucket/prefix")
            if name == SPOOL_ROOT or name in roots:
                raise ValueError(f"the root name {name!r} is taken")
            roots[name] = BucketPath.parse(place) if in_bucket else Path(place)
        return roots

    @property
    def directories(self) -> Mapping[str, Path]:
        """The roots that are directories on this host."""
        return {root: at for root, at in self.roots.items() if isinstance(at, Path)}

    @property
    def buckets(self) -> Mapping[str, BucketPath]:
        """The roots that are buckets, or parts of them, on this host."""
        return {root: at for root, at in self.roots.items() if isinstance(at, BucketPath)}

    def root_path(self, root: str) -> str:
        """Return where this host has the directory of a root, with symbolic links resolved.

        Raises:
            Misconfigured: this host has no directory of that name.
        """
        path = self.spool if root == SPOOL_ROOT else self.directories.get(root)
        if path is None:
            variable = "CALLSCRIBE_SPOOL" if root == SPOOL_ROOT else "CALLSCRIBE_ROOTS"
            raise Misconfigured(
                ErrorCode.SETTING_MISSING,
                f"root {root}",
                f"{self.node} has no root of this name",
                f"Add it to {variable}.",
            )
        return os.path.realpath(path)

    def path_of(self, location: Location) -> bytes:
        """Return the path, or the URL, at which this host finds what lies at a location.

        Raises:
            Misconfigured: this host has no root of that name.
        """
        if location.root in self.buckets:
            return self.buckets[location.root].url(location.path)
        return location.absolute_path(self.root_path(location.root))

    def locate(self, path: bytes) -> Location | None:
        """Return which root a file lies under, by name as by its links' end, or None for none.

        The location keeps the name that the file was found by: two links to one file may be two
        calls. A link that leads from one root to another is located where it ends. A URL is
        located by name alone; that of a root itself has an empty path.
        """
        if is_url(path):
            return self._locate_object(path)
        real = os.path.realpath(path)
        for name in (os.path.abspath(path), real):
            for root, directory in self.directories.items():
                base = os.fsencode(self.root_path(root))
                for start in (os.path.abspath(os.fsencode(directory)), base):
                    if _is_under(name, start) and _is_under(real, base):
                        return Location(root, os.path.relpath(name, start))
        return None

    def _locate_object(self, url: bytes) -> Location | None:
        for root, bucket in self.buckets.items():
            path = bucket.relative(url)
            if path is not None:
                return Location(root, path)
        return None


def _is_under(path: bytes, directory: bytes) -> bool:
    return path.startswith(directory.rstrip(b"/") + b"/")


def load_settings() -> Settings:
    """Read the environment.

    Raises:
        Misconfigured: a variable is missing or cannot be understood; named without its value.
    """
    return _load(Settings)


def load_broker_settings() -> BrokerSettings:
    """Read of the environment what Redis alone takes; no ledger need be named.

    Raises:
        Misconfigured: a variable is missing or cannot be understood; named without its value.
    """
    return _load(BrokerSettings)


def _load(kind: type[_Settings]) -> _Settings:
    try:
        return kind()
    except SettingsError:
        raise Misconfigured(
            ErrorCode.SETTING_MISSING,
            "CALLSCRIBE_LIMITS",
            "it is no setting",
            "Set the limits by their names: ops/docs/reference/settings.md lists them.",
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        prefix = (Limits if error.title == Limits.__name__ else Settings).model_config["env_prefix"]
        variable = f"{prefix}{'_'.join(map(str, first['loc']))}".upper()
        raise Misconfigured(
            ErrorCode.SETTING_MISSING,
            variable,
            "it is not set" if first["type"] == "missing" else first["msg"],
            "ops/quickstart sets everything up on one machine; "
            "ops/docs/reference/settings.md lists the variables.",
        ) from None
