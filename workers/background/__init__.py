"""What runs beside the work: the sweep, webhooks, the ledger's metrics, the spool's cleaning."""
