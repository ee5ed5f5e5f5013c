"""Fixed methods written as triangles of weights, and solvers kept in files."""

import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import plane

from sdejax import grids, processes, truth
from sdejax.samplers.adams import deis, exponential_adams, lms
from sdejax.samplers.ancestral import ddim
from sdejax.samplers.base import sample
from sdejax.samplers.dpm_solver import dpmpp_2m, dpmpp_3m
from sdejax.samplers.learned import Solver, as_solver, learned, load_solver, save_solver, solve
from sdejax.samplers.singlestep import dpm_solver
from sdejax.samplers.unipc import unipc

KEY = jax.random.key(0)
METHODS = {
    "ddim": ddim(),
    "lms_4": lms(4),
    "deis_3": deis(3),
    "exponential_adams_3": exponential_adams(3),
    "dpmpp_2m": dpmpp_2m(),
    "dpmpp_3m": dpmpp_3m(),
    "unipc_3": unipc(3),
}
EPS = ("lms_4", "deis_3")  # these cannot start at alpha = 0
CASES = {
    "vp": (processes.vp(), [1.0, 0.8, 0.55, 0.3, 0.1, 0.01], list(METHODS)),
    "edm": (processes.edm(), [80.0, 21.0, 5.0, 1.0, 0.2, 0.01], list(METHODS)),
    "rectified_flow": (
        processes.rectified_flow(), [1.0, 0.8, 0.55, 0.3, 0.1, 0.01],
        [name for name in METHODS if name not in EPS],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_fixed_method_and_its_triangle_agree(case, x64):
    sde, ts, names = CASES[case]
    ts, denoiser = jnp.asarray(ts), truth.denoiser(plane(), sde)
    x = jnp.asarray(np.random.default_rng(0).normal(size=2)) * sde.prior_std

    @jax.jit
    def both(x, ts):
        solvers = {name: as_solver(METHODS[name], sde, ts) for name in names}
        direct = {name: sample(KEY, METHODS[name], sde, denoiser, x, ts)[0] for name in names}
        return solvers, direct, {name: solve(s, sde, denoiser, x) for name, s in solvers.items()}

    solvers, direct, through = both(x, ts)
    for name in names:
        weights = np.asarray(solvers[name].weights)
        np.testing.assert_allclose(through[name], direct[name], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(weights.sum(1), 1.0, rtol=1e-12)
        np.testing.assert_allclose(weights, np.tril(weights), atol=1e-14)
        np.testing.assert_array_equal(solvers[name].ts, ts)
        np.testing.assert_array_equal(weights[-1], np.eye(6)[-1])  # the denoising step
    assert len({float(out[0]) for out in direct.values()}) == len(names)  # all differ


def test_the_triangle_of_ddim(x64):
    """In y = x/sigma the states are sums of x0 weighted by steps of alpha/sigma."""
    ts = np.asarray([10.0, 3.0, 1.0, 0.2])
    weights = as_solver(ddim(), processes.edm(0.1, 10.0), jnp.asarray(ts)).weights
    for k in (1, 2, 3):
        steps = np.diff(1 / ts[: k + 1])
        np.testing.assert_allclose(weights[k - 1, :k], steps / steps.sum(), rtol=1e-12)


def test_a_method_of_several_evaluations_is_refused():
    with pytest.raises(ValueError, match="as_solver: got a sampler of 2 evaluations a step"):
        as_solver(dpm_solver(2), processes.vp(), jnp.asarray([1.0, 0.1]))


def random_solver(sde, count=5):
    weights = np.tril(np.random.default_rng(1).normal(size=(count, count)) + 1)
    weights /= weights.sum(1, keepdims=True)
    return Solver(grids.uniform(sde, count - 1), jnp.asarray(weights, jnp.float32))


def test_a_method_that_draws_noise_is_refused():
    sde = processes.vp()
    with pytest.raises(ValueError, match="draws noise"):
        as_solver(dpmpp_2m(eta=1.0), sde, jnp.asarray([1.0, 0.5, 0.1, 0.01]))


def test_any_triangle_of_unit_sums_is_exact_for_constant_x0():
    """The exponential part of the solver does not depend on what was learned."""
    sde = processes.vp()
    x0, eps = jnp.asarray([0.3, -2.0]), jnp.asarray([1.2, 0.4])
    x = sde.alpha(1.0) * x0 + sde.sigma(1.0) * eps

    def denoiser(x, t):
        return truth.estimate(truth.isotropic(jnp.ones(1), x0[None], jnp.zeros(1)), sde, x, t)

    solver = random_solver(sde)
    np.testing.assert_allclose(solve(solver, sde, denoiser, x), x0, rtol=1e-5)
    # The states on the way are points of the path: the last evaluation sees one of them.
    seen = []

    def spy(x, t):
        jax.debug.callback(lambda x, t: seen.append((np.asarray(x), float(t))), x, t, ordered=True)
        return denoiser(x, t)

    jax.block_until_ready(solve(solver, sde, spy, x))
    jax.effects_barrier()
    assert len(seen) == 5
    for state, t in seen:
        np.testing.assert_allclose(state, sde.alpha(t) * x0 + sde.sigma(t) * eps, rtol=1e-4)


def test_jit_vmap_grad_and_unrolling(strict):
    sde = processes.rectified_flow()
    solver = random_solver(sde)
    denoiser = truth.denoiser(plane(), sde)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)), jnp.float32)

    def run(solver, x, unroll=False):
        return solve(solver, sde, denoiser, x, unroll=unroll)

    alone, batch = jax.jit(run), jax.jit(jax.vmap(run, (None, 0)))(solver, x)
    assert batch.dtype == jnp.float32
    for i in range(3):
        np.testing.assert_allclose(batch[i], alone(solver, x[i]), rtol=2e-5, atol=1e-6)
    unrolled = jax.jit(jax.vmap(lambda x: run(solver, x, True)))(x)
    np.testing.assert_allclose(batch, unrolled, rtol=2e-5, atol=1e-6)

    def loss(solver):
        return jnp.sum(alone(solver, x[0]) ** 2)

    grads = jax.jit(jax.grad(loss))(solver)
    assert all(np.all(np.isfinite(leaf)) for leaf in grads)
    for place in ((4, 4), (2, 0)):
        bump = jnp.zeros((5, 5)).at[place].set(1e-2)
        up, down = (loss(solver._replace(weights=solver.weights + k * bump)) for k in (1, -1))
        np.testing.assert_allclose(grads.weights[place], (up - down) / 2e-2, rtol=2e-2, atol=1e-2)
    assert np.all(np.triu(grads.weights, 1) == 0.0)  # nothing weighs what is not known yet


