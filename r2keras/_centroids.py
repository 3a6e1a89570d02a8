"""Where a codebook starts: the exact optimum for scalars, k-means++ for vectors. NumPy, in float64."""

from __future__ import annotations

import numpy as np

from r2keras._errors import missing

# The dynamic program runs over at most this many runs of sorted values; Lloyd's steps then move single values.
RUNS = 2_048
LLOYD_STEPS = 300
SAMPLE = 65_536


def start(vectors: np.ndarray, k: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Returns the codebooks of groups of vectors.

    Args:
        vectors: `(groups, n, dim)`, finite.
        k: centroids a group.
        weights: `(groups, n)`, not negative: how much each vector's squared error counts; None: all alike.

    Returns:
        float32 array `(groups, k, dim)`. Where a group has fewer than `k` different vectors, the last is repeated.
    """
    find = scalar_centroids if vectors.shape[-1] == 1 else vector_centroids
    parts = [find(group, k, None if weights is None else weights[place]) for place, group in enumerate(vectors)]
    return np.stack(parts).astype(np.float32)


def scalar_centroids(values: np.ndarray, k: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Returns the `k` numbers with the least weighted squared error, `(k, 1)`, ascending.

    A dynamic program over the sorted values, exact for up to 2,048 different values: `D_q(j) = min_i D_{q-1}(i) +
    error(i..j)`, whose best `i` grows with `j`, so that a divide-and-conquer search takes `O(k n log n)`. Of more
    values it takes 2,048 runs; Lloyd's algorithm on all values then finishes.

    Args:
        values: any shape.
        k: how many.
        weights: as many as values; None: all alike.

    Source: Wang and Song, Ckmeans.1d.dp, The R Journal 3(2), 2011; Grønlund et al., arXiv 1701.07204, section 3.
    """
    values, mass = _merged(values, weights)
    if len(values) <= k:
        return np.concatenate([values, np.repeat(values[-1:], k - len(values))])[:, None]
    # Sums of squares of values far from zero would cancel.
    middle = np.average(values, weights=mass)
    sums = _prefix(values - middle, mass)
    ends = _run_ends(values, mass)
    cuts = ends[_cuts([part[ends] for part in sums], k)]
    return middle + _lloyd(values - middle, sums, cuts)[:, None]


def vector_centroids(vectors: np.ndarray, k: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Returns `k` vectors from k-means++ and Lloyd's algorithm, `(k, dim)`.

    Args:
        vectors: `(n, dim)`; of more than 65,536 evenly spaced ones are taken.
        k: how many.
        weights: `(n,)`; None: all alike.

    Raises:
        ImportError: scikit-learn is not installed.

    Source: Arthur and Vassilvitskii, k-means++, SODA 2007.
    """
    vectors = np.asarray(vectors, np.float64)
    step = max(1, len(vectors) // SAMPLE)
    chosen, mass = vectors[::step], None if weights is None else np.asarray(weights, np.float64)[::step]
    if mass is not None and not mass.any():
        mass = None
    different = np.unique(chosen, axis=0) if len(chosen) <= 4 * k or _few(chosen, k) else None
    if different is not None and len(different) <= k:
        return np.concatenate([different, np.repeat(different[-1:], k - len(different), axis=0)])
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise ImportError(missing("scikit-learn", "The start of a palette of vectors")) from error
    return KMeans(k, n_init=1, max_iter=50, random_state=0).fit(chosen, sample_weight=mass).cluster_centers_


def _few(vectors: np.ndarray, k: int) -> bool:
    """Whether the first coordinates have so few values that vectors may be fewer than centroids."""
    return len(np.unique(vectors[:, 0])) <= k


def _merged(values: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the different values, ascending, and their weights; values that count for nothing only if all do."""
    values = np.ravel(values)
    if weights is None:
        found, counts = np.unique(values, return_counts=True)
        return found.astype(np.float64), counts.astype(np.float64)
    found, places = np.unique(values, return_inverse=True)
    mass = np.bincount(places.ravel(), np.ravel(weights).astype(np.float64))
    live = mass > 0
    if not live.any():
        return _merged(values, None)
    return found[live].astype(np.float64), mass[live]


def _prefix(values: np.ndarray, mass: np.ndarray) -> list[np.ndarray]:
    """Returns the running sums of the mass, of it times the values, and of it times their squares, from 0 on."""
    return [np.concatenate([[0.0], np.cumsum(mass * values**power)]) for power in range(3)]


def _run_ends(values: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Returns where the runs of sorted values end, the start of the first included."""
    if len(values) <= RUNS:
        return np.arange(len(values) + 1)
    # Half of the cuts by mass, half by range: the middle and the tails both get theirs.
    total = np.cumsum(mass)
    by_mass = np.searchsorted(total, total[-1] * np.arange(1, RUNS // 2) / (RUNS // 2)) + 1
    by_range = np.searchsorted(values, np.linspace(values[0], values[-1], RUNS // 2 + 1)[1:-1])
    return np.unique(np.concatenate([[0, len(values)], by_mass, by_range]))


def _cuts(sums: list[np.ndarray], k: int) -> np.ndarray:
    """Returns the `k + 1` places that cut the runs into clusters of least squared error."""
    n = len(sums[0]) - 1
    k = min(k, n)
    best, chosen = _errors(sums, np.zeros(n + 1, np.int64), np.arange(n + 1)), []
    for _ in range(k - 1):
        best, argument = _layer(sums, best)
        chosen.append(argument)
    cuts = [n]
    for argument in reversed(chosen):
        cuts.append(int(argument[cuts[-1]]))
    return np.array([0, *reversed(cuts)])


def _layer(sums: list[np.ndarray], before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns, with one more cluster, the least error of the first `j` runs for every `j`, and where the last begins.

    Places are done level by level, the middle of each open interval first; a place's answer lies between its
    neighbours'. All places of a level are searched at once.
    """
    n = len(before) - 1
    best, argument = np.zeros(n + 1), np.zeros(n + 1, np.int64)
    argument[n:], best[n:] = _searched(sums, before, np.array([n]), np.array([0]), np.array([n]))
    done = np.array([0, n])
    while len(done) <= n:
        places = (done[1:] + done[:-1]) // 2
        open_ = places > done[:-1]
        places, low, high = places[open_], argument[done[:-1]][open_], argument[done[1:]][open_]
        argument[places], best[places] = _searched(sums, before, places, low, np.minimum(high, places))
        done = np.sort(np.concatenate([done, places]))
    return best, argument


def _searched(sums, before, places, low, high) -> tuple[np.ndarray, np.ndarray]:
    """Returns, for each place, the best beginning of the last cluster within its bounds, and the error."""
    sizes = high - low + 1
    firsts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    begin = np.arange(sizes.sum()) - np.repeat(firsts - low, sizes)
    error = before[begin] + _errors(sums, begin, np.repeat(places, sizes))
    least = np.minimum.reduceat(error, firsts)
    hits = np.flatnonzero(error == np.repeat(least, sizes))
    return begin[hits[np.searchsorted(hits, firsts)]], least


def _errors(sums: list[np.ndarray], begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Returns the squared error around their mean of the runs between places."""
    mass, first, second = (part[end] - part[begin] for part in sums)
    safe = np.where(mass > 0, mass, 1.0)
    return np.maximum(second - first * first / safe, 0.0)


def _lloyd(values: np.ndarray, sums: list[np.ndarray], cuts: np.ndarray) -> np.ndarray:
    """Moves cuts to the middles between means until nothing changes; returns the means."""
    means = _means(sums, cuts)
    for _ in range(LLOYD_STEPS):
        inner = np.searchsorted(values, 0.5 * (means[1:] + means[:-1]))
        moved = np.concatenate([[0], inner, [len(values)]])
        if np.array_equal(moved, cuts) or (np.diff(moved) < 1).any():
            break
        cuts, means = moved, _means(sums, moved)
    return means


def _means(sums: list[np.ndarray], cuts: np.ndarray) -> np.ndarray:
    """Returns the means between cuts."""
    return np.diff(sums[1][cuts]) / np.diff(sums[0][cuts])
