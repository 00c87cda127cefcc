"""Recordings in buckets, found by the rules for files: a key is a path, its slashes directories."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby, islice
from typing import TYPE_CHECKING, NamedTuple

from producer.sources.walk import Disk, Found, Place, Sieve, is_set_aside
from schema.errors import BadRequest, ErrorCode
from schema.records import Location, Notice
from schema.settings import Settings
from schema.storage.bucket_path import absolute, is_plain, is_url
from schema.storage.roots import bucket_of

if TYPE_CHECKING:
    from schema.storage.s3 import Bucket, Listed

#: Objects whose first bytes are held at a time.
_CHUNK = 128


class Anywhere:
    """The place of every path: a URL leads into a bucket, any other to a disk."""

    def __init__(self, settings: Settings) -> None:
        self._disk = Disk()
        self._roots = [os.fsencode(settings.root_path(root)) for root in settings.directories]
        self._buckets = Buckets(settings)

    def exists(self, path: bytes) -> bool:
        """Tell whether there is anything at ``path``."""
        return self._place(path).exists(path)

    def walk(self, path: bytes, sieve: Sieve) -> Iterator[Found | Notice]:
        """Yield what passes of what lies at or below ``path``."""
        return self._place(path).walk(path, sieve)

    def read(self, paths: Sequence[bytes], most_bytes: int) -> Iterator[bytes | OSError]:
        """Read the first bytes of files, see :data:`producer.sources.walk.Read`."""
        for _, group in groupby(paths, is_url):
            together = list(group)
            yield from self._place(together[0]).read(together, most_bytes)

    def read_in_roots(self, paths: Sequence[bytes], most_bytes: int) -> Iterator[bytes | OSError]:
        """Read as :meth:`read` does, but no file that a link out of the roots leads to."""
        for in_bucket, group in groupby(paths, is_url):
            if in_bucket:
                yield from self._buckets.read(list(group), most_bytes)
            else:
                yield from self._disk.read(list(group), most_bytes, self._roots)

    def _place(self, path: bytes) -> Place:
        return self._buckets if is_url(path) else self._disk


class _Object(NamedTuple):
    """An object of a listing."""

    bucket: Bucket
    listed: Listed


class Buckets:
    """The roots that are buckets, or parts of them.

    What lies below a URL is listed once, all of it: a listing tells the sizes, and which sidecars
    there are, of a thousand objects a request.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._listings: dict[bytes, Sequence[bytes]] = {}
        #: What all listings hold, by URL.
        self._objects: dict[bytes, _Object] = {}

    def exists(self, path: bytes) -> bool:
        """Tell whether there is an object at or below a URL."""
        return bool(self._listing(absolute(path)))

    def walk(self, path: bytes, sieve: Sieve) -> Iterator[Found | Notice]:
        """Yield what passes of the objects below a URL; one that is named itself does."""
        listing = self._listing(path)
        if listing == [path]:
            yield self._known(Found(path, os.path.dirname(path)))
            return
        yield from (_ambiguous(url) for url in listing if not is_plain(_below(path, url)))
        urls = [url for url in listing if is_plain(_below(path, url))]
        hidden = {url: _hidden_part(path, url) for url in urls}
        for part in sorted(set(filter(None, hidden.values()))):
            # A directory has a name that something lies below.
            if part not in hidden and is_set_aside(os.path.basename(part)):
                sieve.set_aside(part)
            else:
                sieve.hide(part)
        shown = sorted((url for url in urls if not hidden[url]), key=_walk_order)
        for _, files in groupby(shown, os.path.dirname):
            for item in sieve.files(list(files), path, self.read):
                yield self._known(item) if isinstance(item, Found) else item

    def read(self, paths: Sequence[bytes], most_bytes: int) -> Iterator[bytes | OSError]:
        """Read the first bytes of listed objects, see :data:`producer.sources.walk.Read`."""
        left = iter(paths)
        while chunk := list(islice(left, _CHUNK)):
            heads = self._heads([url for url in chunk if url in self._objects], most_bytes)
            for url in chunk:
                yield heads.get(url, FileNotFoundError(errno.ENOENT, "no such object"))

    def _heads(self, urls: Sequence[bytes], most_bytes: int) -> dict[bytes, bytes | OSError]:
        """Return the first bytes of each object; the empty ones are known to have none."""
        heads: dict[bytes, bytes | OSError] = dict.fromkeys(urls, b"")
        filled = [url for url in urls if self._objects[url].listed.size_bytes]
        for bucket, group in groupby(filled, lambda url: self._objects[url].bucket):
            together = list(group)
            paths = [self._objects[url].listed.path for url in together]
            heads.update(zip(together, bucket.read_heads(paths, most_bytes), strict=True))
        return heads

    def _listing(self, url: bytes) -> Sequence[bytes]:
        """Return the URLs of the objects at or below a URL."""
        if url not in self._listings:
            bucket, path = self._bucket(url)
            found = {bucket.place.url(item.path): item for item in bucket.listing(path)}
            self._objects.update((at, _Object(bucket, item)) for at, item in found.items())
            self._listings[url] = list(found)
        return self._listings[url]

    def _bucket(self, url: bytes) -> tuple[Bucket, bytes]:
        """Return the root that a URL lies under, and its path below.

        Raises:
            BadRequest: it lies under none.
        """
        for root, place in self._settings.buckets.items():
            path = place.relative(url)
            if path is not None:
                return bucket_of(root, place), path
        raise BadRequest(
            ErrorCode.PATH_OUTSIDE_ROOTS,
            _display(url),
            "it lies under no bucket of CALLSCRIBE_ROOTS",
            f"Add it there: name={_display(url)}",
        )

    def _known(self, found: Found) -> Found:
        """Return a file with what its listing tells of it."""
        bucket, listed = self._objects[found.path]
        key = bucket.place.key(listed.path)
        return replace(found, key=key, size_bytes=listed.size_bytes)


def _walk_order(url: bytes) -> list[tuple[bool, bytes]]:
    """Sort a directory's files before its directories, and each by their bytes."""
    *directories, name = url.split(b"/")
    return [*((True, directory) for directory in directories), (False, name)]


def _below(base: bytes, url: bytes) -> bytes:
    return url[len(base) + 1 :]


def _hidden_part(base: bytes, url: bytes) -> bytes | None:
    """Return the part of a URL up to the first name below ``base`` that is left out.

    That is one that starts with a dot, or a directory that is set aside.
    """
    names = _below(base, url).split(b"/")
    last = len(names) - 1
    hidden = next(
        (
            at
            for at, name in enumerate(names)
            if name.startswith(b".") or (at < last and is_set_aside(name))
        ),
        None,
    )
    return None if hidden is None else b"/".join([base, *names[: hidden + 1]])


def _ambiguous(url: bytes) -> Notice:
    cause = (
        "its key could be misread (//, /../ or ?versionId= in it); give it another and submit it"
    )
    return Notice(ErrorCode.PATH_OUTSIDE_ROOTS, _display(url), cause)


def _display(url: bytes) -> str:
    return Location("", url).name
