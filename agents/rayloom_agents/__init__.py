"""Reinforcement learning: one file per algorithm, the mathematics in `returns` and `objectives`."""
