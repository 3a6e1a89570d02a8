"""Initial codebooks: the exact optimum for scalars, k-means++ for vectors. NumPy, in float64."""

from __future__ import annotations

import numpy as np

from r2keras._util.errors import missing

# The dynamic program works on at most this many runs of sorted values; Lloyd's algorithm then moves single values.
MAX_RUNS = 2_048
# Upper limit, in case Lloyd's algorithm does not converge before.
LLOYD_STEPS = 300
# k-means++ sees about this many vectors.
SAMPLE = 65_536


def start(vectors: np.ndarray, k: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Returns the codebooks of groups of vectors.

    Args:
        vectors: `(groups, n, dim)`, finite.
        k: number of centroids per group.
        weights: non-negative `(groups, n)`, the weight of each vector's squared error; None weights all equally.

    Returns:
        float32 array `(groups, k, dim)`. If a group has fewer than `k` different vectors, the last one is repeated.
    """
    cluster = scalar_centroids if vectors.shape[-1] == 1 else vector_centroids
    group_weights = [None] * len(vectors) if weights is None else weights
    codebooks = [cluster(group, k, mass) for group, mass in zip(vectors, group_weights, strict=True)]
    return np.stack(codebooks).astype(np.float32)


def scalar_centroids(values: np.ndarray, k: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Returns the `k` numbers with the least weighted squared error, `(k, 1)`, ascending.

    A dynamic program over the sorted values, exact for up to 2,048 different values: `D_q(j) = min_i D_{q-1}(i) +
    error(i..j)`, whose best `i` grows with `j`, so that a divide-and-conquer search takes `O(k n log n)`. More values
    are first grouped into 2,048 runs, and Lloyd's algorithm on all values refines the result.

    Args:
        values: any shape.
        k: number of centroids.
        weights: one per value; None weights all equally.

    Source: Wang and Song, Ckmeans.1d.dp, The R Journal 3(2), 2011; Grønlund et al., arXiv 1701.07204, section 3.
    """
    values, mass = _merged(values, weights)
    if len(values) <= k:
        return np.concatenate([values, np.repeat(values[-1:], k - len(values))])[:, None]
    # Centered, because sums of squares of values far from zero suffer from cancellation.
    center = np.average(values, weights=mass)
    sums = _prefix_sums(values - center, mass)
    run_ends = _run_ends(values, mass)
    cuts = run_ends[_optimal_cuts([prefix[run_ends] for prefix in sums], k)]
    return center + _lloyd(values - center, sums, cuts)[:, None]


def vector_centroids(vectors: np.ndarray, k: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Returns `k` centroids from k-means++ and Lloyd's algorithm, `(k, dim)`.

    Args:
        vectors: `(n, dim)`; if there are many more than 65,536, evenly spaced ones are used.
        k: number of centroids.
        weights: `(n,)`; None weights all equally.

    Raises:
        ImportError: scikit-learn is not installed.

    Source: Arthur and Vassilvitskii, k-means++, SODA 2007.
    """
    vectors = np.asarray(vectors, np.float64)
    step = max(1, len(vectors) // SAMPLE)
    sample = vectors[::step]
    mass = None if weights is None else np.asarray(weights, np.float64)[::step]
    if mass is not None and not mass.any():
        mass = None
    if len(sample) <= 4 * k or _may_have_few_vectors(sample, k):
        distinct = np.unique(sample, axis=0)
        if len(distinct) <= k:
            return np.concatenate([distinct, np.repeat(distinct[-1:], k - len(distinct), axis=0)])
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise ImportError(missing("scikit-learn", "The initial codebook of a vector palette", "palettes")) from error
    return KMeans(k, n_init=1, max_iter=50, random_state=0).fit(sample, sample_weight=mass).cluster_centers_


def _may_have_few_vectors(vectors: np.ndarray, k: int) -> bool:
    """Whether at most `k` vectors may differ, judged by their first coordinates, which is cheap."""
    return len(np.unique(vectors[:, 0])) <= k


def _merged(values: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distinct values, ascending, and their total weights.

    Values of weight 0 are left out, unless all weights are 0, which counts as equal weights.
    """
    values = np.ravel(values)
    if weights is None:
        distinct, counts = np.unique(values, return_counts=True)
        return distinct.astype(np.float64), counts.astype(np.float64)
    distinct, index = np.unique(values, return_inverse=True)
    mass = np.bincount(index.ravel(), np.ravel(weights).astype(np.float64))
    has_mass = mass > 0
    if not has_mass.any():
        return _merged(values, None)
    return distinct[has_mass].astype(np.float64), mass[has_mass]


def _prefix_sums(values: np.ndarray, mass: np.ndarray) -> list[np.ndarray]:
    """Returns the prefix sums, starting at 0, of the mass and of its products with the values and their squares."""
    return [np.concatenate([[0.0], np.cumsum(mass * values**power)]) for power in range(3)]


def _run_ends(values: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Returns the boundaries of the runs of sorted values, from 0 to the number of values."""
    if len(values) <= MAX_RUNS:
        return np.arange(len(values) + 1)
    # Half of the boundaries by mass and half by range, so that both the middle and the tails are resolved.
    total = np.cumsum(mass)
    by_mass = np.searchsorted(total, total[-1] * np.arange(1, MAX_RUNS // 2) / (MAX_RUNS // 2)) + 1
    by_range = np.searchsorted(values, np.linspace(values[0], values[-1], MAX_RUNS // 2 + 1)[1:-1])
    return np.unique(np.concatenate([[0, len(values)], by_mass, by_range]))


def _optimal_cuts(sums: list[np.ndarray], k: int) -> np.ndarray:
    """Returns the `k + 1` boundaries of the clusters of runs with the least squared error."""
    n = len(sums[0]) - 1
    k = min(k, n)
    least_error = _errors(sums, np.zeros(n + 1, np.int64), np.arange(n + 1))
    begins_by_layer = []
    for _ in range(k - 1):
        least_error, begins = _add_cluster(sums, least_error)
        begins_by_layer.append(begins)
    cuts = [n]
    for begins in reversed(begins_by_layer):
        cuts.append(int(begins[cuts[-1]]))
    return np.array([0, *reversed(cuts)])


def _add_cluster(sums: list[np.ndarray], before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Adds a cluster: returns the least error of the first `j` runs for every `j`, and the last cluster's begin.

    The best begin grows with `j`. So the middle of every interval of solved `j` is solved next, with a search between
    the begins of the interval's ends; all middles of a level are searched at once.

    Args:
        sums: prefix sums at the boundaries of the runs.
        before: the least errors with one cluster less.
    """
    n = len(before) - 1
    least_error, begins = np.zeros(n + 1), np.zeros(n + 1, np.int64)
    begins[n:], least_error[n:] = _best_begins(sums, before, np.array([n]), np.array([0]), np.array([n]))
    solved = np.array([0, n])
    while len(solved) <= n:
        ends = (solved[1:] + solved[:-1]) // 2
        is_new = ends > solved[:-1]
        ends, low, high = ends[is_new], begins[solved[:-1]][is_new], begins[solved[1:]][is_new]
        begins[ends], least_error[ends] = _best_begins(sums, before, ends, low, np.minimum(high, ends))
        solved = np.sort(np.concatenate([solved, ends]))
    return least_error, begins


def _best_begins(
    sums: list[np.ndarray], before: np.ndarray, ends: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns, for each end, the best begin of the last cluster in `[low, high]`, and the error."""
    # All candidates in one array: the segment of end i begins at starts[i] and has sizes[i] entries.
    sizes = high - low + 1
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    candidates = np.arange(sizes.sum()) - np.repeat(starts - low, sizes)
    error = before[candidates] + _errors(sums, candidates, np.repeat(ends, sizes))
    least_error = np.minimum.reduceat(error, starts)
    hits = np.flatnonzero(error == np.repeat(least_error, sizes))
    return candidates[hits[np.searchsorted(hits, starts)]], least_error


def _errors(sums: list[np.ndarray], begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Returns the squared error of the values between boundaries around their mean."""
    mass, first, second = (prefix[end] - prefix[begin] for prefix in sums)
    safe_mass = np.where(mass > 0, mass, 1.0)
    return np.maximum(second - first * first / safe_mass, 0.0)


def _lloyd(values: np.ndarray, sums: list[np.ndarray], cuts: np.ndarray) -> np.ndarray:
    """Moves cuts to the midpoints between means until nothing changes; returns the means."""
    means = _means(sums, cuts)
    for _ in range(LLOYD_STEPS):
        inner = np.searchsorted(values, 0.5 * (means[1:] + means[:-1]))
        new_cuts = np.concatenate([[0], inner, [len(values)]])
        if np.array_equal(new_cuts, cuts) or (np.diff(new_cuts) < 1).any():
            break
        cuts = new_cuts
        means = _means(sums, cuts)
    return means


def _means(sums: list[np.ndarray], cuts: np.ndarray) -> np.ndarray:
    """Returns the means of the values between cuts."""
    return np.diff(sums[1][cuts]) / np.diff(sums[0][cuts])
