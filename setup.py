"""Package metadata of sdejax; tool settings live in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="sdejax",
    version="0.1.0",
    description="Generative models on stochastic and ordinary differential equations in JAX",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author="The sdejax authors",
    python_requires=">=3.11",
    packages=find_packages(include=["sdejax", "sdejax.*"]),
    package_data={"sdejax": ["py.typed"]},
    install_requires=[
        "absl-py>=2.1",
        "diffrax>=0.7.0",
        "etils[epath]>=1.9",
        "flax>=0.12",
        "grain>=0.2.10",
        "jax>=0.10",
        "jaxtyping>=0.3",
        "lineax>=0.1.0",
        "matplotlib>=3.8",
        "ml-collections>=1.0",
        "numpy>=2.0",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.12",
        "pillow>=10.3",
        "scikit-learn>=1.4",
        "tensorboardX>=2.6.2",
        "tqdm>=4.66",
    ],
    extras_require={
        "test": [
            "beartype>=0.19",
            "ipykernel>=6.29",
            "mypy>=1.13",
            "nbclient>=0.10",
            "nbformat>=5.10",
            "pytest>=8.3",
            "pytest-xdist>=3.6",
            "ruff>=0.9",
            "scipy>=1.13",
        ],
        "cuda12": ["jax[cuda12]>=0.10"],
        "cuda13": ["jax[cuda13]>=0.10"],
        "tpu": ["jax[tpu]>=0.10"],
        "data": ["datasets>=3.0", "tensorflow-datasets>=4.9"],
        "bench": ["diffusers>=0.32", "k-diffusion>=0.1.1", "torch>=2.6"],
        "notebooks": ["ipykernel>=6.29", "ipywidgets>=8.1", "jupyterlab>=4.2"],
    },
    entry_points={"console_scripts": ["sdejax=sdejax.cli:main"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
