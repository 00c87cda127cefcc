"""What workers ask of the ledger: claims, leases, results, reduces, the sweep, and events."""
