"""Word streams for language models: Penn Treebank from a folder, or a small generated text, and windows of them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from r2keras._util.errors import invalid
from r2keras.workloads.data import read_npz

FILE = "ptb_lm_train_valid.npz"
END = "<eos>"
SEED = 1710
SENTENCES = {"train": 1200, "validation": 200}
SINGULAR = {
    "subject": ("the cat", "a sailor", "the old king", "my sister", "the small bird", "a quiet teacher"),
    "verb": ("sees", "follows", "remembers", "paints", "hears", "forgets"),
}
PLURAL = {
    "subject": ("the cats", "two sailors", "the old kings", "my sisters", "the small birds", "some teachers"),
    "verb": ("see", "follow", "remember", "paint", "hear", "forget"),
}
OBJECTS = ("the river", "a red boat", "the morning", "three stones", "the long road", "an empty house")
ADVERBIALS = ("near the harbour", "in winter", "behind the hill", "every day", "without a word")


@dataclasses.dataclass(frozen=True, eq=False)
class Text:
    """A text as word indices, in two parts.

    Args:
        train: int32 indices into `vocabulary`, `(n,)`, in reading order; every sentence ends with `<eos>`.
        validation: likewise.
        vocabulary: the words, most frequent first.
        source: origin of the text, for reports.
    """

    train: np.ndarray
    validation: np.ndarray
    vocabulary: tuple[str, ...]
    source: str


def load(data_dir: str | os.PathLike | None = None) -> Text:
    """Loads Penn Treebank from a folder, or generates a small text.

    Args:
        data_dir: the folder of `ptb_lm_train_valid.npz` (929,589 and 73,760 words, 10,000 different ones). None
            generates 1,400 sentences of a small grammar in which the verb agrees with the subject, always the same.

    Returns:
        A `Text`.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file is corrupt or has other contents, or an index has no word.

    Example:

    >>> text = load()
    >>> len(text.vocabulary), " ".join(text.vocabulary[index] for index in text.train[:9])
    (54, 'my sisters forget a red boat <eos> the cats')
    """
    return _generated() if data_dir is None else _penn_treebank(Path(data_dir))


def from_words(train: Sequence[str], validation: Sequence[str], source: str = "words") -> Text:
    """Creates a `Text` from words; the vocabulary is that of the training part.

    Args:
        train: the words of the training part, in reading order.
        validation: the words of the validation part.
        source: origin of the words, for reports.

    Returns:
        A `Text` with the vocabulary sorted by descending frequency, then by spelling.

    Raises:
        ValueError: a part is empty, or the validation part has a word that is not in the training part.

    Example:

    >>> from_words("a b b a b".split(), ["b"]).vocabulary
    ('b', 'a')
    """
    words, counts = np.unique(np.asarray(train, dtype=str), return_counts=True)
    vocabulary = tuple(words[np.lexsort((words, -counts))].tolist())
    index_of = {word: index for index, word in enumerate(vocabulary)}
    unknown = sorted(set(validation) - set(index_of))
    if unknown:
        raise ValueError(
            invalid("validation", "words of the training part", unknown[:3], "Replace rare words by <unk> in both")
        )
    train_ids, validation_ids = (np.array([index_of[word] for word in part], np.int32) for part in (train, validation))
    return checked(Text(train_ids, validation_ids, vocabulary, source))


def checked(text: Text) -> Text:
    """Returns the text after checking its parts.

    Raises:
        ValueError: a part is empty or not a row of whole numbers, or an index has no word in the vocabulary.
    """
    for name in ("train", "validation"):
        part = getattr(text, name)
        if part.ndim != 1 or not np.issubdtype(part.dtype, np.integer):
            received = f"{part.dtype} {part.shape}"
            raise ValueError(
                invalid(name, "one row of word indices", received, "Join ragged lines with <eos> between them")
            )
        if len(part) == 0:
            raise ValueError(invalid(name, "at least one word", "an empty text", "Check the file"))
        if part.min() < 0 or part.max() >= len(text.vocabulary):
            expected = f"indices from 0 to {len(text.vocabulary) - 1}, those of the vocabulary"
            raise ValueError(invalid(name, expected, f"{part.min()} to {part.max()}", "Encode it with this vocabulary"))
    return text


def windows(ids: np.ndarray, batch_size: int, length: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields windows for truncated backpropagation: row i of a window continues row i of the window before.

    The text is split into `batch_size` streams of equal length (fewer than `batch_size` words at its end are left out),
    and these into windows of `length` words; the last one may be shorter.

    Args:
        ids: word indices, `(n,)`.
        batch_size: number of streams.
        length: number of words per window.

    Yields:
        Words and the words that follow them, int32 `(batch_size, length)` each.

    Raises:
        ValueError: the text is too short for one word and its successor in each stream.

    Example:

    >>> [x.tolist() for x, y in windows(np.arange(8), 2, 2)]
    [[[0, 1], [3, 4]], [[2], [5]]]
    """
    for name, value in (("batch_size", batch_size), ("length", length)):
        if value < 1:
            raise ValueError(invalid(name, "a whole number of at least 1", value))
    steps = (len(ids) - 1) // batch_size
    if steps < 1:
        raise ValueError(
            invalid(
                "ids", f"more than {batch_size} words, one for each stream", f"{len(ids)} words", "Use a smaller batch"
            )
        )
    x, y = (ids[start : start + steps * batch_size].reshape(batch_size, steps) for start in (0, 1))
    for start in range(0, steps, length):
        yield x[:, start : start + length], y[:, start : start + length]


def _penn_treebank(data_dir: Path) -> Text:
    """Reads Mikolov's version of the corpus."""
    path = data_dir / FILE
    file = read_npz(path, {"train": None, "valid": None, "vocab": None})
    parts = (file[name] for name in ("train", "valid"))
    train, validation = (part if part.dtype.kind == "f" else part.astype(np.int32) for part in parts)
    return checked(Text(train, validation, tuple(file["vocab"].tolist()), str(path)))


def _generated() -> Text:
    """Generates sentences from the grammar."""
    rng = np.random.default_rng(SEED)
    train, validation = ([word for _ in range(count) for word in _sentence(rng)] for count in SENTENCES.values())
    return from_words(train, validation, "a generated text")


def _sentence(rng: np.random.Generator) -> list[str]:
    """Generates one sentence: subject, a verb that agrees with it, object, and sometimes an adverbial."""
    form = (SINGULAR, PLURAL)[rng.integers(2)]
    parts = [_choice(rng, form["subject"]), _choice(rng, form["verb"]), _choice(rng, OBJECTS)]
    if rng.random() < 0.4:
        parts.append(_choice(rng, ADVERBIALS))
    return [*" ".join(parts).split(), END]


def _choice(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[rng.integers(len(words))]
