"""Drawing samples, against a model whose samples are known.

A network that says zero is, as EDM's prediction, the exact denoiser of N(0, sigma_data^2): every
sampler must draw from that distribution under every process.
"""

import jax
import numpy as np
import pytest
from tiny_config import get_config

from sdejax.build import Parts, build_model, change, init_params
from sdejax.denoiser import make_model
from sdejax.generate import make_generator
from sdejax.grids import uniform_log_snr
from sdejax.prediction import edm
from sdejax.samplers.adams import deis
from sdejax.samplers.learned import as_solver
from sdejax.tables import SDES, component, make
from sdejax.thresholding import clipped as clipped_to

SIGMA_DATA = 0.5
# sampler -> a process it suits, its grid, and evaluations a step; test_contracts has them all
FIXED = {
    "ddim": ("edm", "karras", 1),
    "reverse_diffusion": ("ve", "uniform", 1),
    "sra1": ("sub_vp", "quadratic", 2),
    "sigma_noise": ("rectified_flow", "uniform", 1),
    "unipc_3": ("vp", "log_snr", 1),
    "euler": ("cosine", "uniform", 1),
    "ancestral": ("ddpm", "uniform", 1),
}
ADAPTIVE = {"tsit5": "rectified_flow", "shark": "vp"}


def with_mark(name):
    """Solvers whose loops take long to compile are left to the slow suite."""
    slow = name == "shark"
    return pytest.param(name, marks=pytest.mark.slow) if slow else name


def zero_parts(sde, seen=None):
    """A model of N(0, SIGMA_DATA^2) without parameters; ``seen`` collects its traces."""

    def apply(params, x, t, cond):
        if seen is not None:
            seen.append(x.shape)
        return 0.0 * x

    process = make("sde", {"name": sde})
    return Parts(process, make_model(apply, edm(SIGMA_DATA), batched=False), None, (2,), None)


def parts_of(sde="vp", conditional=False, **changes):
    config = get_config()
    config.sde = component("sde", sde)
    change(config, {"conditional": conditional, **changes})
    return build_model(config.to_dict(), (2,), 3 if conditional else None)


def params_of(parts):
    """Parameters of a network that does not say zero, as a fresh one does."""
    params = init_params(jax.random.key(0), parts)
    kernel = params["out"]["kernel"]
    params["out"]["kernel"] = 0.3 * jax.random.normal(jax.random.key(1), kernel.shape)
    return params


@pytest.fixture(scope="module")
def labelled():
    """A conditional model and its generator of six fixed steps."""
    parts = parts_of(conditional=True)
    return params_of(parts), make_generator(parts, sampler="ddim", steps=6)


def check_distribution(x):
    """x is N(0, SIGMA_DATA^2): mean and sd to five standard errors, the sd to 10 % of bias."""
    assert x.dtype == np.float32
    error = SIGMA_DATA / np.sqrt(x.size)
    assert abs(x.mean()) < 5 * error
    assert abs(x.std() - SIGMA_DATA) < 5 * error / np.sqrt(2) + 0.1 * SIGMA_DATA


def test_every_process_is_tested():
    assert {sde for sde, *_ in FIXED.values()} == set(SDES)


@pytest.mark.parametrize("sampler", [with_mark(name) for name in FIXED])
def test_fixed_steps_draw_from_the_model_with_known_cost(sampler):
    sde, grid, each = FIXED[sampler]
    steps = 24 if each > 1 else 60
    generate = make_generator(zero_parts(sde), sampler=sampler, steps=steps, grid=grid)
    x, stats = generate({}, 256)
    check_distribution(x)
    assert set(np.asarray(stats.nfe).tolist()) == {each * steps + 1}  # 1: the last one


@pytest.mark.parametrize("sampler", [with_mark(name) for name in ADAPTIVE])
def test_adaptive_steps_draw_from_the_model_with_a_cost_of_each_example(sampler):
    x, stats = make_generator(zero_parts(ADAPTIVE[sampler]), sampler=sampler)({}, 256)
    check_distribution(x)
    nfe = np.asarray(stats.nfe)
    assert nfe.shape == (256,)
    assert len(set(nfe.tolist())) > 1


def test_a_sample_depends_on_its_index_and_the_seed_alone(labelled):
    params, generate = labelled
    few, many = generate(params, 8)[0], generate(params, 16)[0]
    np.testing.assert_allclose(few, many[:8], atol=1e-5)
    assert not np.allclose(few[0], few[3])
    np.testing.assert_array_equal(generate(params, 8)[0], few)
    assert np.abs(generate(params, 8, seed=1)[0] - few).min() > 1e-4


