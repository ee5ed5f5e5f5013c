"""NCSNv2 on the embedded digits: a RefineNet divided by sigma, sampled by annealed Langevin.

Paper     Song and Ermon 2020, arXiv:2006.09011 (NCSNv2), with an eighth of the published width
Command   sdejax train --config configs/ncsnv2_digits.py --workdir runs/ncsnv2
Hardware  two CPU cores, about six minutes of CPU
Expected  recognisable digits; (samples - floor)/(noise - floor) <= 0.03 in sliced Wasserstein
          distance; at least 60 % of samples recognised with p >= 0.8
Obtained  see experiments/results/README.md
"""

from sdejax.build import default_config
from sdejax.tables import component

# sdejax.noise_scales.noise_scales(digits in [-1, 1], sigma_min=0.02): techniques 1 and 2.
SIGMA_MIN, SIGMA_MAX, LEVELS = 0.02, 9.63, 22


def get_config():
    config = default_config()
    config.sde = component("sde", "ve", sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX)
    config.network = component("network", "ncsnv2", nf=16)
    config.prediction = component("prediction", "score")
    config.conditioning = component("conditioning", "noise_level")
    config.scaling = component("scaling", "none")
    config.weight = component("weight", "sigma2")
    config.times = component("times", "levels", num=LEVELS)
    config.data.batch_size = 64

    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    config.train.steps = 2500
    config.train.eval_every = 500
    config.train.checkpoint_every = 1000
    config.train.sample_every = 0

    config.sample.sampler = "annealed_langevin"  # five steps a level, sized by technique 4
    config.sample.steps = LEVELS - 1  # from each level to the next
    config.sample.grid = "uniform"  # geometric in sigma
    config.sample.num = 100
    config.sample.report_num = 300
    return config
