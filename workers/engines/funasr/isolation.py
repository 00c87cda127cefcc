"""FunASR in the house: what it does to the process is undone."""

from __future__ import annotations

import io
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import numpy as np
import torch


@contextmanager
def guest() -> Iterator[None]:
    """Undo what FunASR does: all random states, torch's threads, the root logger; and its chatter.

    It seeds every generator with 0, so that all workers would draw the same jitter; it sets the
    number of threads on each call; and it configures logging as if it were the program, then
    chats on the root logger and on standard output.
    """
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    threads = torch.get_num_threads()
    python, legacy = random.getstate(), np.random.get_state()
    root.addFilter(_is_worth_hearing)
    # Only the CPU's generator: nothing of ours draws on a GPU.
    with torch.random.fork_rng(devices=[]), redirect_stdout(io.StringIO()):
        try:
            yield
        finally:
            root.removeFilter(_is_worth_hearing)
            random.setstate(python)
            np.random.set_state(legacy)
            torch.set_num_threads(threads)
            root.setLevel(level)
            root.handlers[:] = handlers


def _is_worth_hearing(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or "funasr" not in record.pathname
