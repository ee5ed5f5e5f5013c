"""Handwritten digits, 8x8 grey, ten classes: the main job.

Paper     Karras et al. 2022, arXiv:2206.00364 (EDM), with a small U-Net of the NCSN++ family
Command   sdejax train --config configs/digits.py --workdir runs/digits
Hardware  two CPU cores, under five minutes, under 2 GiB
Expected  recognisable digits; (samples - floor)/(noise - floor) <= 0.03 in sliced Wasserstein
          distance; at least 75 % of samples recognised with p >= 0.8; every class >= 4 %
Obtained  see experiments/results/README.md
"""

from sdejax.build import default_config
from sdejax.tables import component

SIGMA_DATA = 0.75  # standard deviation of digits scaled to [-1, 1]


def get_config():
    config = default_config()
    config.network = component(
        "network",
        "unet",
        nf=32,
        ch_mult=(1, 1),
        num_res_blocks=1,
        attn_resolutions=(4,),
        dropout=0.1,
        embedding_type="fourier",
        fourier_log=False,
        fourier_scale=2.0,
    )
    config.prediction = component("prediction", "edm", sigma_data=SIGMA_DATA)
    config.scaling = component("scaling", "unit_variance", sigma_data=SIGMA_DATA)
    config.weight = component("weight", "edm", sigma_data=SIGMA_DATA)
    config.conditional = True
    config.data.batch_size = 64

    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    config.train.steps = 1500
    config.train.eval_every = 500
    config.train.checkpoint_every = 500

    config.sample.sampler = "heun"
    config.sample.steps = 18
    config.sample.grid = "karras"
    config.sample.num = 100  # ten columns, one for each class
    config.sample.report_num = 1000
    return config
