"""Audio made for the tests of producer/: nothing recorded, nothing fetched."""

from __future__ import annotations

import struct

import av
import numpy as np
import soundfile


def voice(seconds, rate=8000, *, seed=0, level_db=-20.0):
    """Something like a voice: noise that comes and goes twice a second, float32, 1-d."""
    frames = int(seconds * rate)
    noise = np.random.default_rng(seed).standard_normal(frames)
    smooth = np.convolve(noise, np.ones(4) / 2, "same")
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 2 * np.arange(frames) / rate + seed)
    return (smooth * syllables * 10 ** (level_db / 20)).astype(np.float32)


def mulaw_idle(seconds, rate=8000, *, seed=0):
    """What a mu-law line without a speaker sounds like: its smallest step, now and then."""
    steps = np.random.default_rng(seed).integers(-1, 2, int(seconds * rate))
    return (steps * 8 / 32768).astype(np.float32)


def write(path, samples, rate=8000, **how):
    """Write float32 samples, ``(frames,)`` or ``(frames, channels)``, and return the path."""
    soundfile.write(path, samples, rate, **how)
    return path


def wav_bytes(data=b"", *, rate=8000, channels=1, data_size=None, tag=1, bits=16):
    """A WAV as a recorder might leave it behind."""
    align = max(channels, 1) * bits // 8
    size = len(data) if data_size is None else data_size
    fmt = struct.pack("<HHIIHH", tag, channels, rate, rate * align, align, bits)
    return (
        b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + struct.pack("<I", 16) + fmt
    ) + (b"data" + struct.pack("<I", size) + data)


def pcm16(samples):
    return (np.asarray(samples) * 32767).astype("<i2").tobytes()


def encode(
    path,
    codec,
    samples,
    rate,
    *,
    streams=1,
    start=lambda frame: frame,
    languages=(),
    muxer=None,
    **options,
):
    """Encode mono float32 samples with PyAV; ``start`` may move a packet's time stamp.

    There are as many tracks as ``languages``, or ``streams``; ``muxer`` are its options.
    """
    with av.open(str(path), "w", options=muxer or {}) as container:
        count = len(languages) or streams
        tracks = [container.add_stream(codec, rate=rate, **options) for _ in range(count)]
        for track, language in zip(tracks, languages, strict=False):
            track.metadata["language"] = language
        for track in tracks:
            track.codec_context.layout = "mono"
        for at in range(0, len(samples), 160):
            for track in tracks:
                frame = av.AudioFrame.from_ndarray(
                    np.ascontiguousarray(samples[None, at : at + 160]), "fltp", "mono"
                )
                frame.sample_rate, frame.pts = rate, start(at)
                resampler = av.AudioResampler(track.codec_context.format, "mono", rate)
                for piece in resampler.resample(frame):
                    container.mux(track.encode(piece))
        for track in tracks:
            container.mux(track.encode(None))
    return path
