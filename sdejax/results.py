"""What a trained model shows: pictures of samples, and the report at the end of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from sdejax import viz
from sdejax.build import Parts
from sdejax.data.base import Dataset
from sdejax.data.scaling import Scaling, apply, bounds, invert, to_uint8
from sdejax.generate import Generator, make_generator
from sdejax.metrics.report import format_report, sample_report
from sdejax.samplers.learned import Solver
from sdejax.thresholding import Transform, clipped, thresholded
from sdejax.types import Params


def finish(
    config: Mapping[str, Any],
    generate: Generator,
    params: Params,
    train_data: Dataset,
    held_out: Dataset,
    workdir: Path,
) -> None:
    """Draws the final samples, and the report where ``config.sample.report_num`` asks for one.

    Args:
        config: nested.
        generate: from ``generator_of``.
        params: averaged parameters.
        train_data: training data.
        held_out: held-out data.
        workdir: where ``samples.png`` (``samples.npz`` for events without a picture),
            ``report.json`` and ``report.txt`` go.
    """
    wanted = config["sample"]
    num = max(wanted["num"], wanted["report_num"])
    x, stats = generate(params, num, seed=config["seed"] + 1, progress=True)
    beside = rows_of(train_data, wanted["num"])["x"]
    path = workdir / "samples.png"
    if has_picture(x.shape[1:], train_data.scaling):
        save_picture(path, x[: wanted["num"]], train_data.scaling, beside)
    else:
        path = workdir / "samples.npz"
        np.savez_compressed(path, x=invert(train_data.scaling, x))
    print(f"samples: {path} ({float(np.mean(stats.nfe)):.0f} evaluations each)")
    if wanted["report_num"]:
        real, unseen = (rows_of(data, 20_000) for data in (train_data, held_out))  # they suffice
        report = sample_report(
            jax.random.key(config["seed"]), x, real["x"], unseen["x"],
            real.get("label"), unseen.get("label"),
        )  # fmt: skip
        (workdir / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        (workdir / "report.txt").write_text(format_report(report) + "\n")
        print(format_report(report))


def generator_of(
    config: Mapping[str, Any], parts: Parts, scaling: Scaling, solver: Solver | None = None
) -> Generator:
    """The generator that ``config.sample`` describes.

    Args:
        config: nested.
        parts: the model.
        scaling: of the data, whose range ``config.sample.clip`` and ``threshold`` keep to.
        solver: a learned solver, in place of the configured sampler, steps and grid.

    Returns:
        As ``make_generator``.

    Raises:
        ValueError: for clipping without a known range, or as ``make_generator``.
    """
    wanted = config["sample"]
    return make_generator(
        parts,
        sampler=wanted["sampler"],
        steps=wanted["steps"] or None,
        grid=wanted["grid"],
        solver=solver,
        transform=transform_of(config, scaling),
        chunk=min(256, wanted["num"]),
    )


def transform_of(config: Mapping[str, Any], scaling: Scaling) -> Transform | None:
    """How ``config.sample`` changes the denoiser: clipping, dynamic thresholding or nothing.

    Args:
        config: nested.
        scaling: of the data.

    Returns:
        The transform, or None.

    Raises:
        ValueError: for either without a known range of the data.
    """
    wanted = config["sample"]
    for key in ("clip", "threshold"):
        if wanted[key] and scaling.levels is None:
            raise ValueError(
                f"sample.{key}: got {wanted[key]}, but the data have no fixed range; set it to "
                f"{type(wanted[key])()}"
            )
    if wanted["threshold"]:
        return thresholded(wanted["threshold"], *bounds(scaling))
    return clipped(*bounds(scaling)) if wanted["clip"] else None


def has_picture(event_shape: tuple[int, ...], scaling: Scaling) -> bool:
    """Whether examples are images or points of the plane.

    Args:
        event_shape: shape of one example.
        scaling: of the data.

    Returns:
        True where ``save_picture`` writes something.
    """
    return event_shape == (2,) or (len(event_shape) == 3 and scaling.levels is not None)


def save_picture(
    path: Path, x: np.ndarray, scaling: Scaling, reference: np.ndarray | None = None
) -> np.ndarray | None:
    """A grid of images, or points of the plane beside others; nothing for other events.

    Args:
        path: where to write.
        x: samples in the network's range [n, *event].
        scaling: of the data.
        reference: points beside which to show points [m, 2].

    Returns:
        The picture of images, uint8, or None.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if x.ndim == 4 and scaling.levels is not None:
        picture = viz.image_grid(to_uint8(scaling, x))
        viz.save_image(path, picture)
        return picture
    if x.shape[1:] == (2,):
        figure: Figure = viz.plot_points(x, reference)
        viz.save_figure(figure, path)
    return None


def rows_of(data: Dataset, limit: int) -> dict[str, np.ndarray]:
    """Evenly spread examples in the network's range.

    Args:
        data: the data set.
        limit: how many at most.

    Returns:
        {"x": [n, *event]} and, where there are labels, "label" [n].
    """
    count = min(limit, len(data))
    rows = data.gather(np.linspace(0, len(data) - 1, count).astype(np.int64))
    return {**rows, "x": apply(data.scaling, rows["x"])}
