"""What hands recordings to the ledger: a submission, a drop folder, a second look."""
