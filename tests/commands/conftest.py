"""Finished runs of the tiny config, for every file of this folder."""

from command import copied, digits, points  # noqa: F401
