"""What runs beside the GPU: reading a segment, hearing speech in it, writing down its words."""
