"""Layers of generative models."""