def test_a_solver_is_a_method():
    sde = processes.vp()
    solver = random_solver(sde)
    method = learned(solver)
    method.require(sde, sde.t_max)
    x = jnp.asarray([0.4, -1.0])
    out, stats = jax.jit(lambda x: method.run(KEY, sde, truth.denoiser(plane(), sde), x))(x)
    np.testing.assert_allclose(out, solve(solver, sde, truth.denoiser(plane(), sde), x), rtol=1e-5)
    assert (int(stats.nfe), int(stats.result)) == (5, 0)


def test_a_solver_of_another_process_is_refused():
    sde = processes.vp()
    good = random_solver(sde)
    with pytest.raises(ValueError, match="was the solver fitted for another process"):
        learned(good).require(processes.edm(), 80.0)
    with pytest.raises(ValueError, match="expected decreasing ones"):
        learned(good._replace(ts=good.ts.at[2].set(0.9))).require(sde, 1.0)
    with pytest.raises(ValueError, match=r"t_min=0\.001 or above"):
        learned(good._replace(ts=good.ts.at[-1].set(0.0))).require(sde, 1.0)
    with pytest.raises(ValueError, match=r"got weights of shape \(4, 4\) for 5 times"):
        learned(good._replace(weights=good.weights[1:, 1:]))


@pytest.mark.parametrize("name", ["solver.npz", "solver"])
def test_what_is_saved_is_read(tmp_path, name):
    solver = random_solver(processes.vp())
    save_solver(tmp_path / name, solver)
    read = load_solver(tmp_path / name)
    np.testing.assert_array_equal(read.ts, solver.ts)
    np.testing.assert_array_equal(read.weights, solver.weights)
    assert read.ts.dtype == jnp.float32


def test_files_without_a_solver_are_refused(tmp_path):
    path = tmp_path / "solver.npz"
    good = {"ts": np.asarray([1.0, 0.5]), "weights": np.eye(2)}
    bad = {
        "no weights": {"ts": good["ts"]},
        "shapes": good | {"weights": np.eye(3)},
        "not finite": good | {"weights": np.full((2, 2), np.nan)},
        "times not finite": good | {"ts": np.asarray([1.0, np.nan])},
        "objects": good | {"ts": np.asarray([{}, None], dtype=object)},
        "text": good | {"ts": np.asarray(["a", "b"])},
    }
    for arrays in bad.values():
        np.savez(path, **arrays)
        with pytest.raises(ValueError, match=r"solver.npz"):
            load_solver(path)
    np.savez(path, **good)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not a file of arrays", b"PK\x03\x04"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"solver.npz: no solver"):
            load_solver(path)
    damaged = bytearray(whole)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ts.npy", bytes(damaged[:10]))
        archive.writestr("weights.npy", b"")
    with pytest.raises(ValueError, match=r"solver.npz: no solver"):
        load_solver(path)
    with pytest.raises(FileNotFoundError):
        load_solver(tmp_path / "absent.npz")
