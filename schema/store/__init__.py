"""Every query of the ledger, by who asks.

- :mod:`schema.store.ledger`: the connection, and transactions that are tried again
- :mod:`schema.store.intake.submissions`: a producer adds recordings
- :mod:`schema.store.work.segments`: a worker claims, renews and ends segments
- :mod:`schema.store.work.reduces`: a reducer claims a recording and stores its transcript
- :mod:`schema.store.work.repairs`: it orders repairs: places to be decoded once more
- :mod:`schema.store.work.sweep`: stalled work is dispatched again
- :mod:`schema.store.work.events`: receivers are notified of what has ended
- :mod:`schema.store.read.progress`: how far submissions are
- :mod:`schema.store.read.recordings`: their recordings
- :mod:`schema.store.read.transcripts`: the transcript of a recording
- :mod:`schema.store.read.search`: utterances by their words
- :mod:`schema.store.read.changes`: transcripts in the order in which they were stored
- :mod:`schema.store.read.fleet`: figures for dashboards and alerts
- :mod:`schema.store.intake.cancel`: a submission is cancelled
- :mod:`schema.store.intake.recheck`: a recording is planned anew
- :mod:`schema.store.erasure.forget`: recordings are erased, by hand or by retention
- :mod:`schema.store.erasure.holds`: calls that may not be erased

A segment ends in one way only, whoever ends it: see
:data:`schema.store.ledger.DECREMENT_OPEN_SEGMENTS`. Locks are taken on the recording first, then on
its segments.
"""
