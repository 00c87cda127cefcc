"""What producers and workers agree on: words, states, errors, messages and the ledger."""
