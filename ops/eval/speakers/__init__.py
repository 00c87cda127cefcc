"""Who speaks on one channel: measured on calls whose speakers are known."""
