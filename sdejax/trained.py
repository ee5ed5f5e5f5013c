"""A trained model: what it draws, how likely it finds data, and what can be fitted to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from sdejax import dequantiser, fewstep
from sdejax.build import Parts, build_model, init_params
from sdejax.data.base import Dataset
from sdejax.data.scaling import Scaling, invert
from sdejax.denoiser import make_denoiser
from sdejax.dequantiser import Noise
from sdejax.evaluate import evaluate
from sdejax.evaluator import Row, conditions, evaluator, moved, options_of
from sdejax.likelihood.elbo import data_bound
from sdejax.likelihood.fit_dequantiser import History
from sdejax.results import generator_of, transform_of
from sdejax.samplers.base import Stats, check
from sdejax.samplers.learned import Solver
from sdejax.saved_meta import checked_meta
from sdejax.sde import SDE
from sdejax.times import information
from sdejax.train.catalog import choose_step, read_meta
from sdejax.train.reader import restore_params
from sdejax.types import Data, Key, Params


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained model: parts, parameters and the scaling of its data.

    Attributes:
        parts: process, network and shape of an example.
        params: parameters, the moving average unless raw ones were asked for.
        scaling: between the data's own values and the network's.
        config: what it was trained with.
        step: after how many steps.
    """

    parts: Parts
    params: Params = dataclasses.field(repr=False)
    scaling: Scaling
    config: Mapping[str, Any]
    step: int
    _generators: dict[Any, Any] = dataclasses.field(default_factory=dict, repr=False)

    def sample(
        self,
        num: int,
        *,
        sampler: str | None = None,
        steps: int | None = None,
        grid: str | None = None,
        solver: Solver | None = None,
        threshold: float | None = None,
        seed: int = 0,
        labels: int | Int[np.ndarray, " n"] | None = None,
        progress: bool = False,
    ) -> tuple[Float32[np.ndarray, "n *event"], Stats]:
        """Draws samples.

        Args:
            num: how many.
            sampler: one of ``sdejax.samplers.names()``; by default as configured.
            steps: number of steps; by default as configured for the configured sampler, and
                another sampler's own.
            grid: a row of ``sdejax.tables.GRIDS``; by default as configured.
            solver: a learned solver (``fit_solver``), in place of sampler, steps and grid.
            threshold: quantile of dynamic thresholding, 0 for none; by default as configured.
            seed: sample i depends on it and on i alone.
            labels: one class for all, or [num]; by default each class in turn.
            progress: show a bar.

        Returns:
            Samples in the data's own values, [num, *event], and ``Stats`` of [num].

        Raises:
            ValueError: for an unknown sampler or grid, or labels the model does not have.
            FloatingPointError: where a solve fails.
        """
        wanted = dict(self.config["sample"])
        other = sampler is not None and sampler != wanted["sampler"]
        wanted["sampler"] = sampler or wanted["sampler"]
        wanted["steps"] = steps if steps is not None else (0 if other else wanted["steps"])
        wanted["grid"] = grid or wanted["grid"]
        wanted["threshold"] = wanted["threshold"] if threshold is None else threshold
        if labels is not None:
            labels = np.broadcast_to(np.asarray(labels, np.int32), (num,))
        # A generator is kept, so that asking again compiles nothing; it keeps its solver alive.
        names = ("sampler", "steps", "grid", "threshold")
        chosen = (*(wanted[name] for name in names), id(solver))
        if chosen not in self._generators:
            self._generators[chosen] = generator_of(
                {**self.config, "sample": wanted}, self.parts, self.scaling, solver
            )
        x, stats = self._generators[chosen](self.params, num, seed, labels, progress)
        return invert(self.scaling, x), stats

    def fit_solver(
        self, evaluations: int, **options: Any
    ) -> tuple[Solver, Float[Array, " checks"]]:
        """A solver of few evaluations fitted to this model.

        Args:
            evaluations: N, of the network per sample.
            **options: of ``sdejax.fewstep.fit``: pairs, iterations, batch, seed, progress.

        Returns:
            The solver, for ``sample(solver=...)`` and ``samplers.save_solver``, and its losses on
            the held-out pairs [checks], the first before the fit.
        """
        transform = transform_of(self.config, self.scaling)
        return fewstep.fit(self.parts, self.params, evaluations, transform=transform, **options)

    def log_likelihood(
        self,
        x: Dataset | np.ndarray,
        *,
        labels: int | Int[np.ndarray, " n"] | None = None,
        noise: Noise | None = None,
        seed: int = 0,
        chunk: int = 64,
        progress: bool = False,
        **options: Any,
    ) -> Row:
        """Log-likelihoods of examples: of integers probabilities, of real data densities.

        Args:
            x: examples in the data's own values [n, *event], or a data set.
            labels: one class for all, or [n]; by default those of a data set, else no label.
            noise: fitted noise for the bins of integers (``fit_dequantiser``); by default uniform.
            seed: example i draws from it and from i alone.
            chunk: examples at a time.
            progress: show a bar.
            **options: fields of ``sdejax.evaluator.Options``: method, trace, probes, tolerance,
                cutoff, draws, levels, samples, t_min.

        Returns:
            ``Row`` of [n]: log_p in nats, bits_per_dim, standard_error, nfe, result.
            ``sdejax.evaluate.summarise`` gives their mean with its confidence interval.

        Raises:
            ValueError: for unknown options, examples of another shape or outside their range.
            FloatingPointError: where a solve fails.
        """
        data = x if isinstance(x, Dataset) else Dataset("array", "all", np.asarray(x), self.scaling)
        data = dataclasses.replace(data, scaling=self.scaling)
        one = self.evaluator(data, noise, **options)
        cond = conditions(self.parts, data, labels)
        rows = evaluate(
            one, self.params, data, len(data), noise=noise, cond=cond, seed=seed,
            chunk=chunk, progress=progress,
        )  # fmt: skip
        check(rows)
        return rows

    def evaluator(
        self, data: Dataset, noise: Noise | None = None, **options: Any
    ) -> Callable[..., Row]:
        """``sdejax.evaluator.evaluator`` of this model, for data of its shape.

        Args:
            data: the examples.
            noise: fitted noise for the bins of integers.
            **options: as of ``log_likelihood``.

        Returns:
            The function of one example.

        Raises:
            ValueError: for unknown options or examples of another shape.
        """
        if data.event_shape != self.parts.event_shape:
            raise ValueError(
                f"x: got examples of shape {list(data.event_shape)}; expected "
                f"{list(self.parts.event_shape)}, those that the model was trained on"
            )
        return evaluator(
            self.parts, data, options_of(**options), sigma_data=self.sigma_data, noise=noise
        )

    @property
    def sigma_data(self) -> float:
        """Standard deviation of the data in the network's scale, as configured; else 0.5."""
        return float(self.config["scaling"].get("sigma_data", 0.5))

    def fit_dequantiser(
        self,
        train: Dataset | np.ndarray,
        held_out: Dataset | np.ndarray,
        *,
        seed: int = 0,
        t_min: float | None = None,
        **options: Any,
    ) -> tuple[Noise, History]:
        """Noise for the bins of integers, fitted to this model by its variational bound.

        A conditional model is asked without labels.

        Args:
            train: integers [n, *event], or a data set.
            held_out: integers [m, *event] that choose the best parameters.
            seed: of parameters, mini-batches and noise.
            t_min: another end of the process than its own.
            **options: of ``sdejax.dequantiser.fit``: iterations, batch, learning_rate, progress.

        Returns:
            The noise, for ``log_likelihood(noise=...)`` and ``sdejax.dequantiser.save``, and the
            history of its bound in bits per dimension, which begins with uniform noise.

        Raises:
            ValueError: for real-valued data.
        """
        sde = moved(self.parts.sde, t_min)
        density = jax.tree_util.Partial(
            partial(_one_draw, self.parts, self.sigma_data), sde, self.params
        )
        columns = [data.x if isinstance(data, Dataset) else data for data in (train, held_out)]
        return dequantiser.fit(jax.random.key(seed), density, self.scaling, *columns, **options)


