"""How many voices a channel has, and whose each window is likely to be. Pure numpy.

A voice is a Gaussian in the few directions in which a call's vectors differ most; all voices of a
call share one covariance (Fisher, 1936: what a voice varies by itself then counts for little), and
expectation maximisation finds them (Dempster et al., 1977). Two voices are told where two signs
agree: two Gaussians explain the windows better than one, and the graph of nearest windows falls
into two parts (Park et al., 2020, "Auto-Tuning Spectral Clustering for Speaker Diarization Using
Normalized Maximum Eigengap"). The one sees a voice of few words, the other is not fooled by a
reader who plays a part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schema.voices import HOP_MS, Vectors

Array = npt.NDArray[np.float64]
_Booleans = npt.NDArray[np.bool_]

#: With less, six seconds of speech, nothing is told.
WINDOWS_MIN = 12

#: So many windows, evenly taken, show which voices there are; all are then compared with those.
_SAMPLE = 700

#: In so many directions vectors are compared; a voice has at least so many windows.
_DIRECTIONS = 12
_VOICE_WINDOWS_MIN = 4
_ROUNDS = 30
_SMOOTHING = 1e-5

#: What two Gaussians gain over one by chance, in nats a window: by windows, and at any number.
_CHANCE_PER_WINDOW, _CHANCE = 35.0, 0.10
#: The gain beyond chance of two voices, and what may be.
_GAIN, _GAIN_CLOSE = 0.12, 0.06
#: The graph of two voices: its second eigenvalue over its third; of three, its third over its
#: fourth. What may be, and what is no sign of it at all.
_EIGEN_RATIO, _EIGEN_RATIO_CLOSE, _THREE_RATIO = 0.29, 0.45, 0.25
#: Where the voices take so many turns a minute of speech, as those of a dialogue do and the parts
#: of a reader do not, less is a sign of two.
_LIVELY_TURNS, _EIGEN_RATIO_LIVELY = 4.0, 0.38
#: A voice of less than this share is in no graph of nearest windows. It is told by its distance:
#: the cosine of the two voices' means, and how often it speaks.
_RARE_SHARE, _RARE_GAIN, _RARE_COSINE, _RARE_TURNS, _RARE_WINDOWS = 0.15, 0.3, 0.7, 2, 10

#: Numbers of nearest windows that a graph is tried with, as shares of all.
_NEIGHBOURS = np.geomspace(0.003, 0.25, 12)

#: Beginnings of a mixture: stretches of speech unlike the rest.
_SEEDS = 40
_SEED_WINDOWS = 4


@dataclass(frozen=True, slots=True, eq=False)
class VoiceSplit:
    """The voices of a channel.

    ``scores`` is float64 ``(windows, speakers)``: the logarithm of how likely each voice sounds as
    the window does. Where the number is close, ``is_close``.
    """

    speakers: int
    scores: Array
    is_close: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Mixture:
    """Gaussians of one covariance; ``gain`` is over a single one, in nats a window."""

    means: Array
    precision: Array
    shares: Array
    members: Array
    gain: float

    def scores(self, points: Array) -> Array:
        """Return how likely each point is each voice's, but for what all voices share."""
        return np.stack(
            [
                -0.5 * np.einsum("ij,jk,ik->i", points - mean, self.precision, points - mean)
                for mean in self.means
            ],
            axis=1,
        )


def split_voices(
    vectors: Vectors, starts_ms: npt.NDArray[np.int64], count: int | None
) -> VoiceSplit:
    """Tell the voices of windows apart.

    Args:
        vectors: float32 ``(windows, dimension)``, each of length 1.
        starts_ms: when each window begins, in order.
        count: how many voices there are; None is one or two.
    """
    windows = len(vectors)
    nobody = VoiceSplit(1, np.zeros((windows, 1)))
    if count == 1 or windows < WINDOWS_MIN:
        return nobody
    sample = np.unique(np.linspace(0, windows - 1, min(windows, _SAMPLE)).round().astype(int))
    sampled = vectors[sample].astype(np.float64)
    points, axes, centre = _main_directions(sampled)
    candidates = _mixtures(sampled, points, starts_ms[sample], count or 2)
    mixtures = sorted(candidates, key=lambda mixture: -mixture.gain)
    if count is None:
        best, is_close = _choose(sampled, mixtures)
    else:
        best, is_close = next(iter(mixtures), None), False
    if best is None:
        return VoiceSplit(1, nobody.scores, is_close)
    # Nothing but points is copied: a call of twelve hours has 100,000 vectors.
    scores = best.scores(vectors @ axes.astype(np.float32) - centre @ axes)
    return VoiceSplit(scores.shape[1], scores, is_close)


