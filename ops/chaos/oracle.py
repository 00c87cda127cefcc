"""What holds in the ledger once a submission has ended, whatever was killed on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlalchemy import text

from schema.store.ledger import Ledger

#: What must not be, and a query that counts it.
INVARIANTS: Final[Mapping[str, str]] = {
    "recordings that have not ended": """
        select count(*) from recordings where state in ('planned', 'running', 'stitching')""",
    "recordings without a transcript": """
        select count(*) from recordings r where state in ('done', 'partial') and not exists (
            select from transcripts t where t.recording_id = r.id)""",
    "recordings with two transcripts": """
        select count(*) from (
            select recording_id from transcripts group by 1 having count(*) > 1) twice""",
    "sources with two recordings": """
        select count(*) from (
            select submission_id, source_root, source_path from recordings
             group by 1, 2, 3 having count(*) > 1) twice""",
    "segments with two rows": """
        select count(*) from (
            select recording_id, kind, channel, index from segments
             group by 1, 2, 3, 4 having count(*) > 1) twice""",
    "places that were repaired twice": """
        select count(*) from segments a join segments b
            on b.recording_id = a.recording_id and b.channel is not distinct from a.channel
           and b.id > a.id and b.kind = 'repair'
           and b.core_start_ms < a.core_end_ms and b.core_end_ms > a.core_start_ms
         where a.kind = 'repair'""",
    "recordings whose count of open segments is wrong": """
        select count(*) from recordings r where open_segments <> (
            select count(*) from segments s
             where s.recording_id = r.id and s.state in ('pending', 'leased'))""",
    "segments that are done without words": """
        select count(*) from segments where state = 'done' and result_key is null""",
    "segments that failed without a reason": """
        select count(*) from segments where state = 'failed' and error_code is null""",
    "leases that outlived their work": """
        select (select count(*) from segments where lease_owner is not null)
             + (select count(*) from recordings where reduce_owner is not null)""",
    "ends that a receiver is told of never, or as two": """
        select count(*) from recordings r join submissions b on b.id = r.submission_id
         where b.receiver_id is not null
           and r.state not in ('planned', 'running', 'stitching')
           and (select count(*) from events e where e.recording_id = r.id) <> 1""",
    "voices of recordings that have ended": """
        select count(*) from voices v join segments s on s.id = v.segment_id
          join recordings r on r.id = s.recording_id
         where r.state in ('done', 'partial')""",
    "utterances that are in a transcript twice": """
        select count(*) from (
            select transcript_id, channel, start_ms, end_ms, text from utterances
             group by 1, 2, 3, 4, 5 having count(*) > 1) twice""",
}

#: Segments given up, other than those of recordings that were meant to be.
CONDEMNED: Final = """
    select count(*) from segments s join recordings r on r.id = s.recording_id
     where s.state = 'failed' and s.error_code <> 'cancelled' and r.name <> all(:meant)"""


def broken(ledger: Ledger, meant: tuple[str, ...] = ()) -> dict[str, int]:
    """Return what does not hold, with counts; empty where all is well.

    ``meant`` names recordings whose segments were meant to fail.
    """
    with ledger.connect() as connection:
        counts = {name: connection.scalar(text(query)) for name, query in INVARIANTS.items()}
        counts["innocent segments condemned"] = connection.scalar(
            text(CONDEMNED), {"meant": list(meant)}
        )
    return {name: int(count) for name, count in counts.items() if count}
