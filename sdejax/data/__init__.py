"""Data: sources with an invertible scaling, toy distributions and a deterministic pipeline."""
