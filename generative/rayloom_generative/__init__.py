"""Generative models: one file per algorithm, their mathematics in pure functions beside them."""
