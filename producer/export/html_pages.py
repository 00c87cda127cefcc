"""A call as a page to read and to hear, and an index of many: HTML that needs no server.

Words are in the page's text, each with its times; what people said is escaped, and a policy in the
page's head lets no script run but ours. The audio is a file beside the page.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from producer.export.formats import file_remarks
from producer.export.page_audio import Peaks
from schema.store.dispatches import clock
from schema.store.read.recordings import RecordingSummary, StoredTranscript
from schema.transcript import Gap, Seam, Talk, Utterance, is_cjk, is_low
from schema.words import Word

_PAGES = Path(__file__).parent / "templates"

#: Words that the model is less sure of are marked.
_UNSURE = 0.5

#: Characters of a call that an index shows.
_BEGINS = 90

#: A waveform's channel, in units of its picture.
_HEIGHT, _WIDTH = 60, 1_000


@dataclass(frozen=True, slots=True)
class Heard:
    """A call's audio beside its page: the file's name, and how loud each channel is."""

    file: str
    peaks: Peaks


@dataclass(frozen=True, slots=True)
class Piece:
    """A word as the page has it: with a space before it or not, and the seam it comes after."""

    word: Word
    space: bool
    unsure: bool
    seam: Seam | None


@dataclass(frozen=True, slots=True)
class Row:
    """What a page shows in order of time: an utterance, or a stretch that was not transcribed."""

    start_ms: int
    end_ms: int
    speaker: str
    number: int
    pieces: tuple[Piece, ...]
    gap: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A call in an index: where its page is, and what can be sorted and searched."""

    href: str
    recording: RecordingSummary
    flags: tuple[str, ...]
    coverage: float | None
    talk: Talk
    words: int
    begins: str


def to_page(transcript: StoredTranscript, heard: Heard | None, silent: str = "") -> str:
    """Return a call's page.

    Args:
        transcript: the call.
        heard: its audio, or None where there is none; then ``silent`` says why.
        silent: shown in place of a player.
    """
    recording = transcript.recording
    duration_ms = recording.duration_ms or 0
    rows = list(_rows(transcript))
    speakers = list(dict.fromkeys(row.speaker for row in rows))
    script = _asset("call.js")
    return (
        _environment()
        .get_template("call.html")
        .render(
            transcript=transcript,
            recording=recording,
            facts=list(_facts(recording)),
            duration_ms=duration_ms,
            rows=rows,
            speakers=speakers,
            talk=transcript.talk,
            remarks=file_remarks(transcript),
            low=[s for s in transcript.segments if is_low(s.speech_ms, s.worded_ms)],
            heard=quote(heard.file) if heard else None,
            waves=[_wave(channel) for channel in heard.peaks] if heard else [],
            bars=[_bar(row, duration_ms) for row in rows],
            silent=silent,
            **_shell(script),
        )
    )


def to_entry(transcript: StoredTranscript, href: str) -> Entry:
    """Return what an index says of a call whose page is at ``href``, a relative path."""
    text = " ".join(u.text for u in transcript.utterances[:4])
    begins = text if len(text) <= _BEGINS else f"{text[:_BEGINS].rstrip()} \u2026"
    return Entry(
        href=quote(href),
        recording=transcript.recording,
        flags=tuple(dict.fromkeys((*transcript.recording.flags, *transcript.flags))),
        coverage=transcript.coverage,
        talk=transcript.talk,
        words=sum(len(utterance.words) for utterance in transcript.utterances),
        begins=begins,
    )


def to_index(title: str, entries: Sequence[Entry], without: Sequence[RecordingSummary]) -> str:
    """Return the page that lists calls, and those that have no transcript."""
    script = _asset("index.js")
    return (
        _environment()
        .get_template("index.html")
        .render(title=title, entries=entries, without=without, **_shell(script))
    )


def _shell(script: str) -> Mapping[str, Any]:
    """Return what each page has: its style, its script, and the policy that allows only that."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "media-src 'self' file:; img-src data:; base-uri 'none'; form-action 'none'"
    )
    return {"style": Markup(_asset("style.css")), "script": Markup(script), "policy": policy}  # noqa: S704 - our own files


@cache
def _asset(name: str) -> str:
    return (_PAGES / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_PAGES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"clock": clock, "percent": _percent, "minutes": _minutes}
    return environment


def _facts(recording: RecordingSummary) -> Iterator[tuple[str, str]]:
    """Yield what is known of a call beside its words, by name."""
    call = recording.call
    known = {
        "started": f"{call.started_at:%Y-%m-%d %H:%M %Z}" if call.started_at else None,
        "direction": call.direction,
        "line": call.line,
        "agent": call.agent,
        "customer": call.customer,
        **{str(name): value for name, value in call.attributes.items()},
    }
    yield from ((name, str(value)) for name, value in known.items() if value not in (None, ""))


def _rows(transcript: StoredTranscript) -> Iterator[Row]:
    """Yield utterances and gaps in order of time."""
    seams = {seam.channel: list[Seam]() for seam in transcript.seams}
    for seam in transcript.seams:
        seams[seam.channel].append(seam)
    rows: list[tuple[int, str, Utterance | Gap]] = [
        *((u.start_ms, u.speaker, u) for u in transcript.utterances),
        *((gap.span.start_ms, gap.speaker, gap) for gap in transcript.gaps),
    ]
    rows.sort(key=lambda row: row[0])
    numbers: dict[str, int] = {}
    for start_ms, speaker, what in rows:
        number = numbers.setdefault(speaker, len(numbers))
        if isinstance(what, Gap):
            yield Row(start_ms, what.span.end_ms, speaker, number, (), what.code)
        else:
            pieces = tuple(_pieces(what, seams.get(what.channel, [])))
            yield Row(start_ms, what.end_ms, speaker, number, pieces)


def _pieces(utterance: Utterance, seams: list[Seam]) -> Iterator[Piece]:
    """Yield an utterance's words; a seam is shown before the first word after it, and taken."""
    last = ""
    for word in filter(lambda word: word.text, utterance.words):
        seam = None
        while seams and word.middle_ms >= seams[0].at_ms:
            seam = seams.pop(0)
        space = bool(last) and not (is_cjk(last[-1]) or is_cjk(word.text[0]))
        unsure = word.confidence is not None and word.confidence < _UNSURE
        yield Piece(word, space, unsure, seam)
        last = word.text


def _wave(peaks: Peaks) -> str:
    """Return a channel's waveform as the path of an SVG picture, around its middle."""
    if not len(peaks):
        return ""
    points = [
        (round(_WIDTH * i / len(peaks), 1), round(_HEIGHT / 2 * min(1.0, float(peak)), 1))
        for i, peak in enumerate(peaks)
    ]
    middle = _HEIGHT / 2
    above = " ".join(f"L{x:g} {middle - y:g}" for x, y in points)
    below = " ".join(f"L{x:g} {middle + y:g}" for x, y in reversed(points))
    return f"M0 {middle:g} {above} {below}Z"


def _bar(row: Row, duration_ms: int) -> tuple[float, float, int]:
    """Return where a row lies along a waveform, how long, and whose it is."""
    scale = _WIDTH / max(1, duration_ms)
    width = max(0.5, scale * (row.end_ms - row.start_ms))
    return round(scale * row.start_ms, 2), round(width, 2), row.number


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def _minutes(ms: int) -> str:
    return f"{ms / 60_000:.1f}"
