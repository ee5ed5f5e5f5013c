"""Shared set-up of the tests: eight virtual CPU devices and run-time shape checks.

The environment is set before JAX starts. ``PJRT_NPROC`` gives the CPU client enough threads for
collectives over eight virtual devices on a machine with few cores (without it they can deadlock).

Most of the time of the tests is XLA's compiler. What a test, worker or child process has compiled
serves all others by a folder that lasts as long as pytest runs; ``JAX_COMPILATION_CACHE_DIR`` names
one that stays. Programs are compiled as users compile them: cheaper flags round otherwise.
"""

import gc
import os
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()
os.environ.setdefault("PJRT_NPROC", "32")
# scikit-learn's BLAS threads and JAX's would fight for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # the workers of xdist inherit it
    CACHE = tempfile.TemporaryDirectory(prefix="sdejax-tests-", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# A trace makes objects by the million, none of them garbage: a fifth of its time went to looking.
gc.set_threshold(100_000, 20, 20)

import jaxtyping  # noqa: E402

jaxtyping.install_import_hook("sdejax", "beartype.beartype")

import jax  # noqa: E402
import pytest  # noqa: E402


@pytest.fixture
def x64():
    """float64, and errors on silent dtype or rank promotion: for floors 0 to 3."""
    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
    ):
        yield


@pytest.fixture
def strict():
    """float32 as users run it, with errors on silent dtype or rank promotion."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield
