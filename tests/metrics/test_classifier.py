"""The classifier is right on real digits, calibrated, and abstains away from them."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from sdejax.metrics.classifier import accuracy, class_shares, fit_classifier


@pytest.fixture(scope="module")
def split():
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    x, y = (digits.images[order, ..., None] / 8 - 1).astype(np.float32), digits.target[order]
    return x[:1437], y[:1437], x[1437:], y[1437:]


@pytest.fixture(scope="module")
def classifier(split):
    return fit_classifier(*split[:2])


def test_accuracy_on_held_out_digits(classifier, split):
    assert accuracy(classifier, *split[2:]) >= 0.97
    assert accuracy(classifier, split[2], (split[3] + 1) % 10) < 0.03


def test_confidence_is_what_the_accuracy_says(classifier, split):
    _, _, x, y = split
    p = classifier.predict_proba(x.reshape(len(x), -1))
    hit, confidence = p.argmax(1) == y, p.max(1)
    # The mean confidence is the expected accuracy; its sampling error is that of Bernoulli(p).
    standard_error = np.sqrt(np.sum(confidence * (1 - confidence))) / len(x)
    assert abs(hit.mean() - confidence.mean()) < 5 * standard_error


def test_recognises_digits_and_nothing_else(classifier, split):
    x, rng = split[2], np.random.default_rng(1)
    noise = np.clip(rng.normal(size=x.shape), -1, 1)
    shuffled = rng.permuted(x.reshape(len(x), -1), axis=1).reshape(x.shape)
    assert class_shares(classifier, x).confident > 0.9
    for strange in (noise, shuffled, -x, np.zeros_like(x)):
        assert class_shares(classifier, strange).confident < 0.01


def test_shares_count_the_classes(classifier, split):
    x, y = split[2][split[3] < 3], split[3][split[3] < 3]
    shares = class_shares(classifier, x).shares
    assert list(shares) == list(range(10))
    assert sum(shares.values()) == pytest.approx(1)
    for digit in range(3):
        assert shares[digit] == pytest.approx(np.mean(y == digit), abs=0.03)


def test_threshold_and_range_of_the_images(split):
    x, y, held_out, _ = split
    both = [
        class_shares(fit_classifier(s * x, y, num_features=300), s * held_out, threshold=0.95)
        for s in (1.0, 127.5)
    ]
    assert both[0].confident == pytest.approx(both[1].confident, abs=0.01)
    assert (
        both[0].confident < class_shares(fit_classifier(x, y, num_features=300), held_out).confident
    )


def test_named_labels():
    x = np.concatenate([np.zeros((20, 3)), np.ones((10, 3))]) + 0.1 * np.random.default_rng(
        0
    ).normal(size=(30, 3))
    names = np.array(["cat"] * 20 + ["dog"] * 10)
    shares = class_shares(fit_classifier(x, names), x).shares
    assert shares == {"cat": pytest.approx(2 / 3), "dog": pytest.approx(1 / 3)}


def test_misuse(classifier):
    with pytest.raises(ValueError, match="one entry per image"):
        fit_classifier(np.zeros((3, 2)), np.zeros(2))
    with pytest.raises(ValueError, match="two classes"):
        fit_classifier(np.zeros((3, 2)), np.zeros(3))
    with pytest.raises(ValueError, match="1 not finite"):
        class_shares(classifier, np.full((1, 64), np.nan))
