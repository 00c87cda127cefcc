"""What files say of themselves: containers parsed by their own headers, without a decoder.

Decoders are lenient: libsndfile clips a WAV's frames to what the file holds and says nothing,
FFmpeg passes over what it cannot place, and both estimate the length of an MP3 that states none. So
each container is parsed here, from its first byte to its last, and what comes of decoding is held
against that (:class:`~producer.intake.containers.account.Account`). Nothing here raises for strange
bytes.
"""