def test_chunks_and_their_remainders_do_not_show(labelled):
    params, generate = labelled
    chunked = make_generator(parts_of(conditional=True), sampler="ddim", steps=6, chunk=12)
    whole, _ = generate(params, 33)
    for num in (1, 20, 32, 33):
        x, stats = chunked(params, num)  # 12 is rounded up to 16, for eight devices
        assert x.shape == (num, 2)
        assert stats.nfe.shape == stats.result.shape == (num,)
        np.testing.assert_allclose(x, whole[:num], atol=1e-5)


def test_one_compilation_for_all_full_chunks():
    traces = []
    generate = make_generator(zero_parts("vp", traces), steps=4, chunk=8)
    generate({}, 8)
    once = len(traces)
    generate({}, 40, seed=3)
    generate({}, 3)
    assert len(traces) == once


def test_labels_default_to_each_class_in_turn(labelled):
    params, generate = labelled
    default, _ = generate(params, 6)
    np.testing.assert_array_equal(
        generate(params, 6, labels=np.array([0, 1, 2, 0, 1, 2]))[0], default
    )
    ones, _ = generate(params, 6, labels=np.ones(6, int))
    assert np.allclose(ones[[1, 4]], default[[1, 4]])
    assert np.abs(ones[[0, 2, 3, 5]] - default[[0, 2, 3, 5]]).max(axis=1).min() > 1e-5
    null, _ = generate(params, 6, labels=np.full(6, 3))  # the label that stands for none
    assert np.abs(null - default).max() > 1e-5


def test_a_learned_solver_takes_the_place_of_sampler_steps_and_grid():
    parts = zero_parts("edm")
    solver = as_solver(deis(3), parts.sde, uniform_log_snr(parts.sde, 11))
    x, stats = make_generator(parts, solver=solver)({}, 256)
    check_distribution(x)
    assert set(np.asarray(stats.nfe).tolist()) == {12}
    same, _ = make_generator(parts, sampler="deis_3", steps=11, grid="log_snr")({}, 256)
    np.testing.assert_allclose(x, same, atol=1e-4)
    with pytest.raises(ValueError, match="was the solver fitted for another process"):
        make_generator(zero_parts("vp"), solver=solver)


def test_clipping_keeps_the_samples_inside():
    parts = parts_of()
    params = params_of(parts)
    free, clipped = (
        make_generator(parts, steps=6, transform=transform)(params, 64)[0]
        for transform in (None, clipped_to(-0.2, 0.3))
    )
    assert free.min() < -0.3
    assert -0.2 <= clipped.min() < clipped.max() <= np.float32(0.3)


def test_progress_is_shown_where_asked_for(labelled, capsys):
    params, generate = labelled
    generate(params, 8)
    assert capsys.readouterr().err == ""
    generate(params, 8, progress=True)
    assert "sampling (ddim): 100%" in capsys.readouterr().err


def test_a_solve_that_fails_raises(labelled):
    params, generate = labelled
    broken = jax.tree.map(lambda leaf: leaf * np.nan, params)
    with pytest.raises(FloatingPointError, match=r"8 of 8 examples met a value .* not finite"):
        generate(broken, 8)


def test_misuse_is_named(labelled):
    params, generate = labelled
    with pytest.raises(ValueError, match="num: got 0"):
        generate(params, 0)
    for labels in (np.array([0, 4]), np.array([-1, 0]), np.array([0])):
        with pytest.raises(ValueError, match=r"label: .*0 to 2, or 3 for no label"):
            generate(params, 2, labels=labels)
    free = parts_of()
    with pytest.raises(ValueError, match="not conditional"):
        make_generator(free, steps=2)(params_of(free), 2, labels=np.array([0, 0]))
    with pytest.raises(ValueError, match=r"sampler: got 'dim'.*mean 'ddim'\?"):
        make_generator(free, sampler="dim")
    with pytest.raises(ValueError, match=r"grid: got 'karas'.*mean 'karras'\?"):
        make_generator(free, grid="karas")


def test_what_cannot_start_is_refused_before_there_are_parameters():
    with pytest.raises(ValueError, match="t_max"):
        make_generator(parts_of("rectified_flow"), sampler="euler_maruyama")
    eps = parts_of("rectified_flow")
    eps = eps._replace(
        model=eps.model._replace(prediction=lambda c: (c.alpha * 0, c.alpha * 0 + 1))
    )
    with pytest.raises(ValueError, match="x0"):
        make_generator(eps, sampler="ddim")
