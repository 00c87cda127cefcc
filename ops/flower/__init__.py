"""Flower, configured for a fleet: see ops/docs/operate/flower.md."""
