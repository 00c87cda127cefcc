"""The page of SQL views. An integration test holds it equal to a migrated database."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ops.reference.markdown import head, table, to_page, wrap


@dataclass(frozen=True, slots=True)
class Column:
    """A view's column, with the type that Postgres gives it."""

    name: str
    type: str
    meaning: str


@dataclass(frozen=True, slots=True)
class View:
    """A view that analysts may rely on."""

    name: str
    meaning: str
    columns: tuple[Column, ...]
    example: str


_KEYS = (
    Column("recording_id", "uuid", "The recording's id, as `recording` in exports."),
    Column("submission_id", "uuid", "The id of the submission that it came with."),
    Column("call_id", "character varying", "The call centre's id of the call."),
)
_VERSION = Column("version", "integer", "The version of the transcript, from 1.")

_SPEAKER_COLUMNS = (
    *_KEYS,
    _VERSION,
    Column("speaker", "text", "The speaker's name."),
    Column("talk_ms", "integer", "How long they talk, with pauses below a second."),
    Column("share", "double precision", "Their share of all talk of the call."),
    Column("words", "integer", "How many words they say; a Chinese character is a word."),
    Column("words_per_minute", "integer", "Their words for each minute of their talk."),
    Column("longest_ms", "integer", "Their longest stretch without another's words."),
    Column(
        "interruptions",
        "integer",
        "How often they began while another spoke on for half a second.",
    ),
)

VIEWS: tuple[View, ...] = (
    View(
        "talk_calls",
        "A row for each recording that has a transcript.",
        (
            *_KEYS,
            Column(
                "called_at",
                "timestamp with time zone",
                "When the call began; if nobody said, when it was submitted.",
            ),
            Column("line", "character varying", "The queue or campaign."),
            Column("direction", "character varying", "The direction, as the manifest has it."),
            Column("agent", "character varying", "The agent."),
            _VERSION,
            Column("duration_ms", "integer", "How long the recording is."),
            Column("silence_ms", "integer", "How long nobody talks."),
            Column("silence_share", "double precision", "The same, as a share of the call."),
            Column("overlap_ms", "integer", "How long two or more talk at once."),
            Column("overlap_share", "double precision", "The same, as a share of the call."),
        ),
        "select call_id, called_at, silence_share from talk_calls"
        " where silence_share > 0.3 and line = 'billing';",
    ),
    View(
        "talk_guessed_speakers",
        "A row for each speaker of each recording whose speakers share a channel and were told by"
        " their voices. Interruptions are null: nobody measures them.",
        _SPEAKER_COLUMNS,
        "select call_id, speaker, share from talk_guessed_speakers order by share desc limit 10;",
    ),
    View(
        "talk_speakers",
        "A row for each speaker of each recording that has a transcript, but for speakers who were"
        " told by their voices.",
        _SPEAKER_COLUMNS,
        "select speaker, avg(share), sum(interruptions) from talk_speakers group by speaker;",
    ),
)


def page() -> str:
    """Return the page, as Markdown."""
    return to_page(_lines())


def _lines() -> Iterator[str]:
    yield from head("SQL views", "The views that analysts query.", "ops/reference/views.py")
    yield wrap(
        "A login in the role `callscribe_reader` is enough to read them; [security]"
        "(../operate/security.md#roles-of-postgres) says how to make one. All show the latest"
        " transcript of each recording. Names that end in `_ms` are milliseconds, shares are from 0"
        " to 1. Transcripts from before revision 0008 have nulls in `talk_calls` and no row in"
        " `talk_speakers`; exports compute their figures."
    )
    yield ""
    for view in VIEWS:
        yield f"## {view.name}\n"
        yield f"{view.meaning}\n"
        rows = ((f"`{c.name}`", f"`{c.type}`", c.meaning) for c in view.columns)
        yield from table(("Column", "Type", "Meaning"), rows)
        yield f"```sql\n{view.example}\n```\n"
