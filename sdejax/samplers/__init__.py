"""Samplers: fixed-grid methods, diffrax solvers and the function that draws a batch."""
