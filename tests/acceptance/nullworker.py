"""A worker without models: it reads each segment's samples, as workers do, and hears one word.

python -m tests.acceptance.nullworker segments --name asr0
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from schema.profile import Profile
from schema.settings import Settings
from schema.span import Span
from schema.store.work.segments import Claim
from schema.words import SegmentResult, Word
from workers.__main__ import main
from workers.process.metrics import StageSeconds
from workers.segment.audio import read_segment
from workers.segment.pipeline import DecodeOutput

if TYPE_CHECKING:
    from workers.context import Worker  # which reads the environment

WORD = "hello"


@dataclass
class NullDecoder:
    settings: Settings

    def profile_for_host(self, profile: Profile) -> Profile:
        return profile

    def decode(self, claim: Claim, check_cancelled: Callable[[], None]) -> DecodeOutput:
        read_segment(claim.source, self.settings)
        heard = Span(0, claim.span.duration_ms)
        word = Word(WORD, heard.start_ms, heard.end_ms, 1.0)
        result = SegmentResult((word,), (heard,), "en")
        return DecodeOutput(result, StageSeconds(0.0, 0.0, 0.0))


def _without_models(worker: Worker) -> None:
    worker.segment_decoder = NullDecoder(worker.settings)


if __name__ == "__main__":
    sys.exit(main(prepare=_without_models))
