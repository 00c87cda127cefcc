"""FunASR's models, called with batches of our own."""
