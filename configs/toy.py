"""Two moons in the plane with flow matching: seconds instead of minutes.

Paper     Lipman et al. 2022, arXiv:2210.02747 (conditional flow matching on the straight path)
Command   sdejax train --config configs/toy.py --workdir runs/toy
          sdejax train --config configs/toy.py:checkerboard --workdir runs/checkerboard
Hardware  two CPU cores, about half a minute
Expected  samples.png shows two interleaved half circles
Obtained  see experiments/results/README.md
"""

from sdejax.build import default_config
from sdejax.tables import component


def get_config(toy="two_moons"):
    config = default_config()
    config.data.source = "toy"
    config.data.options = {"toy": toy, "n": 20_000}
    config.data.batch_size = 512

    config.sde = component("sde", "rectified_flow")
    config.network = component("network", "mlp", hidden=(128, 128, 128))
    config.prediction = component("prediction", "velocity")
    config.conditioning = component("conditioning", "raw_time")
    config.scaling = component("scaling", "none")
    config.weight = component("weight", "flow")
    config.times = component("times", "uniform")

    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    config.train.steps = 3000
    config.train.log_every = 100

    config.sample.sampler = "tsit5"
    config.sample.steps = 0
    config.sample.grid = "uniform"
    config.sample.num = 2000
    config.sample.report_num = 2000
    return config
