"""A config that trains hundreds of steps a second, for runs that are killed and resumed."""

from sdejax.build import default_config
from sdejax.tables import component


def get_config():
    """Points in the plane, a batch that eight devices share, nothing drawn on the way."""
    config = default_config()
    config.data.source = "toy"
    config.data.options = {"toy": "two_gaussians", "n": 100}
    config.data.batch_size = 16
    config.network = component("network", "mlp", hidden=(16,), time_features=8)
    config.train.ema_decay = 0.9
    config.train.log_every = 1
    config.train.eval_every = 1_000_000
    config.train.eval_batches = 200
    config.train.sample_every = 0
    config.train.checkpoint_every = 1_000_000
    config.sample.steps = 2
    config.sample.num = 16
    return config
