"""The producer command, and what it prints."""
