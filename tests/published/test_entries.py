"""What entries of a checkpoint have to be."""

import numpy as np
import pytest

from sdejax.published.entries import agree, outline, rate, whole

WEIGHTS = {"w": np.zeros((2, 3))}
TENSOR_OF_ONE = [np.float32, np.int64, lambda v: np.asarray([v], np.float64)]


@pytest.mark.parametrize("kind", [int, float, *TENSOR_OF_ONE])
def test_a_whole_number_may_come_as_a_float_or_a_tensor(kind):
    assert whole("step", kind(7)) == 7
    assert type(whole("step", kind(7))) is int


@pytest.mark.parametrize("value", [-1, 0.5, 2**31, np.nan, True, "7", None, np.zeros(2)])
def test_what_is_no_whole_number_is_shown(value):
    with pytest.raises(ValueError, match=r"step: got .*expected a whole number below 2"):
        whole("step", value)


@pytest.mark.parametrize("kind", [float, np.float64, lambda v: np.asarray(v)])
def test_a_rate_may_come_as_a_tensor(kind):
    assert rate("ema.decay", kind(0.999)) == 0.999
    assert rate("ema.decay", kind(0)) == 0.0


@pytest.mark.parametrize("value", [1, -0.1, np.nan, np.inf, True, "0.9", None, np.zeros(2)])
def test_what_is_no_rate_is_shown(value):
    with pytest.raises(ValueError, match=r"ema\.decay: got .*expected a number in \[0, 1\)"):
        rate("ema.decay", value)


def test_a_tensor_goes_with_weights_of_its_shape():
    agree("ema[0]", "w", np.ones((2, 3)), WEIGHTS)
    for tensor, name, message in (
        (np.zeros((3, 2)), "w", r"ema\[0\] \(for w\): shape \(3, 2\), expected \(2, 3\)"),
        (np.zeros((2, 3)), "v", r"ema\[0\]: v is not among the weights"),
        ([0.0], "w", r"ema\[0\] \(for w\): list, expected a tensor"),
    ):
        with pytest.raises(ValueError, match=message):
            agree("ema[0]", name, tensor, WEIGHTS)


def test_an_outline_is_short_whatever_it_is_of():
    assert outline({"a": 1, 2: 3}) == "a dictionary of a, 2"
    assert outline([1, "x"]) == "a list of 2 (int, str)"
    assert outline(1.5) == "float"
    assert len(outline({"k" * 10_000: 1, **{str(i): i for i in range(10_000)}})) < 200
    assert len(outline([0] * 10_000)) < 100
