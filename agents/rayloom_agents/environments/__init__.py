"""Environments that isolate what an agent must be able to do."""
