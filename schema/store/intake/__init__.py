"""What a producer puts into the ledger: submissions, what a drop folder holds, cancels."""
