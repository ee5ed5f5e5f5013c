"""Finished runs of the tiny config, for every file of this folder."""

from command import compiled_once, copied, digits, points  # noqa: F401
