"""Erasure from the ledger: of recordings, by retention, except on hold; and traces of it."""
