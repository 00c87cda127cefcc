"""A call as a page to read and to hear, and an index of many: HTML that needs no server.

Words are in the page's text, each with its times; what people said is escaped, and a policy in the
page's head lets no script run but ours. The audio is a file beside the page.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from producer.export.formats import file_remarks
from producer.export.page_audio import Peaks
from schema.store.read.recordings import RecordingSummary
from schema.store.read.transcripts import StoredTranscript
from schema.text import format_clock, is_cjk
from schema.transcript import Gap, Seam, SpeakersFrom, Talk, Utterance, is_coverage_low
from schema.words import Word

_TEMPLATES = Path(__file__).parent / "templates"

#: Words that the model is less sure of are marked.
_UNSURE_CONFIDENCE = 0.5

#: Characters of a call that an index shows.
_EXCERPT_CHARS = 90

#: A waveform's channel, in units of its picture.
_HEIGHT, _WIDTH = 60, 1_000


@dataclass(frozen=True, slots=True)
class PageAudio:
    """A call's audio beside its page: the file's name, and how loud each channel is."""

    file: str
    peaks: Peaks


@dataclass(frozen=True, slots=True)
class PageWord:
    """A word as the page has it: with a space before it or not, and the seam it comes after."""

    word: Word
    has_space: bool
    is_unsure: bool
    seam: Seam | None


@dataclass(frozen=True, slots=True)
class PageRow:
    """What a page shows in order of time: an utterance, or a stretch that was not transcribed."""

    start_ms: int
    end_ms: int
    speaker: str
    number: int
    words: tuple[PageWord, ...]
    gap: str | None = None
    #: How sure the speaker is, in a hundred, where that is a close call.
    doubtful_percent: int | None = None


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A call in an index: where its page is, and what can be sorted and searched."""

    href: str
    recording: RecordingSummary
    flags: tuple[str, ...]
    coverage: float | None
    talk: Talk | None
    words: int
    excerpt: str
    #: How many speak, and whether their voices alone tell who does.
    speakers: int
    is_guessed: bool


def to_page(
    transcript: StoredTranscript, audio: PageAudio | None, no_audio_reason: str = ""
) -> str:
    """Return a call's page; without its audio, ``no_audio_reason`` is shown instead of a player."""
    recording = transcript.recording
    duration_ms = recording.duration_ms or 0
    rows = list(_rows(transcript))
    speakers = list(dict.fromkeys(row.speaker for row in rows))
    return _render(
        "call",
        transcript=transcript,
        recording=recording,
        facts=list(_facts(recording)),
        duration_ms=duration_ms,
        rows=rows,
        speakers=speakers,
        talk=transcript.talk,
        remarks=file_remarks(transcript),
        low=[s for s in transcript.segments if is_coverage_low(s.speech_ms, s.worded_ms)],
        audio_file=quote(audio.file) if audio else None,
        waves=[_waveform_path(channel) for channel in audio.peaks] if audio else [],
        bars=[_bar(row, duration_ms) for row in rows],
        no_audio_reason=no_audio_reason,
    )


def to_entry(transcript: StoredTranscript, href: str) -> IndexEntry:
    """Return what an index says of a call whose page is at ``href``, a relative path."""
    text = " ".join(u.text for u in transcript.utterances[:4])
    excerpt = text if len(text) <= _EXCERPT_CHARS else f"{text[:_EXCERPT_CHARS].rstrip()} \u2026"
    return IndexEntry(
        href=quote(href),
        recording=transcript.recording,
        flags=tuple(dict.fromkeys((*transcript.recording.flags, *transcript.flags))),
        coverage=transcript.coverage,
        talk=transcript.talk,
        words=sum(len(utterance.words) for utterance in transcript.utterances),
        excerpt=excerpt,
        speakers=len({utterance.speaker for utterance in transcript.utterances}),
        is_guessed=transcript.speakers_from == SpeakersFrom.GUESSED,
    )


def to_index(
    title: str, entries: Sequence[IndexEntry], without_transcript: Sequence[RecordingSummary]
) -> str:
    """Return the page that lists calls, and those that have no transcript."""
    return _render("index", title=title, entries=entries, without_transcript=without_transcript)


def _render(name: str, **values: Any) -> str:
    """Return a page with its style and its script, and the policy that allows only that script."""
    script = _asset(f"{name}.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "media-src 'self' file:; img-src data:; base-uri 'none'; form-action 'none'"
    )
    assets = {"style": Markup(_asset("style.css")), "script": Markup(script)}  # noqa: S704 - our own files
    return _environment().get_template(f"{name}.html").render(**values, **assets, policy=policy)


@cache
def _asset(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"clock": format_clock, "percent": _percent, "minutes": _minutes}
    return environment


def _facts(recording: RecordingSummary) -> Iterator[tuple[str, str]]:
    """Yield what is known of a call beside its words, by name."""
    call = recording.call
    values = {
        "started": f"{call.started_at:%Y-%m-%d %H:%M %Z}" if call.started_at else None,
        "direction": call.direction,
        "line": call.line,
        "agent": call.agent,
        "customer": call.customer,
        **{str(name): value for name, value in call.attributes.items()},
    }
    yield from ((name, str(value)) for name, value in values.items() if value not in (None, ""))


def _rows(transcript: StoredTranscript) -> Iterator[PageRow]:
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
    for start_ms, speaker, item in rows:
        number = numbers.setdefault(speaker, len(numbers))
        if isinstance(item, Gap):
            yield PageRow(start_ms, item.span.end_ms, speaker, number, (), item.code)
        else:
            words = tuple(_page_words(item, seams.get(item.channel, [])))
            sure = item.speaker_confidence or 0.0
            percent = round(100 * sure) if item.is_speaker_doubtful else None
            yield PageRow(start_ms, item.end_ms, speaker, number, words, doubtful_percent=percent)


def _page_words(utterance: Utterance, seams: list[Seam]) -> Iterator[PageWord]:
    """Yield an utterance's words; a seam is shown before the first word after it, and taken."""
    last_text = ""
    for word in filter(lambda word: word.text, utterance.words):
        seam = None
        while seams and word.middle_ms >= seams[0].at_ms:
            seam = seams.pop(0)
        has_space = bool(last_text) and not (is_cjk(last_text[-1]) or is_cjk(word.text[0]))
        is_unsure = word.confidence is not None and word.confidence < _UNSURE_CONFIDENCE
        yield PageWord(word, has_space, is_unsure, seam)
        last_text = word.text


def _waveform_path(peaks: Peaks) -> str:
    """Return a channel's waveform as the path of an SVG picture, around its middle."""
    if not len(peaks):
        return ""
    points = [
        (round(_WIDTH * i / len(peaks), 1), round(_HEIGHT / 2 * min(1.0, float(peak)), 1))
        for i, peak in enumerate(peaks)
    ]
    middle = _HEIGHT / 2
    upper = " ".join(f"L{x:g} {middle - y:g}" for x, y in points)
    lower = " ".join(f"L{x:g} {middle + y:g}" for x, y in reversed(points))
    return f"M0 {middle:g} {upper} {lower}Z"


def _bar(row: PageRow, duration_ms: int) -> tuple[float, float, int]:
    """Return where a row lies along a waveform, how long, and whose it is."""
    scale = _WIDTH / max(1, duration_ms)
    width = max(0.5, scale * (row.end_ms - row.start_ms))
    return round(scale * row.start_ms, 2), round(width, 2), row.number


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def _minutes(ms: int) -> str:
    return f"{ms / 60_000:.1f}"
