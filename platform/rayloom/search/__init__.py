"""Hyperparameter search: what is varied, who proposes the next trial, and who trains it. The one room of Optuna."""
