"""Every query of the ledger, by who asks.

A segment ends in one way only, whoever ends it: see
:data:`schema.store.ledger.END_SEGMENT_OF_RECORDING`. Locks are taken on the recording first, then
on its segments.
"""
