"""What is erased from the ledger, what may not be, and what is left of it."""
