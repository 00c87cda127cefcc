"""A process that reads segments for a worker: audio in, samples out through shared memory.

    child    sends where a segment's audio lies; waits in a thread, off the interpreter
      reader opens, decodes, digests and resamples it; sends back a piece of memory with its samples

A thread of the worker's own process did the same, and took the interpreter from the thread that
feeds the device: a fifth to two fifths of its launches. The memory belongs to no file system, is
whoever's holds it, and is gone with them: neither a killed worker nor a killed reader leaves any.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import subprocess
import sys
from contextlib import suppress

import numpy as np
from pydantic import TypeAdapter

from schema.pcm import Samples
from schema.records import SegmentSource

#: An answer, and what is asked with it: a source's name and parts, or an error's text.
_MESSAGE_BYTES = 1 << 17


class ReaderError(Exception):
    """The reader has no samples: what reading raised, or its own end, in words."""


class Reader:
    """A reading process, started when it is first needed; for one thread at a time."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, source: SegmentSource) -> Samples:
        """Return a segment's samples: see :func:`workers.segment.audio.read_segment`.

        They lie in memory that is given back when nobody refers to them any more.

        Raises:
            ReaderError: it could not be read, or the process ended.
        """
        try:
            return self._request(source)
        except OSError as error:
            self.close()
            raise ReaderError(f"the reading process ended: {error}") from error

    def close(self) -> None:
        """End the process."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _request(self, source: SegmentSource) -> Samples:
        connection = self._connect()
        connection.send(_pack(source))
        payload, handles, _, _ = socket.recv_fds(connection, _MESSAGE_BYTES, 1)
        if not payload:
            raise ConnectionError("it said nothing")
        answer = json.loads(payload)
        if "error" in answer:
            raise ReaderError(answer["error"])
        [handle] = handles
        try:
            return _map_samples(handle, answer["bytes"])
        finally:
            os.close(handle)

    def _connect(self) -> socket.socket:
        if self._socket is None:
            parent_end, child_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with child_end:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", __name__, str(child_end.fileno())],
                    pass_fds=[child_end.fileno()],
                    stdin=subprocess.DEVNULL,
                    # A terminal's Ctrl-C is for the worker: it ends this one with itself.
                    start_new_session=True,
                )
            self._socket = parent_end
        return self._socket


def _map_samples(handle: int, size: int) -> Samples:
    if not size:
        return np.zeros(0, np.float32)
    flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
    return np.frombuffer(mmap.mmap(handle, size, flags), np.float32)


_SOURCES = TypeAdapter(SegmentSource)


def _pack(source: SegmentSource) -> bytes:
    fields = _SOURCES.dump_python(source)
    # A path is bytes of any kind; JSON holds text.
    fields["location"]["path"] = os.fsdecode(fields["location"]["path"])
    return json.dumps(fields).encode()


def _unpack(request: bytes) -> SegmentSource:
    fields = json.loads(request)
    fields["location"]["path"] = os.fsencode(fields["location"]["path"])
    return _SOURCES.validate_python(fields)


def main() -> None:
    """Read whatever is asked for on the connection that the one argument names, until its end."""
    from schema.settings import load_settings
    from workers.segment.audio import read_segment

    settings = load_settings()
    with socket.socket(fileno=int(sys.argv[1])) as connection, suppress(ConnectionError):
        while request := connection.recv(_MESSAGE_BYTES):
            try:
                samples = read_segment(_unpack(request), settings)
                handle = _share_samples(samples)
            except Exception as error:
                connection.send(json.dumps({"error": type(error).__name__}).encode())
                continue
            answer = json.dumps({"bytes": samples.nbytes}).encode()
            socket.send_fds(connection, [answer], [handle])
            os.close(handle)


def _share_samples(samples: Samples) -> int:
    """Return a handle of memory that holds the samples."""
    handle = os.memfd_create("segment", os.MFD_CLOEXEC)
    os.ftruncate(handle, samples.nbytes)
    if samples.nbytes:
        with mmap.mmap(handle, samples.nbytes) as memory:
            np.frombuffer(memory, np.float32)[:] = samples
    return handle


if __name__ == "__main__":
    main()
