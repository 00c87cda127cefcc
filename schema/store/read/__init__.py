"""What people, exports and dashboards ask of the ledger. Nothing here changes a transcript."""
