"""Keeps what FunASR does to a process from outliving the call."""

from __future__ import annotations

import io
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import numpy as np
import torch


@contextmanager
def isolate_funasr() -> Iterator[None]:
    """Restore the random states, torch's threads and the root logger; drop what FunASR prints.

    It seeds every generator with 0, so that all workers would draw the same jitter; it sets the
    number of threads on each call; and it configures logging as if it were the program, then
    chats on the root logger and on standard output.
    """
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    threads = torch.get_num_threads()
    python_state, numpy_state = random.getstate(), np.random.get_state()
    root.addFilter(_keep_record)
    # Only the CPU's generator: nothing of ours draws on a GPU.
    with torch.random.fork_rng(devices=[]), redirect_stdout(io.StringIO()):
        try:
            yield
        finally:
            root.removeFilter(_keep_record)
            random.setstate(python_state)
            np.random.set_state(numpy_state)
            torch.set_num_threads(threads)
            root.setLevel(level)
            root.handlers[:] = handlers


def _keep_record(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or "funasr" not in record.pathname
