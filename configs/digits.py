"""Handwritten digits, 8x8: the main job. EDM (Karras et al. 2022, arXiv:2206.00364), small U-Net.

sdejax train --config configs/digits.py --workdir runs/digits
"""

from sdejax.build import default_config
from sdejax.tables import NETWORKS, component


def get_config():
    config = default_config()
    config.network = component(
        "network", NETWORKS, "unet", nf=32, ch_mult=(1, 2), num_res_blocks=1,
        attn_resolutions=(4,), dropout=0.1, embedding_type="fourier", fourier_log=False,
        fourier_scale=2.0,
    )  # fmt: skip
    config.train.steps = 2000
    return config
