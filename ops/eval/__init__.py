"""Measurements of the words: against references, and against what a user would run instead."""
