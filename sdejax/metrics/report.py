r"""One small table that says how samples compare with real data, with its own yardsticks.

Every number stands beside what it would be for real data and for noise, over equally many
examples n:

- SW2(samples, held-out) beside the *floor* SW2(training subset, held-out), averaged over disjoint
  training subsets of n examples, and the *ceiling* SW2(noise, held-out); all use the same
  directions. ratio = (samples - floor)/(noise - floor): 0 for fresh real data, 1 for noise.
- the share of samples that a classifier, fitted to the training set, recognises with p >= 0.8,
  beside the shares of held-out images and of noise; and how the samples spread over the classes.
- the distance to the nearest training example, beside that of held-out examples. A model that
  memorised has a ratio near zero and gives itself away here: about 1 % of fresh samples are nearer
  than the first percentile of held-out distances, and nearly all copies are.

"Noise" is N(0, I) of the shape of the data, clipped to the training set's [min, max].
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Num, Shaped

from sdejax.metrics.classifier import accuracy, class_shares, fit_classifier
from sdejax.metrics.nearest import nearest_distances
from sdejax.metrics.sliced_wasserstein import projected_wasserstein, random_directions
from sdejax.types import Key

_THRESHOLD = 0.8  # probability from which a sample counts as recognised
_SUBSETS = 8  # training subsets that the floor is averaged over, as far as the data go


def _check(**sets: np.ndarray) -> None:
    """Raise a ValueError unless the sets are finite, not empty and of one event shape."""
    shapes = {name: x.shape[1:] for name, x in sets.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"samples, train and held_out must hold events of one shape: got {shapes}")
    for name, x in sets.items():
        bad = int(np.sum(~np.isfinite(x.reshape(len(x), -1)).all(axis=1)))
        if len(x) < 2 or bad:
            raise ValueError(
                f"{name} must hold at least 2 finite examples: got {len(x)}, {bad} not finite"
            )


def _sliced(key: Key, samples, subsets, held_out, noise, num_projections: int) -> dict[str, Any]:
    """The distances to held-out data, all along the same directions."""
    directions = random_directions(key, num_projections, held_out[0].size)
    squared = jax.jit(projected_wasserstein)

    def distance(x):
        return float(np.sqrt(squared(directions, x, held_out).mean()))

    floors = np.array([distance(x) for x in subsets])
    floor, ours, ceiling = float(floors.mean()), distance(samples), distance(noise)
    return {
        "swd_samples": ours,
        "swd_floor": floor,
        "swd_floor_sd": float(floors.std(ddof=1)) if len(floors) > 1 else None,
        "swd_noise": ceiling,
        "swd_ratio": (ours - floor) / (ceiling - floor),
    }


def _nearest(samples, held_out, train) -> dict[str, Any]:
    """Distances to the nearest training example, of samples and of held-out examples."""
    ours, real = (np.asarray(nearest_distances(x, train)[0]) for x in (samples, held_out))
    if np.median(real) == 0:
        raise ValueError(
            "held_out must be disjoint from train: more than half of its examples are copies of "
            "training examples; split the data first"
        )
    return {
        "nearest_samples": float(np.median(ours)),
        "nearest_held_out": float(np.median(real)),
        "nearest_share": float(np.mean(ours < np.quantile(real, 0.01))),
    }


def _classes(samples, noise, train, train_labels, held_out, held_out_labels) -> dict[str, Any]:
    """What a classifier fitted to the training set makes of samples, held-out data and noise."""
    classifier = fit_classifier(np.asarray(train), np.asarray(train_labels))
    ours, real, none = (
        class_shares(classifier, np.asarray(x), threshold=_THRESHOLD)
        for x in (samples, held_out, noise)
    )
    return {
        "classifier_accuracy": accuracy(
            classifier, np.asarray(held_out), np.asarray(held_out_labels)
        ),
        "confident_samples": ours.confident,
        "confident_held_out": real.confident,
        "confident_noise": none.confident,
        "class_shares": ours.shares,
        "class_shares_held_out": real.shares,
    }


def sample_report(
    key: Key,
    samples: Num[Array | np.ndarray, "n ..."],
    train: Num[Array | np.ndarray, "m ..."],
    held_out: Num[Array | np.ndarray, "k ..."],
    train_labels: Shaped[Array | np.ndarray, " a"] | None = None,
    held_out_labels: Shaped[Array | np.ndarray, " b"] | None = None,
    *,
    num_projections: int = 512,
) -> dict[str, Any]:
    """Compare samples with held-out data, with real data and noise as yardsticks.

    Args:
        key: draws the directions, the noise and the subsets.
        samples: generated examples, [n, *event], in the range of the data.
        train: what the model was trained on, [m, *event].
        held_out: real examples the model has not seen, disjoint from ``train``, [k, *event].
        train_labels: labels of ``train``, [m]; without labels the classifier part is left out.
        held_out_labels: labels of ``held_out``, [k].
        num_projections: directions of the sliced Wasserstein distances.

    Returns:
        A flat dictionary that JSON can hold: ``num`` = min(n, m, k) examples on each side of every
        comparison (random subsets where there are more), ``swd_samples``, ``swd_floor``,
        ``swd_floor_sd`` (over training subsets; None where there is but one), ``swd_noise``,
        ``swd_ratio``; ``nearest_samples`` and ``nearest_held_out`` (medians), ``nearest_share``
        (samples nearer than the first percentile of held-out distances); and with labels
        ``classifier_accuracy``, ``confident_samples``, ``confident_held_out``,
        ``confident_noise``, ``class_shares``, ``class_shares_held_out``.

    Raises:
        ValueError: if a set is too small or not finite, the event shapes differ, only one set has
            labels, or ``held_out`` consists of training examples.
    """
    if (train_labels is None) != (held_out_labels is None):
        raise ValueError(
            "train_labels and held_out_labels come together: got one of them; pass both or neither"
        )
    named = {"samples": samples, "train": train, "held_out": held_out}
    sets = {name: np.asarray(x, np.float32) for name, x in named.items()}
    _check(**sets)
    for name, labels in (("train", train_labels), ("held_out", held_out_labels)):
        if labels is not None and len(labels) != len(sets[name]):
            raise ValueError(
                f"{name}_labels must have one entry per example: got {len(labels)} labels for "
                f"{len(sets[name])} examples"
            )
    num = min(len(x) for x in sets.values())
    keys = jax.random.split(key, 5)
    order = {
        name: np.asarray(jax.random.permutation(k, len(sets[name])))
        for name, k in zip(sets, keys[:3], strict=True)
    }
    train, held_out_index = jnp.asarray(sets["train"]), order["held_out"][:num]
    ours = jnp.asarray(sets["samples"][order["samples"][:num]])
    real = jnp.asarray(sets["held_out"][held_out_index])
    noise = jnp.clip(jax.random.normal(keys[3], real.shape), train.min(), train.max())
    count = min(_SUBSETS, len(train) // num)
    subsets = [train[rows] for rows in np.split(order["train"][: count * num], count)]

    report: dict[str, Any] = {"num": num}
    report |= _sliced(keys[4], ours, subsets, real, noise, num_projections)
    report |= _nearest(ours, real, train)
    if held_out_labels is not None:
        labels = np.asarray(held_out_labels)[held_out_index]
        report |= _classes(ours, noise, train, train_labels, real, labels)
    return report


def format_report(report: dict[str, Any]) -> str:
    """Lay a report out as a small text table: one row per measure, real data and noise beside it.

    Args:
        report: from ``sample_report``.

    Returns:
        Lines of text for a terminal or a log.
    """
    r = report
    spread = "" if r["swd_floor_sd"] is None else f" +- {r['swd_floor_sd']:.4f}"
    rows = [
        (f"{r['num']} examples each", "samples", "real data", "noise"),
        ("sliced Wasserstein-2 to held-out", f"{r['swd_samples']:.4f}",
         f"{r['swd_floor']:.4f}{spread}", f"{r['swd_noise']:.4f}"),
        ("  (samples - real)/(noise - real)", f"{r['swd_ratio']:.3f}", "0", "1"),
        ("nearest training example, median", f"{r['nearest_samples']:.3f}",
         f"{r['nearest_held_out']:.3f}", ""),
        ("  nearer than 99 % of held-out", f"{r['nearest_share']:.1%}", "1.0%", ""),
    ]  # fmt: skip
    if "class_shares" in r:
        rows += [
            (f"recognised with p >= {_THRESHOLD}", f"{r['confident_samples']:.1%}",
             f"{r['confident_held_out']:.1%}", f"{r['confident_noise']:.1%}"),
            ("  (classifier right on held-out)", "", f"{r['classifier_accuracy']:.1%}", ""),
            *((f"class {name}", f"{share:.1%}", f"{r['class_shares_held_out'][name]:.1%}", "")
              for name, share in r["class_shares"].items()),
        ]  # fmt: skip
    first, *rest = (max(len(row[i]) for row in rows) for i in range(4))
    lines = [
        "  ".join([row[0].ljust(first), *(c.rjust(w) for c, w in zip(row[1:], rest, strict=True))])
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in [lines[0], "-" * len(lines[0]), *lines[1:]])
