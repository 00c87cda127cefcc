"""Recordings in buckets, found by the rules for files: a key is a path, its slashes directories."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby, islice
from typing import TYPE_CHECKING, NamedTuple

from producer.sources.walk import (
    FileFilter,
    FileSource,
    FoundFile,
    LocalDisk,
    WalkItems,
    is_system_directory,
)
from schema.errors import BadRequest, ErrorCode
from schema.records import Notice
from schema.settings import Settings
from schema.storage.bucket_path import absolute_path, is_plain, is_url
from schema.storage.roots import bucket_of
from schema.text import printable_path

if TYPE_CHECKING:
    from schema.storage.s3 import Bucket, ListedObject

#: Objects whose first bytes are held at a time.
_CHUNK = 128


class DiskOrBucket:
    """The place of every path: a URL leads into a bucket, any other to a disk."""

    def __init__(self, settings: Settings) -> None:
        self._disk = LocalDisk()
        self._roots = [os.fsencode(settings.root_path(root)) for root in settings.directories]
        self._buckets = Buckets(settings)

    def exists(self, path: bytes) -> bool:
        """Tell whether there is anything at ``path``."""
        return self._source_of(path).exists(path)

    def walk(self, path: bytes, file_filter: FileFilter) -> WalkItems:
        """Yield what passes of what lies at or below ``path``."""
        return self._source_of(path).walk(path, file_filter)

    def read(self, paths: Sequence[bytes], max_bytes: int) -> Iterator[bytes | OSError]:
        """Read the first bytes of files, see :data:`producer.sources.walk.ReadHeads`."""
        for _, group in groupby(paths, is_url):
            batch = list(group)
            yield from self._source_of(batch[0]).read(batch, max_bytes)

    def read_in_roots(self, paths: Sequence[bytes], max_bytes: int) -> Iterator[bytes | OSError]:
        """Read as :meth:`read` does, but no file that a link out of the roots leads to."""
        for in_bucket, group in groupby(paths, is_url):
            if in_bucket:
                yield from self._buckets.read(list(group), max_bytes)
            else:
                yield from self._disk.read(list(group), max_bytes, self._roots)

    def _source_of(self, path: bytes) -> FileSource:
        return self._buckets if is_url(path) else self._disk


class _Object(NamedTuple):
    bucket: Bucket
    listed_object: ListedObject


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
        return bool(self._listing(absolute_path(path)))

    def walk(self, path: bytes, file_filter: FileFilter) -> WalkItems:
        """Yield what passes of the objects below a URL; one that is named itself does."""
        listing = self._listing(path)
        if listing == [path]:
            yield self._with_listing(FoundFile(path, os.path.dirname(path)))
            return
        yield from (_ambiguous(url) for url in listing if not is_plain(_relative_path(path, url)))
        urls = [url for url in listing if is_plain(_relative_path(path, url))]
        hidden_parts = {url: _hidden_part(path, url) for url in urls}
        for part in sorted(set(filter(None, hidden_parts.values()))):
            # A directory has a name that something lies below.
            if part not in hidden_parts and is_system_directory(os.path.basename(part)):
                file_filter.skip_system_directory(part)
            else:
                file_filter.skip_hidden(part)
        visible_urls = sorted((url for url in urls if not hidden_parts[url]), key=_walk_order)
        for _, files in groupby(visible_urls, os.path.dirname):
            for item in file_filter.select(list(files), path, self.read):
                yield self._with_listing(item) if isinstance(item, FoundFile) else item

    def read(self, paths: Sequence[bytes], max_bytes: int) -> Iterator[bytes | OSError]:
        """Read the first bytes of listed objects, see :data:`producer.sources.walk.ReadHeads`."""
        path_iterator = iter(paths)
        while chunk := list(islice(path_iterator, _CHUNK)):
            heads = self._heads([url for url in chunk if url in self._objects], max_bytes)
            for url in chunk:
                yield heads.get(url, FileNotFoundError(errno.ENOENT, "no such object"))

    def _heads(self, urls: Sequence[bytes], max_bytes: int) -> dict[bytes, bytes | OSError]:
        """Return the first bytes of each object; the empty ones are known to have none."""
        heads: dict[bytes, bytes | OSError] = dict.fromkeys(urls, b"")
        nonempty_urls = [url for url in urls if self._objects[url].listed_object.size_bytes]
        for bucket, group in groupby(nonempty_urls, lambda url: self._objects[url].bucket):
            batch = list(group)
            paths = [self._objects[url].listed_object.path for url in batch]
            heads.update(zip(batch, bucket.read_heads(paths, max_bytes), strict=True))
        return heads

    def _listing(self, url: bytes) -> Sequence[bytes]:
        if url not in self._listings:
            bucket, path = self._bucket(url)
            objects = {bucket.base.url(item.path): item for item in bucket.listing(path)}
            self._objects.update((u, _Object(bucket, item)) for u, item in objects.items())
            self._listings[url] = list(objects)
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
            printable_path(url),
            "it lies under no bucket of CALLSCRIBE_ROOTS",
            # The bucket and the first part of the key: a day's prefix would be a root a day.
            f"Add it there: name={printable_path(b'/'.join(url.split(b'/')[:4]))}",
        )

    def _with_listing(self, file: FoundFile) -> FoundFile:
        bucket, item = self._objects[file.path]
        return replace(file, key=bucket.base.key(item.path), size_bytes=item.size_bytes)


def _walk_order(url: bytes) -> list[tuple[bool, bytes]]:
    """Sort a directory's files before its directories, and each by their bytes."""
    *directories, name = url.split(b"/")
    return [*((True, directory) for directory in directories), (False, name)]


def _relative_path(base: bytes, url: bytes) -> bytes:
    return url[len(base) + 1 :]


def _hidden_part(base: bytes, url: bytes) -> bytes | None:
    """Return the part of a URL up to the first name below ``base`` that is left out.

    That is one that starts with a dot, or a directory that is set aside.
    """
    names = _relative_path(base, url).split(b"/")
    for end, name in enumerate(names, start=1):
        if name.startswith(b".") or (end < len(names) and is_system_directory(name)):
            return b"/".join([base, *names[:end]])
    return None


def _ambiguous(url: bytes) -> Notice:
    cause = (
        "its key could be misread (//, /../ or ?versionId= in it); give it another and submit it"
    )
    return Notice(ErrorCode.PATH_OUTSIDE_ROOTS, printable_path(url), cause)
