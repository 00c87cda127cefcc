"""The models. Only these modules know FunASR and faster-whisper; the rest sees two protocols."""
