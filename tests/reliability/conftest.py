"""The short form of ``python -m experiments.reliability``: the same functions, few tries."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
