"""The floors of the package, and which rooms may import which library (test_architecture.py)."""

# From the ground up. A module imports from lower rows, and inside its own package without cycles.
FLOORS = (
    {"types", "untrusted"},
    {"sde", "divergence", "numpy_files", "pickle_machine"},
    {
        "processes",
        "discrete",
        "conditioning",
        "prediction",
        "grids",
        "times",
        "weights",
        "couplings",
        "noise_scales",
    },
    {"coordinates"},
    {"dynamics", "truth", "denoiser", "thresholding"},
    {"losses", "energy", "guidance", "diagnostics", "fokker_planck", "samplers", "flows"},
    {"likelihood"},
    {"latent"},
    {"nets", "train", "data", "metrics", "viz"},
    {"tables"},
    {"config"},
    {"build", "saved_meta"},
    {"published"},
    {"generate"},
    {"results", "fewstep", "diagnose", "dequantiser"},
    {"run", "evaluator"},
    {"evaluate"},
    {"trained"},
    {"api"},
    {"commands"},
    {"cli"},
    {"", "__main__"},  # sdejax itself: the public names
)
# A tower stands beside the floors: it imports what is listed here, and itself.
TOWERS = {"nets": {"types"}}
# Libraries that only these modules (or packages) import.
SOLVING = ("diffeq", "diffeq_sde", "brownian", "fitting", "solvers", "adaptive")
KEPT_IN = {
    "diffrax": {"dynamics", "likelihood", "flows.continuous"} | {f"samplers.{n}" for n in SOLVING},
    "flax": {"nets", "denoiser", "train"},
    "orbax": {"train.checkpoint", "train.reader", "train.hosts", "train.stored_arrays"},
    "grain": {"data"},
    "ml_collections": {"config", "commands", "published.run_config"},
    "msgpack": {"published"},
    "matplotlib.pyplot": set(),
}
