"""Where recordings lie: directories and parts of buckets, and nothing outside them."""
