"""Files of published checkpoints: their formats and names, into this library's networks."""
