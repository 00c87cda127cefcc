"""What the queue, the ledger and a submit cost, beside what a user would run instead.

Each module is a command that starts servers and workers of its own and prints one table.
"""
