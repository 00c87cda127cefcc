"""Results whose texts are sealed: whoever decodes can seal, and only who reduces can unseal.

The texts of a result, and what its tags say in text, are compressed and sealed to a public key by
HPKE (RFC 9180: X25519, HKDF-SHA256, AES-256-GCM), bound to the decode key; times and confidences
stay clear. Keys are files of one directory, a pair for each day:

    20260501-1f6c09ab44d2.public.pem     on every host that decodes
    20260501-1f6c09ab44d2.private.pem    on hosts that reduce, and nowhere else

A pair is used for two days and destroyed after three, so that what an old dump or a log of Postgres
still holds stays shut.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from schema.errors import ErrorCode, Misconfigured
from schema.span import Span
from schema.words import ResultTag, SegmentResult

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)

T = TypeVar("T")

_PUBLIC, _PRIVATE = ".public.pem", ".private.pem"

#: A key's date is when it was made. One is sealed to for so long, and unsealed by for so long:
#: the last result of its time has a day to become a transcript.
SEALS_FOR = timedelta(days=2)
UNSEALS_FOR = timedelta(days=3)

#: Tags that are numbers, or the name of a model: whatever else a tag says is sealed.
_CLEAR_TAGS = frozenset(
    {
        ResultTag.DOUBTS,
        ResultTag.GUESSED_TIMES,
        ResultTag.LOUDNESS_DB,
        ResultTag.SMALLER_MODEL,
    }
)


class KeyDestroyed(Exception):
    """What was sealed cannot be read by anybody any more."""


@dataclass(frozen=True, slots=True)
class SealedResult:
    """A decode's result with its texts sealed; ``columns`` are its words' times, as in the ledger.

    ``blob`` is empty where the texts were erased.
    """

    columns: Mapping[str, Any]
    speech: tuple[Span, ...]
    language: str | None
    key_id: str
    blob: str
    tags: dict[str, Any] = field(default_factory=dict)

    @property
    def word_count(self) -> int:
        """How many words it has."""
        return len(self.columns["gaps_ms"])

    def to_json(self) -> dict[str, Any]:
        """Return the form kept in the ledger."""
        return {
            "words": dict(self.columns),
            "speech": [[span.start_ms, span.end_ms] for span in self.speech],
            "language": self.language,
            "tags": self.tags,
            "sealed": {"key": self.key_id, "blob": self.blob},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SealedResult:
        """Rebuild it from :meth:`to_json`."""
        return cls(
            columns=value["words"],
            speech=tuple(Span(start, end) for start, end in value["speech"]),
            language=value["language"],
            key_id=value["sealed"]["key"],
            blob=value["sealed"]["blob"],
            tags=value["tags"],
        )


def read_result(body: dict[str, Any]) -> SegmentResult | SealedResult:
    """Return a result as the ledger has it, sealed or not."""
    return SealedResult.from_json(body) if "sealed" in body else SegmentResult.from_json(body)


class PublicKey(NamedTuple):
    """A key to seal to, and its id."""

    id: str
    key: X25519PublicKey


def seal(result: SegmentResult, decode_key: str, key: PublicKey) -> SealedResult:
    """Return a result with its texts sealed."""
    body = result.to_json()
    tags = {name: value for name, value in result.tags.items() if name not in _CLEAR_TAGS}
    texts = {"texts": body["words"].pop("texts"), "tags": tags}
    data = zlib.compress(json.dumps(texts, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    sealed = _SUITE.encrypt(data, key.key, _bound_to(decode_key))
    return SealedResult(
        columns=body["words"],
        speech=result.speech,
        language=result.language,
        key_id=key.id,
        blob=base64.b64encode(sealed).decode(),
        tags={name: value for name, value in result.tags.items() if name in _CLEAR_TAGS},
    )


def unseal(sealed: SealedResult, decode_key: str, key: X25519PrivateKey) -> SegmentResult:
    """Return the result with its texts.

    Raises:
        cryptography.exceptions.InvalidTag: it was sealed to another key, or for another decode.
    """
    data = _SUITE.decrypt(base64.b64decode(sealed.blob), key, _bound_to(decode_key))
    texts = json.loads(zlib.decompress(data).decode("utf-8", "surrogatepass"))
    body = sealed.to_json()
    body["words"] = {**body["words"], "texts": texts["texts"]}
    return replace(SegmentResult.from_json(body), tags={**sealed.tags, **texts["tags"]})


def _bound_to(decode_key: str) -> bytes:
    return f"callscribe result 1 {decode_key}".encode()


@dataclass(frozen=True, slots=True)
class KeyDirectory:
    """The keys that a host has; ``path`` is None where it was told of none."""

    path: Path | None

    def public_key(self) -> PublicKey:
        """Return the newest key to seal to.

        Raises:
            Misconfigured: this host has none that is in use still.
        """
        oldest = _today() - SEALS_FOR
        ids = [name for name in self._ids(_PUBLIC) if oldest < _date_of(name)]
        if not ids:
            raise self._missing(f"it has no public key made since {oldest + timedelta(days=1)}")
        id_ = max(ids)
        key = self._load(id_ + _PUBLIC, serialization.load_pem_public_key)
        if not isinstance(key, X25519PublicKey) or key_id(key, _date_of(id_)) != id_:
            raise self._missing(f"{id_}{_PUBLIC} is not the key that its name says")
        return PublicKey(id_, key)

    def private_ids(self) -> list[str]:
        """Return the ids of the private keys that this host has."""
        return self._ids(_PRIVATE)

    def private_key(self, id_: str) -> X25519PrivateKey:
        """Return the key that unseals what was sealed to ``id_``.

        Raises:
            KeyDestroyed: nobody has it any more.
            Misconfigured: this host has not got it.
        """
        name = id_ + _PRIVATE
        if id_ not in self.private_ids():
            if _date_of(id_) <= _today() - UNSEALS_FOR:
                raise KeyDestroyed(id_)
            raise self._missing(f"it has no {name}")
        key = self._load(name, partial(serialization.load_pem_private_key, password=None))
        if not isinstance(key, X25519PrivateKey):
            raise self._missing(f"{name} is no X25519 key")
        return key

    def rotate(self) -> tuple[list[str], list[str]]:
        """Make today's pair, unless it is there, and destroy old ones; return the ids of both."""
        directory = self._path("")
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        today = _today()
        made = []
        if not any(_date_of(id_) == today for id_ in self._ids(_PRIVATE)):
            made = [self._make(today)]
        destroyed = []
        for id_ in self._ids(_PRIVATE):
            if _date_of(id_) <= today - UNSEALS_FOR:
                _destroy(directory / (id_ + _PRIVATE))
                (directory / (id_ + _PUBLIC)).unlink(missing_ok=True)
                destroyed.append(id_)
        return made, destroyed

    def _make(self, day: date) -> str:
        private = X25519PrivateKey.generate()
        public = private.public_key()
        id_ = key_id(public, day)
        # The private one first: what was sealed to a key that only half exists would be lost.
        self._write(
            id_ + _PRIVATE,
            private.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
            0o600,
        )
        self._write(
            id_ + _PUBLIC,
            public.public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            ),
            0o644,
        )
        return id_

    def _write(self, name: str, data: bytes, mode: int) -> None:
        path = self._path(name)
        partial = path.with_name(f".{name}.partial")
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)

    def _ids(self, suffix: str) -> list[str]:
        """Return the ids of the keys of one kind.

        Raises:
            Misconfigured: the directory cannot be read.
        """
        try:
            names = os.listdir(self.path) if self.path is not None else []
        except FileNotFoundError:
            names = []
        except OSError as error:
            raise self._missing(f"{self.path} cannot be read: {error.strerror}") from error
        ids = (name.removesuffix(suffix) for name in sorted(names) if name.endswith(suffix))
        return [id_ for id_ in ids if _date_of(id_) != date.min]

    def _path(self, name: str) -> Path:
        if self.path is None:
            raise self._missing("it was told of no directory")
        return self.path / name

    def _load(self, name: str, load: Callable[[bytes], T]) -> T:
        """Return a key; one that is being copied may be half a file."""
        try:
            return load(self._path(name).read_bytes())
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise self._missing(f"{name} cannot be read: {type(error).__name__}") from error

    def _missing(self, cause: str) -> Misconfigured:
        return Misconfigured(
            ErrorCode.SEAL_KEY_MISSING,
            "keys of protected calls",
            cause,
            "Set CALLSCRIBE_SEAL_KEYS, run python -m workers keys where reducers run, and copy the"
            " public keys to every host that decodes.",
        )


def key_id(key: X25519PublicKey, day: date) -> str:
    """Return a key's id: its day, and what it begins with once hashed."""
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return f"{day:%Y%m%d}-{hashlib.sha256(raw).hexdigest()[:12]}"


def _date_of(id_: str) -> date:
    try:
        return datetime.strptime(id_.partition("-")[0], "%Y%m%d").replace(tzinfo=UTC).date()
    except ValueError:
        return date.min


def _today() -> date:
    return datetime.now(UTC).date()


def _destroy(path: Path) -> None:
    """Overwrite a file, as far as its file system lets that mean anything, and remove it."""
    with path.open("r+b") as file:
        file.write(os.urandom(path.stat().st_size))
        file.flush()
        os.fsync(file.fileno())
    path.unlink()
