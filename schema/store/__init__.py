"""Every query of the ledger, by who asks.

- :mod:`schema.store.ledger`: the connection, and transactions that are tried again
- :mod:`schema.store.intake`: a producer adds recordings
- :mod:`schema.store.work`: a worker claims, renews and ends segments
- :mod:`schema.store.reduce`: a reducer claims a recording and stores its transcript
- :mod:`schema.store.repair`: it orders places to be decoded once more instead
- :mod:`schema.store.sweep`: what stalled is dispatched again
- :mod:`schema.store.notify`: receivers are told what has ended
- :mod:`schema.store.read`: status, progress, transcripts
- :mod:`schema.store.search`: utterances by what was said
- :mod:`schema.store.since`: transcripts in the order in which they were stored
- :mod:`schema.store.cancel`, :mod:`schema.store.forget`: work that is wanted no more, and erasure

A segment ends in one way only, whoever ends it: see :data:`schema.store.ledger.CLOSE_ONE`. Locks
are taken on the recording first, then on its segments.
"""
