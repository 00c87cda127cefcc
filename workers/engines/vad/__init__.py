"""Where speech begins and ends: FSMN-VAD."""
