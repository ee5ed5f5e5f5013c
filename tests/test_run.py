import json
import threading

import jax
import numpy as np
import pytest
from tiny_config import BATCH, HELD_OUT, STEPS, get_config

from sdejax.build import build_data, build_loss, change
from sdejax.data.pipeline import batches
from sdejax.data.scaling import Scaling, integers
from sdejax.run import MAY_CHANGE, generator_of, save_picture, train
from sdejax.tables import PREDICTIONS, SDES, component
from sdejax.train.catalog import all_steps
from sdejax.train.checkpoint import restore_params
