"""Flower, configured for a fleet: see ops/docs/flower.md."""
