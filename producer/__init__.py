"""What an operator runs: finds recordings, examines and plans them, hands them to the ledger."""
