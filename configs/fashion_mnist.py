"""Fashion-MNIST, 28x28 grey, ten classes: twenty minutes on two CPU cores.

Paper     Karras et al. 2022, arXiv:2206.00364 (EDM), with a small U-Net of the NCSN++ family
Command   sdejax train --config configs/fashion_mnist.py --workdir runs/fashion \
              --config.data.path=DIR   (the four standard IDX files, gzipped or not)
Runlocal  add --config.train.steps=300 for a first look
Hardware  two CPU cores, at most twenty minutes
Expected  samples.png shows shirts, shoes, bags, trousers
Obtained  see experiments/results/README.md
"""

from sdejax.build import default_config
from sdejax.tables import component

SIGMA_DATA = 0.7  # standard deviation of the images scaled to [-1, 1]


def get_config():
    config = default_config()
    config.data.source = "idx"
    config.data.path = "data/fashion_mnist"
    config.data.batch_size = 32
    config.data.flip = False  # shoes all point the same way

    config.network = component(
        "network",
        "unet",
        nf=16,
        ch_mult=(1, 2, 4),
        num_res_blocks=1,
        attn_resolutions=(7,),
        dropout=0.0,
        embedding_type="fourier",
        fourier_log=False,
        fourier_scale=2.0,
    )
    config.prediction = component("prediction", "edm", sigma_data=SIGMA_DATA)
    config.scaling = component("scaling", "unit_variance", sigma_data=SIGMA_DATA)
    config.weight = component("weight", "edm", sigma_data=SIGMA_DATA)
    config.conditional = True

    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    config.train.steps = 2000
    config.train.eval_every = 1000
    config.train.sample_every = 1000
    config.train.checkpoint_every = 1000

    config.sample.sampler = "heun"
    config.sample.steps = 18
    config.sample.grid = "karras"
    config.sample.num = 100
    return config
