"""Around the product: running it on one machine, measuring it, breaking it on purpose."""
