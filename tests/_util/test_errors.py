"""The form of every error message."""

import pytest

from r2keras._util.errors import invalid, invalid_choice, invalid_part, missing

pytestmark = pytest.mark.backends


def test_invalid_says_what_was_expected_and_received():
    text = invalid("num_bits", "an integer from 1 to 8", 9)
    assert text == "Invalid value for argument `num_bits`. Expected an integer from 1 to 8. Received: num_bits=9."


def test_received_strings_are_quoted_and_none_is_seen():
    assert invalid("x", "y", "z").endswith("Received: x='z'.")
    assert invalid("x", "y", None).endswith("Received: x=None.")


@pytest.mark.parametrize(("fix", "end"), [("Do this", "Do this."), ("Do this.", "Do this."), ("Do this?", "Do this?")])
def test_fix_becomes_one_sentence(fix, end):
    assert invalid("x", "y", 1, fix).endswith(f"Received: x=1. {end}")


def test_a_wrong_part_is_described():
    text = invalid_part("model", "a built model", "the model 'net', which is not built", "Call it")
    assert text.startswith("Invalid value for argument `model`. Expected a built model. Received: the model 'net', ")
    assert text.endswith("which is not built. Call it.")
    assert invalid_part("x", "y", "a part of x").endswith("Received: a part of x.")


def test_choice_lists_all_and_offers_the_nearest():
    text = invalid_choice("range", ("min_max", "mse"), "min-max")
    assert "Expected one of 'min_max', 'mse'." in text
    assert text.endswith("Did you mean 'min_max'?")


@pytest.mark.parametrize("received", ["nothing alike", 3, None, ["min_max"]])
def test_choice_offers_nothing_for_what_is_unlike(received):
    assert "Did you mean" not in invalid_choice("range", iter(["mse", "percentile"]), received)


def test_missing_names_the_command():
    assert missing("tensorflow", "Export").endswith("Run `pip install tensorflow`.")
    assert missing("tflite-micro", "Export", "tflm").endswith("Run `pip install 'r2keras[tflm]'`.")
