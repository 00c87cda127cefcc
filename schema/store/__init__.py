"""Every query of the ledger, by who asks.

- :mod:`schema.store.ledger`: the connection, and transactions that are tried again
- :mod:`schema.store.intake.submissions`: a producer adds recordings
- :mod:`schema.store.work.segments`: a worker claims, renews and ends segments
- :mod:`schema.store.work.reduces`: a reducer claims a recording and stores its transcript
- :mod:`schema.store.work.repairs`: it orders places to be decoded once more instead
- :mod:`schema.store.work.sweep`: what stalled is dispatched again
- :mod:`schema.store.work.events`: receivers are told what has ended
- :mod:`schema.store.read.recordings`: status, progress, transcripts
- :mod:`schema.store.read.search`: utterances by what was said
- :mod:`schema.store.read.changes`: transcripts in the order in which they were stored
- :mod:`schema.store.intake.cancel`: work that is wanted no more
- :mod:`schema.store.erasure.forget`: erasure

A segment ends in one way only, whoever ends it: see :data:`schema.store.ledger.CLOSE_ONE`. Locks
are taken on the recording first, then on its segments.
"""
