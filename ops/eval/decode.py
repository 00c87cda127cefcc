"""Spans of recordings decoded as a worker does it, with real weights, and kept on disk.

A decode is kept under its decode key, of the samples and of everything that changes words: so a
sweep that is broken off goes on where it was, and one that is measured again, with another way to
join segments, costs no decoding.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from uuid import UUID

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ops.eval.corpus import ROOT, Case
from schema.pcm import span_digest
from schema.profile import Profile
from schema.records import SegmentSource
from schema.settings import Settings
from schema.span import Span
from schema.store.work.segments import Claim
from schema.words import SegmentResult
from workers.segment.pipeline import SegmentDecoder

_NOBODY = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Decodes:
    """Decodes under one profile, made by ``jobs`` processes where ``cache`` lacks them."""

    profile: Profile
    cache: Path
    jobs: int

    def get(self, wanted: Iterable[tuple[Case, Span]]) -> dict[tuple[str, Span], SegmentResult]:
        """Return each span's result, by the name of its recording; times from the span's start."""
        claims = {(case.name, span): self._claim(case, span) for case, span in wanted}
        missing = {
            claim.decode_key: claim
            for claim in claims.values()
            if not kept_at(self.cache, claim.decode_key).is_file()
        }
        self._decode(list(missing.values()))
        return {place: load_result(self.cache, claim.decode_key) for place, claim in claims.items()}

    def _claim(self, case: Case, span: Span) -> Claim:
        digest = span_digest(case.signal.digests, span)
        return Claim(
            segment_id=_NOBODY,
            recording_id=_NOBODY,
            lease_token=_NOBODY,
            name=case.name,
            index=0,
            source=SegmentSource(case.location, case.format, case.channel, span, digest),
            decode_key=self.profile.decode_key(digest, case.format.rate_hz),
            profile=self.profile,
            attempt=1,
            is_cached=False,
        )

    def _decode(self, claims: Sequence[Claim]) -> None:
        if not claims:
            return
        # The longest first, so that none of them is alone at the end.
        claims = sorted(claims, key=lambda claim: -claim.span.duration_ms)
        pool = ProcessPoolExecutor(self.jobs, get_context("spawn"), _begin)
        with pool, _progress() as progress:
            hours = sum(claim.span.duration_ms for claim in claims) / 3_600_000
            task = progress.add_task(f"{len(claims)} decodes, {hours:.1f} h of audio", total=hours)
            futures = {pool.submit(_keep, self.cache, claim): claim for claim in claims}
            for future in as_completed(futures):
                future.result()
                progress.advance(task, futures[future].span.duration_ms / 3_600_000)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"))
    return Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)
    )


def eval_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Return a worker's settings without its servers; any file of this host may be read."""
    nowhere = {"database_url": "postgresql://nowhere/none", "redis_url": "redis://nowhere"}
    models = environment.get("CALLSCRIBE_MODELS")
    chosen = {"models": models} if models else {}
    return Settings.model_validate({**nowhere, "roots": f"{ROOT}=/", **chosen})


#: One of each in every process of the pool.
_segment_decoder: list[SegmentDecoder] = []


def _begin() -> None:
    _segment_decoder.append(SegmentDecoder(eval_settings()))


def _keep(cache: Path, claim: Claim) -> None:
    """Decode one span and keep its result, whole or not at all."""
    output = _segment_decoder[0].decode(claim, lambda: None)
    store_result(cache, claim.decode_key, output.result)


def kept_at(cache: Path, key: str) -> Path:
    """Return where the result of a decode key is, or would be."""
    return cache / key[:2] / f"{key}.json"


def store_result(cache: Path, key: str, result: SegmentResult) -> None:
    """Keep a result; whoever reads meanwhile sees all of it or nothing."""
    path = kept_at(cache, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(result.to_json(), ensure_ascii=False))
    draft.replace(path)


def load_result(cache: Path, key: str) -> SegmentResult:
    """Return a result that was kept."""
    return SegmentResult.from_json(json.loads(kept_at(cache, key).read_text()))
