"""Names of objects: which part of a bucket a root is, and what lies under it. Nothing is read."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Self

_SCHEME = "s3://"
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
#: To a bucket these are names like any other; to whoever normalises a path on the way they are not.
_NO_NAMES = frozenset({b"", b".", b".."})
#: s3fs takes what follows for no part of a key.
_VERSION = b"?versionId="


@dataclass(frozen=True, slots=True)
class BucketPath:
    """A bucket, or all that lies under a prefix in one; ``prefix`` neither begins nor ends in /."""

    bucket: str
    prefix: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read ``s3://bucket`` or ``s3://bucket/prefix``. Raises ValueError where it is neither."""
        bucket, _, prefix = url.removeprefix(_SCHEME).partition("/")
        prefix = prefix.rstrip("/")
        is_plain_prefix = not prefix or is_plain(os.fsencode(prefix))
        if not (is_url(os.fsencode(url)) and _BUCKET.fullmatch(bucket) and is_plain_prefix):
            raise ValueError(f"{url!r} is not s3://bucket/prefix")
        return cls(bucket, prefix)

    def __str__(self) -> str:
        return os.fsdecode(self.url(b""))

    def url(self, path: bytes) -> bytes:
        """Return the URL of what lies at ``path`` below."""
        return os.fsencode(_SCHEME + self.full_name(path))

    def key(self, path: bytes) -> bytes:
        """Return the key of what lies at ``path`` below."""
        return b"/".join(filter(None, (os.fsencode(self.prefix), path)))

    def full_name(self, path: bytes) -> str:
        """Return bucket and key of what lies at ``path`` below."""
        return "/".join(filter(None, (self.bucket, os.fsdecode(self.key(path)))))

    def relative(self, url: bytes) -> bytes | None:
        """Return the path of a URL below this one, b"" for this one itself, or None for neither."""
        base = self.url(b"")
        if url.rstrip(b"/") == base:
            return b""
        path = url.removeprefix(base + b"/")
        return path if path != url and is_plain(path) else None


def is_url(path: bytes) -> bool:
    """Tell whether what an operator named lies in a bucket, and not in a file system."""
    return path.startswith(_SCHEME.encode())


def is_plain(path: bytes) -> bool:
    """Tell whether a path below a bucket means the same to everyone: text, no dots, no gaps."""
    try:
        path.decode()
    except UnicodeDecodeError:
        return False
    return _VERSION not in path and _NO_NAMES.isdisjoint(path.split(b"/"))


def absolute_path(path: bytes) -> bytes:
    """Return a path, or a URL, as it is written wherever it was named from."""
    return path.rstrip(b"/") if is_url(path) else os.path.abspath(path)


def resolve_links(path: bytes) -> bytes:
    """Return where a path's symbolic links end; a URL has none."""
    return path if is_url(path) else os.path.realpath(path)
