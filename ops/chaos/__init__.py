"""Breaking it on purpose, for a long time, and counting what broke."""
