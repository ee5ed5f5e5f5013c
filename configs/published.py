"""The published networks at their published size: DDPM, DDPM++, NCSN++, NCSN and NCSNv2.

One file for all; the name after the colon says which, such as ve/cifar10_ncsnpp_continuous,
vp/cifar10_ddpmpp_continuous or ncsnv2/cifar10 (without the folder where that is clear). An unknown
name lists them all. ``sdejax convert`` writes a workdir of a published checkpoint with the same
config, so training goes on from it with this file.

Paper     Song et al. 2021, arXiv:2011.13456 (score SDE); Song and Ermon 2019, arXiv:1907.05600
          (NCSN); Song and Ermon 2020, arXiv:2006.09011 (NCSNv2)
Command   sdejax train --config configs/published.py:vp/cifar10_ddpmpp_continuous --workdir \
              runs/ddpmpp --config.data.path=DIR   (cifar-10-batches-py or cifar-10-batches-bin;
              a folder of images for the other data sets)
Runlocal  add --config.data.batch_size=4 --config.train.steps=2 --config.network.nf=16
              --config.sample.steps=2 --config.sample.num=4, and for all but NCSN and NCSNv2
              --config.network.num_res_blocks=1; it still compiles for minutes on a CPU
Hardware  the papers trained on TPU v3-8 or GPUs; memory for batch 128 of the 62 M networks in
          float32 is about 24 GB over all devices (--config.network.remat=True or dtype=bfloat16
          for less)
Expected  FID on CIFAR-10 (Song et al. 2021, tables 2 and 3): NCSN++ VE continuous 2.38, deep 2.20;
          DDPM++ VP continuous 2.55, deep 2.41; sub-VP deep 2.41 and 2.99 bits/dim. NCSNv2 10.87
Obtained  not trained here: no accelerator
"""

from sdejax.published.run_config import published_config
from sdejax.published.runs import named


def get_config(name):
    return published_config(named(name))