def _main_directions(vectors: Array) -> tuple[Array, Array, Array]:
    """Return points in the main directions of vectors, the directions, and the vectors' mean."""
    centre = vectors.mean(axis=0)
    _, _, directions = np.linalg.svd(vectors - centre, full_matrices=False)
    axes = directions[: min(_DIRECTIONS, len(vectors) // 4)].T
    return (vectors - centre) @ axes, axes, centre


def _choose(vectors: Array, mixtures: Sequence[_Mixture]) -> tuple[_Mixture | None, bool]:
    """Return the first mixture of two voices that is believed, and whether that is close.

    None where there is one voice. ``mixtures`` are in order of their gain.
    """
    second, third = _eigen_ratios(vectors)
    gain_max = 0.0
    for mixture in mixtures:
        gain = mixture.gain - _CHANCE - _CHANCE_PER_WINDOW / len(vectors)
        gain_max = max(gain_max, gain)
        if gain < _GAIN:
            break
        minor = mixture.members[:, int(np.argmin(mixture.shares))] > 0.5
        turns = int(np.count_nonzero(np.diff(minor.astype(int)) == 1))
        if mixture.shares.min() < _RARE_SHARE:
            if _is_rare_voice(vectors, minor, gain, turns):
                return mixture, False
            continue
        minutes = len(vectors) * HOP_MS / 60_000
        ratio_max = _EIGEN_RATIO_LIVELY if turns >= _LIVELY_TURNS * minutes else _EIGEN_RATIO
        if second <= ratio_max or third <= _THREE_RATIO:
            # A third voice is told as one of two.
            return mixture, third <= _THREE_RATIO
    may_be_apart = second <= _EIGEN_RATIO_CLOSE or third <= _THREE_RATIO
    return None, gain_max >= _GAIN_CLOSE and may_be_apart


def _is_rare_voice(vectors: Array, minor: _Booleans, gain: float, turns: int) -> bool:
    """Tell whether a few windows are another's, and no mood of the one voice."""
    return bool(
        gain >= _RARE_GAIN
        and turns >= _RARE_TURNS
        and np.count_nonzero(minor) >= _RARE_WINDOWS
        and _cosine(vectors[minor], vectors[~minor]) <= _RARE_COSINE
    )


def _cosine(some: Array, others: Array) -> float:
    if not len(some) or not len(others):
        return 1.0
    return float(_unit(some.mean(axis=0)) @ _unit(others.mean(axis=0)))


def _unit(vectors: Array) -> Array:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def _eigen_ratios(vectors: Array) -> tuple[float, float]:
    """Return the second eigenvalue of the vectors' graph over its third, and that over its fourth.

    Of the graph, by its number of neighbours, whose eigenvalues have the widest gap for the fewest
    neighbours.
    """
    count = len(vectors)
    order = np.argsort(-(vectors @ vectors.T), axis=1, kind="stable")
    best_cost, best_values = np.inf, np.ones(5)
    for neighbours in sorted({max(2, round(count * share)) for share in _NEIGHBOURS}):
        graph = np.zeros((count, count))
        graph[np.repeat(np.arange(count), neighbours), order[:, :neighbours].ravel()] = 1
        graph = (graph + graph.T) / 2
        np.fill_diagonal(graph, 0)
        degrees = graph.sum(axis=1)
        values = np.linalg.eigvalsh(np.diag(degrees) - graph)[:5].clip(min=0)
        gap = np.diff(values).max() / degrees.max()
        cost = neighbours / count / max(gap, 1e-9)
        if cost < best_cost:
            best_cost, best_values = cost, values
    _, second, third, fourth, _ = best_values
    return float(second / max(third, 1e-9)), float(third / max(fourth, 1e-9))


def _mixtures(
    vectors: Array, points: Array, starts_ms: npt.NDArray[np.int64], count: int
) -> Iterator[_Mixture]:
    """Yield mixtures of so many voices, from several beginnings."""
    single = _log_likelihood(points)
    beginnings = _two_way_beginnings(vectors, starts_ms) if count == 2 else [_spread(points, count)]
    known_labels: set[bytes] = set()
    for labels in beginnings:
        if labels.tobytes() in known_labels:
            continue
        known_labels.add(labels.tobytes())
        members = np.full((len(points), count), 0.05 / (count - 1))
        members[np.arange(len(points)), labels] = 0.95
        mixture = _maximise(points, members, single)
        if mixture is not None:
            yield mixture


def _two_way_beginnings(
    vectors: Array, starts_ms: npt.NDArray[np.int64]
) -> Iterator[npt.NDArray[np.int64]]:
    """Yield ways to part windows in two, as labels 0 and 1."""
    mean = _unit(vectors.mean(axis=0))
    for seed in _unlike_stretches(vectors, starts_ms, mean):
        yield (vectors @ seed > vectors @ mean).astype(np.int64)
    _, _, directions = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    for direction in directions[:3]:
        along = (vectors - vectors.mean(axis=0)) @ direction
        yield (along > 0).astype(np.int64)


def _unlike_stretches(vectors: Array, starts_ms: npt.NDArray[np.int64], mean: Array) -> Array:
    """Return means of neighbouring windows, those first that are least like the mean of all."""
    pauses = np.flatnonzero(np.diff(starts_ms) > 2 * HOP_MS) + 1
    stretches = [
        vectors[first : first + _SEED_WINDOWS].mean(axis=0)
        for part in np.split(np.arange(len(vectors)), pauses)
        for first in range(int(part[0]), int(part[-1]), _SEED_WINDOWS - 1)
    ]
    if not stretches:
        return np.empty((0, vectors.shape[1]))
    seeds = _unit(np.array(stretches))
    order = np.argsort(seeds @ mean, kind="stable")
    # The least like the rest, and as many of all others.
    spread = np.linspace(0, len(order) - 1, min(len(order), _SEEDS)).round().astype(int)
    return np.asarray(seeds[np.concatenate([order[:_SEEDS], order[np.unique(spread)]])])


def _spread(points: Array, count: int) -> npt.NDArray[np.int64]:
    """Return labels by which of ``count`` points that lie far apart is nearest."""
    chosen = [int(np.argmax(np.square(points).sum(axis=1)))]
    distances = np.square(points - points[chosen[0]]).sum(axis=1)
    while len(chosen) < count:
        chosen.append(int(np.argmax(distances)))
        distances = np.minimum(distances, np.square(points - points[chosen[-1]]).sum(axis=1))
    centres = points[chosen]
    for _ in range(_ROUNDS):
        labels = np.square(points[:, None] - centres).sum(axis=2).argmin(axis=1)
        centres = np.array(
            [
                points[labels == label].mean(axis=0) if np.any(labels == label) else centres[label]
                for label in range(count)
            ]
        )
    return np.asarray(labels, np.int64)


def _maximise(points: Array, members: Array, single: float) -> _Mixture | None:
    """Return the mixture that memberships lead to; None where a voice has hardly a window."""
    count, dimension = points.shape
    for _ in range(_ROUNDS):
        sizes = members.sum(axis=0)
        if sizes.min() < _VOICE_WINDOWS_MIN:
            return None
        means = (members.T @ points) / sizes[:, None]
        spread = sum(
            (members[:, [voice]] * (points - mean)).T @ (points - mean)
            for voice, mean in enumerate(means)
        )
        covariance = spread / count + _SMOOTHING * np.eye(dimension)
        precision = np.linalg.inv(covariance)
        mixture = _Mixture(means, precision, sizes / count, members, 0.0)
        joint = mixture.scores(points) + np.log(mixture.shares)
        peak = joint.max(axis=1, keepdims=True)
        totals = peak[:, 0] + np.log(np.exp(joint - peak).sum(axis=1))
        changed = np.exp(joint - totals[:, None])
        is_settled = np.abs(changed - members).max() < 1e-3
        members = changed
        if is_settled:
            break
    constant = 0.5 * (np.linalg.slogdet(covariance)[1] + dimension * np.log(2 * np.pi))
    gain = float(totals.mean() - constant - single)
    return _Mixture(means, precision, sizes / count, members, gain)


def _log_likelihood(points: Array) -> float:
    """Return the mean logarithm of points' likelihood under one Gaussian."""
    dimension = points.shape[1]
    covariance = np.cov(points.T, bias=True).reshape(dimension, dimension)
    covariance += _SMOOTHING * np.eye(dimension)
    away = points - points.mean(axis=0)
    distances = np.einsum("ij,jk,ik->i", away, np.linalg.inv(covariance), away)
    constant = np.linalg.slogdet(covariance)[1] + dimension * np.log(2 * np.pi)
    return float(-0.5 * (distances.mean() + constant))
