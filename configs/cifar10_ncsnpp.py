"""CIFAR-10, NCSN++ under the VE process, continuous, at the published size (62.8 M parameters).

Images are scaled to [-1, 1] here and to [0, 1] in the paper, so both noise levels are twice the
paper's 0.01 and 50.

Paper     Song et al. 2021, arXiv:2011.13456, appendices C and H (ve/cifar10_ncsnpp_continuous)
Command   sdejax train --config configs/cifar10_ncsnpp.py --workdir runs/ncsnpp \
              --config.data.path=DIR   (cifar-10-batches-py or cifar-10-batches-bin)
Runlocal  add --config.data.batch_size=4 --config.train.steps=2 --config.network.nf=16
Hardware  the paper trained on TPU v3-8; memory for batch 128 in float32 is about 24 GB over all
          devices (use --config.network.remat=True or dtype=bfloat16 for less)
Expected  FID 2.38 (NCSN++ VE continuous, predictor-corrector; paper, table 3)
Obtained  not trained here: no accelerator
"""

from sdejax.build import default_config
from sdejax.nets.presets import PRESETS
from sdejax.tables import component


def get_config():
    config = default_config()
    config.data.source = "cifar10"
    config.data.path = "data/cifar10"
    config.data.batch_size = 128
    config.data.flip = True

    config.sde = component("sde", "ve", sigma_min=0.02, sigma_max=100.0)
    network = {**PRESETS["ve/cifar10_ncsnpp_continuous"], "centered": True}
    config.network = component("network", "unet", **network)
    config.prediction = component("prediction", "score")
    config.conditioning = component("conditioning", "noise_level")
    config.scaling = component("scaling", "none")
    config.weight = component("weight", "sigma2")
    config.times = component("times", "uniform", t_min=1e-5)

    config.optimizer.learning_rate = 2e-4
    config.optimizer.warmup_steps = 5000
    config.optimizer.clip_norm = 1.0
    config.train.steps = 950_001
    config.train.ema_decay = 0.999
    config.train.log_every = 100
    config.train.eval_every = 5000
    config.train.sample_every = 10_000
    config.train.checkpoint_every = 10_000

    config.sample.sampler = "reverse_diffusion"
    config.sample.steps = 1000
    config.sample.grid = "uniform"
    return config
