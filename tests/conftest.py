"""Shared set-up of the tests: eight virtual CPU devices and run-time shape checks.

The environment is set before JAX starts. ``PJRT_NPROC`` gives the CPU client enough threads for
collectives over eight virtual devices on a machine with few cores (without it they can deadlock).
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()
os.environ.setdefault("PJRT_NPROC", "32")
# scikit-learn's BLAS threads and JAX's would fight for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jaxtyping

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