def _one_draw(parts: Parts, sigma_data: float, sde: SDE, params: Params, key: Key, y: Data):
    """The variational bound by one draw: one network call, differentiable in y."""
    cond = None if parts.num_classes is None else jnp.asarray(parts.num_classes)
    denoiser = make_denoiser(parts.model, params, sde, cond)
    return data_bound(key, sde, denoiser, y, times=information(sde, sigma_data)).log_p


def load(
    workdir: str | Path,
    *,
    step: int | None = None,
    raw: bool = False,
    network: Any = None,
    sde: SDE | None = None,
) -> Trained:
    """The model of a workdir.

    Args:
        workdir: the folder of a run.
        step: of which checkpoint, by default the newest that is good.
        raw: the parameters being trained instead of their moving average.
        network: the flax module, where the run was trained with one of your own.
        sde: the process, where the run was trained with one of your own.

    Returns:
        The model, on the host.

    Raises:
        CheckpointError: where there is no checkpoint or it is damaged.
        ValueError: where a network or process of your own is needed and was not given, or what the
            checkpoint says about its model cannot be.
    """
    directory = Path(workdir) / "checkpoints"
    step = int(choose_step(directory, step).name)
    meta = checked_meta(read_meta(directory, step), directory)
    parts = build_model(meta.config, meta.event_shape, meta.num_classes, network=network, sde=sde)
    # Shapes alone, where the config tells them: a network of another size is named here.
    like = None
    if network is None:
        like = jax.eval_shape(partial(init_params, parts=parts), jax.random.key(0))
    which = "params" if raw else "ema_params"
    params = restore_params(directory, step, which=which, like=like)
    return Trained(parts, params, meta.scaling, meta.config, meta.step)
