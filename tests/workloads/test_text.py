"""Word streams: windows lose no word, texts are equal on every load, and bad texts give one sentence."""

import dataclasses

import numpy as np
import pytest

from r2keras.workloads import text


@pytest.fixture
def folder(tmp_path):
    """A folder with a small file that looks like Penn Treebank's."""
    parts = {"train": np.arange(50, dtype=np.uint16) % 7, "valid": np.arange(20, dtype=np.uint16) % 7}
    np.savez(tmp_path / text.FILE, vocab=np.array(list("abcdefg")), **parts)
    return tmp_path


def changed(folder, **arrays):
    """Overwrites arrays of the folder's file."""
    with np.load(folder / text.FILE) as file:
        kept = dict(file)
    np.savez(folder / text.FILE, **{**kept, **arrays})
    return folder


class TestLoad:
    def test_generated_text_is_the_same_every_time(self):
        first, second = text.load(), text.load()
        assert np.array_equal(first.train, second.train) and first.vocabulary == second.vocabulary

    def test_generated_text_has_sentences_and_sorted_words(self):
        found = text.load()
        counts = np.bincount(found.train, minlength=len(found.vocabulary))
        assert list(counts) == sorted(counts, reverse=True) and counts.min() > 0
        assert found.vocabulary[found.train[-1]] == text.END
        assert not np.array_equal(found.train[: len(found.validation)], found.validation)

    def test_verbs_agree_with_subjects(self):
        found = text.load()
        words = " " + " ".join(found.vocabulary[index] for index in found.train)
        assert " the cats see " in words and " the cats sees " not in words

    def test_file(self, folder):
        found = text.load(folder)
        assert found.train.dtype == found.validation.dtype == np.int32
        assert (len(found.train), len(found.validation), found.vocabulary) == (50, 20, tuple("abcdefg"))

    def test_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="is missing"):
            text.load(tmp_path)

    def test_truncated_file(self, folder):
        path = folder / text.FILE
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(ValueError, match="truncated, corrupt or another file"):
            text.load(folder)

    @pytest.mark.parametrize(
        ("arrays", "words"),
        [
            ({"train": np.zeros((5, 4), np.int32)}, "Join ragged lines"),
            ({"train": np.zeros(5, np.float32)}, "one row of word indices"),
            ({"valid": np.zeros(0, np.int32)}, "an empty text"),
            ({"train": np.array([0, 7])}, "indices from 0 to 6"),
            ({"vocab": np.array(["a", "b"])}, "indices from 0 to 1"),
        ],
    )
    def test_bad_texts(self, folder, arrays, words):
        with pytest.raises(ValueError, match=words):
            text.load(changed(folder, **arrays))


class TestFromWords:
    def test_encodes(self):
        found = text.from_words(["a", "b", "b", "a", "b"], ["b", "a"])
        assert found.train.tolist() == [1, 0, 0, 1, 0] and found.validation.tolist() == [0, 1]

    def test_unknown_word(self):
        with pytest.raises(ValueError, match=r"words of the training part.*zebra"):
            text.from_words(["a"], ["zebra"])

    def test_empty(self):
        with pytest.raises(ValueError, match="an empty text"):
            text.from_words(["a"], [])

    def test_checked_keeps_a_good_text(self):
        found = text.from_words(["a", "b"], ["b"])
        assert text.checked(found) is found
        with pytest.raises(ValueError, match="indices from 0 to 0"):
            text.checked(dataclasses.replace(found, vocabulary=("a",)))


class TestWindows:
    @pytest.mark.parametrize(("count", "batch", "length"), [(100, 4, 7), (31, 3, 5), (9, 2, 2), (7, 2, 50)])
    def test_streams_run_on_and_lose_fewer_words_than_there_are_streams(self, count, batch, length):
        found = list(text.windows(np.arange(count), batch, length))
        x, y = (np.concatenate(part, axis=1) for part in zip(*found, strict=True))
        assert np.array_equal(y, x + 1) and np.array_equal(np.diff(x, axis=1), np.ones((batch, x.shape[1] - 1)))
        assert count - 1 - batch < x.size <= count - 1 and len(np.unique(x)) == x.size
        assert [part[0].shape[1] for part in found[:-1]] == [length] * (len(found) - 1)

    def test_too_short(self):
        with pytest.raises(ValueError, match="more than 20 words, one for each stream"):
            list(text.windows(np.arange(20), 20, 30))

    @pytest.mark.parametrize("sizes", [(0, 3), (3, 0)])
    def test_bad_sizes(self, sizes):
        with pytest.raises(ValueError, match="at least 1"):
            list(text.windows(np.arange(20), *sizes))
