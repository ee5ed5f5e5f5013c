"""A model that trains in a second, as a config file: what the tests of the wiring run.

``tiny_config.py`` is unconditional, of points in the plane; ``tiny_config.py:digits`` is
conditional, of images.
"""

from sdejax.build import default_config
from sdejax.tables import component

STEPS, BATCH, HELD_OUT = 6, 64, 2


def get_config(data="points"):
    config = default_config()
    if data == "points":
        config.data.source = "toy"
        config.data.options = {"toy": "two_gaussians", "n": 512}
    else:
        config.conditional = True
    config.data.batch_size = BATCH
    config.network = component("network", "mlp", hidden=(16,), time_features=8)

    config.optimizer.learning_rate = 1e-2
    config.train.ema_decay = 0.9
    config.train.steps = STEPS
    config.train.log_every = 2
    config.train.eval_every = 3
    config.train.eval_batches = HELD_OUT
    config.train.sample_every = 3
    config.train.checkpoint_every = 3

    config.sample.steps = 3
    config.sample.num = 16
    return config
