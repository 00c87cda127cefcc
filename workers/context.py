"""What one worker process works with: settings, the ledger, the models, the way to Redis."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING
from uuid import uuid4

from celery import Celery

from schema.publish import Publisher
from schema.seal import KeyDirectory
from schema.settings import Settings, load_settings
from schema.store.ledger import Ledger
from schema.store.work.segments import read_source_ahead
from workers.process.waiting_messages import WaitingMessages

if TYPE_CHECKING:
    from collections.abc import Callable

    from schema.pcm import Samples
    from schema.profile import Punctuation
    from schema.store.work.segments import Claim
    from schema.wire import Message
    from workers.segment.pipeline import SegmentDecoder
    from workers.segment.read_ahead import ReadAhead

#: Set before the fork and so shared by a parent and its children; a new parent is another owner.
BOOT_ID = uuid4().hex[:12]

#: Processes that read ahead for one worker. One reads 5,000 times as fast as people speak; where
#: there are cores for it, others keep up with any device.
_READERS_MAX = min(4, max(1, (os.cpu_count() or 1) // 4))


@dataclass
class Worker:
    """What one worker process works with, made when it is first needed, after the fork."""

    celery: Celery
    #: Set by a task after which this process should be replaced.
    should_recycle: bool = False
    #: Set by a task that this host cannot do: the worker pauses before the next.
    should_pause: bool = False
    #: Set where a dead child's work waits in Redis: the first message is requeued behind it.
    requeues_first_message: bool = False
    #: The messages that wait here behind the one that is worked on.
    waiting_messages: WaitingMessages = field(default_factory=WaitingMessages)
    _punctuator: tuple[Punctuation, Callable[[str], str]] | None = None

    @property
    def owner(self) -> str:
        """The name its leases are held under."""
        return f"{self.settings.node}:{BOOT_ID}"

    @cached_property
    def settings(self) -> Settings:
        """This host's configuration, read when it is needed: Flower has no ledger.

        Raises:
            Misconfigured: a variable is missing or cannot be understood.
        """
        return load_settings()

    @cached_property
    def ledger(self) -> Ledger:
        """This process's connections to Postgres."""
        return Ledger.open(self.settings)

    @cached_property
    def segment_decoder(self) -> SegmentDecoder:
        """The models, loaded as profiles ask for them."""
        # Imported here: a reducer, and Flower, need no decoder.
        from workers.segment.pipeline import SegmentDecoder

        return SegmentDecoder(
            self.settings, self.read_samples if self.settings.reads_ahead else None
        )

    def read_samples(self, claim: Claim) -> Samples:
        """Return a claimed segment's samples, read ahead where there was time for it."""
        return self.read_ahead.read_samples(claim.segment_id, claim.source)

    @cached_property
    def read_ahead(self) -> ReadAhead:
        """What reads the next segment's audio."""
        from workers.segment.audio import read_segment
        from workers.segment.read_ahead import ReadAhead
        from workers.segment.reader_process import Reader

        return ReadAhead(
            find_source=lambda message: self.ledger.run_statement(
                lambda c: read_source_ahead(c, message)
            ),
            read=lambda source: read_segment(source, self.settings),
            make_reader=lambda: Reader().read,
            threads=_READERS_MAX,
            segments_max=2 * self.settings.segments_together,
        )

    def note_waiting_message(self, message: Message) -> None:
        """Note a message that waits here, and begin to read its audio."""
        self.waiting_messages.add(message)
        if self.settings.reads_ahead:
            self.read_ahead.start_reading(message)

    def punctuator(self, punctuation: Punctuation) -> Callable[[str], str]:
        """Return the model that punctuates a text, loaded when a recording first needs it.

        Raises:
            Misconfigured: its weights are missing or changed.
        """
        # Imported here: most profiles need none, and a reducer need not have FunASR.
        from workers.engines.funasr.punctuation import load_punctuator

        if self._punctuator is None or self._punctuator[0] != punctuation:
            model = load_punctuator(punctuation.model_files, self.settings.models)
            self._punctuator = punctuation, model
        return self._punctuator[1]

    @cached_property
    def seal_keys(self) -> KeyDirectory:
        """The keys of protected calls that this host has."""
        return KeyDirectory(self.settings.seal_keys)

    @cached_property
    def publisher(self) -> Publisher:
        """The way to Redis."""
        return Publisher(self.celery)
