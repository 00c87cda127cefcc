"""A submission's progress, live: what is done, how fast, and how long it will take."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from producer.cli.tables import printable
from schema.errors import Transient
from schema.states import RecordingState
from schema.store.ledger import Ledger
from schema.store.read.progress import Progress, read_progress

#: The ledger is read this often: cheap enough for many watchers, and live to the eye.
_POLL_S = 1.0
#: The speed is the mean of this long: short enough to follow a fleet, long enough not to jump.
_SPEED_WINDOW_S = 60.0
#: Without a terminal, a line is printed this often.
_LINE_S = 15.0


@dataclass
class Speed:
    """How fast audio is done, over the last minute.

    The clock starts with the first segment that is done: before it, models are loaded.
    """

    samples: deque[tuple[float, int]] = field(default_factory=deque)
    _started: bool = False

    def add(self, at_s: float, done_ms: int) -> None:
        """Note how much audio was done at a moment."""
        if not self._started:
            self._started = bool(self.samples) and done_ms > self.samples[-1][1]
            self.samples.clear()
        self.samples.append((at_s, done_ms))
        while len(self.samples) > 2 and at_s - self.samples[0][0] > _SPEED_WINDOW_S:
            self.samples.popleft()

    @property
    def times_real_time(self) -> float | None:
        """Audio seconds done per second, or None while nothing is known."""
        if len(self.samples) < 2:
            return None
        (first_s, first_ms), (last_s, last_ms) = self.samples[0], self.samples[-1]
        if last_s <= first_s or last_ms <= first_ms:
            return None
        return (last_ms - first_ms) / 1000 / (last_s - first_s)

    def eta_s(self, progress: Progress) -> float | None:
        """Return the seconds to the end of what is planned, or None while nothing is known."""
        speed = self.times_real_time
        return None if speed is None else (progress.audio_ms - progress.done_ms) / 1000 / speed


class Pace:
    """Estimates how long the rest of a count takes whose total is known from the start."""

    def __init__(self) -> None:
        self._started_s = time.monotonic()

    def line(self, done: int, total: int) -> str:
        """Return how many are examined and, after a second, how much longer it takes."""
        elapsed_s = time.monotonic() - self._started_s
        remaining = ""
        if done and elapsed_s > 1 and total > done:
            remaining_s = round(elapsed_s / done * (total - done))
            remaining = f", {timedelta(seconds=remaining_s)} to go"
        return f"examined {done} of {total} recordings{remaining}"


def show_progress(
    ledger: Ledger,
    submission: UUID,
    console: Console,
    *,
    pause: Callable[[float], None] = time.sleep,
) -> Progress:
    """Show a submission's progress until it is sealed and all its recordings have ended.

    A ledger that goes away for a while is waited for.
    """
    speed = Speed()
    with Live(console=console, auto_refresh=False, transient=False) as live:
        printed_at_s = float("-inf")
        while True:
            progress = _poll(ledger, submission)
            now_s = time.monotonic()
            if progress is not None:
                speed.add(now_s, progress.done_ms)
                if console.is_terminal:
                    live.update(render(progress, speed), refresh=True)
                elif progress.is_finished or now_s - printed_at_s >= _LINE_S:
                    console.print(one_line(progress, speed))
                    printed_at_s = now_s
                if progress.is_finished:
                    return progress
            pause(_POLL_S)


def _poll(ledger: Ledger, submission: UUID) -> Progress | None:
    try:
        with ledger.connect() as connection:
            return read_progress(connection, submission)
    except Transient:
        return None


def render(progress: Progress, speed: Speed) -> Table:
    """Return the live view: a bar over the audio, and the counts below it."""
    grid = Table.grid(padding=(0, 1))
    grid.add_row(
        ProgressBar(total=max(1, progress.audio_ms), completed=progress.done_ms, width=40),
        Text(_audio(progress)),
        Text(_pace(progress, speed), style="cyan"),
    )
    table = Table.grid()
    table.add_row(grid)
    table.add_row(_counts(progress))
    for group in progress.postponed_segments:
        message = printable(f"{group.segments} segments are waiting: {group.message}")
        table.add_row(Text(message.plain, "yellow"))
    return table


def one_line(progress: Progress, speed: Speed) -> str:
    """Return the same in one line, for a log."""
    return f"{_counts(progress).plain}  {_audio(progress)}  {_pace(progress, speed)}".rstrip()


def _counts(progress: Progress) -> Text:
    text = Text(f"{progress.ended_recordings} of {progress.total} recordings ended")
    if not progress.is_sealed:
        text.append(" (more are being submitted)")
    running = progress.count(RecordingState.RUNNING, RecordingState.STITCHING)
    for count, name, style in (
        (progress.count(RecordingState.DONE), "done", "green"),
        (running, "running", "cyan"),
        (progress.count(RecordingState.PARTIAL), "partial", "yellow"),
        (progress.count(RecordingState.FAILED), "failed", "red"),
        (progress.count(RecordingState.QUARANTINED), "quarantined", "red"),
    ):
        if count:
            text.append(" · ").append(f"{count} {name}", style=style)
    return text


def _audio(progress: Progress) -> str:
    return f"{_span(progress.done_ms / 1000)} of {_span(progress.audio_ms / 1000)} audio"


def _pace(progress: Progress, speed: Speed) -> str:
    times, eta_s = speed.times_real_time, speed.eta_s(progress)
    if progress.is_finished or times is None or eta_s is None:
        return ""
    return f"{times:.0f}x real time · {_span(eta_s)} to go"


def _span(seconds: float) -> str:
    """Return a length of time as ``h:mm:ss``."""
    return str(timedelta(seconds=round(seconds)))
