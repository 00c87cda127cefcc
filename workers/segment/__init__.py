"""What decodes a segment: its claim, its audio, its speech regions, its words."""
