"""The report separates fresh real digits, noise, copies, blur and a dropped class."""

import json

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from sdejax.metrics.report import format_report, sample_report

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def split():
    digits = load_digits()
    order = np.random.default_rng(3).permutation(len(digits.target))
    x, y = (digits.images[order, ..., None] / 8 - 1).astype(np.float32), digits.target[order]
    train, held_out, fresh = slice(0, 1000), slice(1000, 1400), slice(1400, None)
    return x[train], y[train], x[held_out], y[held_out], x[fresh]


def without_labels(split, samples, seed=0):
    return sample_report(jax.random.key(seed), samples, split[0], split[2], num_projections=128)


@pytest.fixture(scope="module")
def noise(split):
    noise = np.random.default_rng(5).normal(size=split[4].shape).clip(-1, 1)
    return noise.astype(np.float32)


def test_fresh_real_digits_are_at_zero(split):
    report = without_labels(split, split[4])
    assert report["num"] == len(split[4])
    assert abs(report["swd_ratio"]) < 0.05
    spread = report["swd_floor_sd"]
    assert abs(report["swd_samples"] - report["swd_floor"]) < 5 * spread
    assert 0 < spread < 0.3 * report["swd_floor"]
    assert report["nearest_samples"] == pytest.approx(report["nearest_held_out"], rel=0.1)
    # About 1 %: the percentile of 397 distances rests on four of them.
    assert report["nearest_share"] < 0.05


def test_noise_is_at_one(split, noise):
    report = without_labels(split, noise)
    assert report["swd_ratio"] == pytest.approx(1, abs=0.03)
    assert report["nearest_samples"] > 2 * report["nearest_held_out"]


def test_half_noise_is_between(split, noise):
    half = np.concatenate([split[4][:200], noise[:197]])
    assert 0.2 < without_labels(split, half)["swd_ratio"] < 0.8


def test_copies_of_the_training_set_are_flagged(split):
    report = without_labels(split, split[0][:397])
    assert abs(report["swd_ratio"]) < 0.05
    assert report["nearest_samples"] == 0
    assert report["nearest_share"] > 0.99


def test_faded_digits_score_worse_than_fresh_ones(split):
    fresh, faded = (without_labels(split, s)["swd_ratio"] for s in (split[4], 0.8 * split[4]))
    assert faded > fresh + 0.05


@pytest.fixture(scope="module")
def report(split):
    train, train_labels, held_out, held_out_labels, fresh = split
    return sample_report(
        KEY, fresh, train, held_out, train_labels, held_out_labels, num_projections=128
    )


def test_classes(split, report):
    train, train_labels, held_out, held_out_labels, _ = split
    assert report["classifier_accuracy"] > 0.95
    assert report["confident_held_out"] > 0.9
    assert report["confident_samples"] == pytest.approx(report["confident_held_out"], abs=0.05)
    assert report["confident_noise"] < 0.01
    assert sum(report["class_shares"].values()) == pytest.approx(1)
    # Samples without a class: the share of nines, and only that, collapses.
    kept = held_out[held_out_labels != 9]
    dropped = sample_report(
        KEY, kept, train, held_out, train_labels, held_out_labels, num_projections=128
    )
    assert dropped["class_shares"][9] < 0.02 < 0.05 < dropped["class_shares_held_out"][9]


def test_table(split, noise, report):
    table = format_report(json.loads(json.dumps(report)))
    assert f"{report['swd_ratio']:.3f}" in table
    assert f"{report['confident_samples']:.1%}" in table
    assert table.count("class ") == 10
    assert max(map(len, table.splitlines())) <= 80
    plain = format_report(without_labels(split, noise))
    assert "class" not in plain


def test_equal_numbers_and_reproducible(split):
    few = without_labels(split, split[4][:100])
    assert few["num"] == 100
    assert few == without_labels(split, split[4][:100])
    assert few["swd_floor"] > without_labels(split, split[4])["swd_floor"]  # fewer: higher floor
    alone = sample_report(KEY, split[4], split[0][:150], split[2], num_projections=128)
    assert (alone["num"], alone["swd_floor_sd"]) == (150, None)


def test_misuse(split):
    train, train_labels, held_out, held_out_labels, fresh = split
    with pytest.raises(ValueError, match="come together"):
        sample_report(KEY, fresh, train, held_out, train_labels)
    with pytest.raises(ValueError, match="train_labels must have one entry"):
        sample_report(KEY, fresh, train, held_out, train_labels[1:], held_out_labels)
    with pytest.raises(ValueError, match="one shape"):
        sample_report(KEY, fresh[..., 0], train, held_out)
    with pytest.raises(ValueError, match="3 not finite"):
        sample_report(
            KEY, np.concatenate([fresh, np.full_like(fresh[:3], np.nan)]), train, held_out
        )
    with pytest.raises(ValueError, match="disjoint from train"):
        sample_report(KEY, fresh, train, train[:400])
