"""Migrations of the ledger, run by :mod:`schema.migrate`."""
