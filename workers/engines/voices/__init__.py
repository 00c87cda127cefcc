"""Networks that turn a stretch of speech into a vector of whose voice it is."""
