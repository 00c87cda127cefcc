"""Retention, holds, and the search for what an erasure left."""
