"""Distances between samples and data, and a report that holds one against the other."""
