"""CIFAR-10, DDPM++ under the VP process, continuous, at the published size (61.8 M parameters).

Paper     Song et al. 2021, arXiv:2011.13456, appendices C and H (vp/cifar10_ddpmpp_continuous)
Command   sdejax train --config configs/cifar10_ddpmpp.py --workdir runs/ddpmpp \
              --config.data.path=DIR   (cifar-10-batches-py or cifar-10-batches-bin)
Runlocal  add --config.data.batch_size=4 --config.train.steps=2 --config.network.nf=16
Hardware  the paper trained on TPU v3-8; memory for batch 128 in float32 is about 24 GB over all
          devices (use --config.network.remat=True or dtype=bfloat16 for less)
Expected  FID 2.55 (DDPM++ VP, predictor-corrector; paper, table 3), 3.01 bits/dim (table 2)
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

    config.sde = component("sde", "vp")
    config.network = component("network", "unet", **PRESETS["vp/cifar10_ddpmpp_continuous"])
    config.prediction = component("prediction", "eps")
    config.conditioning = component("conditioning", "scaled_time", factor=999.0)
    config.scaling = component("scaling", "none")
    config.weight = component("weight", "simple")
    # Training reaches closer to the data than sampling (t_min = 1e-3), as in the paper.
    config.times = component("times", "uniform", t_min=1e-5)

    config.optimizer.learning_rate = 2e-4
    config.optimizer.warmup_steps = 5000
    config.optimizer.clip_norm = 1.0
    config.train.steps = 950_001
    config.train.ema_decay = 0.9999
    config.train.log_every = 100
    config.train.eval_every = 5000
    config.train.sample_every = 10_000
    config.train.checkpoint_every = 10_000

    config.sample.sampler = "tsit5"
    config.sample.steps = 0
    config.sample.grid = "uniform"
    return config
