"""Small runs of this chapter's systems, for the conformance suite."""

from __future__ import annotations

from typing import Any


def _tree(path: str, dataset: str, **algorithm: Any) -> dict[str, Any]:
    return {
        "algorithm": {"import": f"rayloom_generative.adversarial.{path}", **algorithm},
        "source": {"kind": "dataset", "dataset": dataset},
        "learner": {"batch_size": 64, "optimizer": {"kind": "adam", "learning_rate": 1e-3}},
        "evaluate": {"every": "20 updates"},
        "stop": {"updates": 60},
    }


_NARROW = {"hidden_sizes": [16]}
_MAPS = {"kind": "conv", "channels": 4}

TREES: dict[str, dict[str, Any]] = {
    "gan_averaged": _tree(
        "gan:GAN",
        "gaussian-ring",
        generator=_NARROW,
        critic=_NARROW,
        average=0.9,
        spectral_norm=True,
        generator_learning_rate=2e-3,
        critic_learning_rate=4e-3,
    ),
    "wgan": _tree("wgan:WGAN", "gaussian-ring", generator=_NARROW, critic=_NARROW, critic_steps=2, clip=0.1),
    "dcgan": _tree(
        "dcgan:DCGAN",
        "digits",
        latent_size=4,
        generator={**_MAPS, "normalization": "batch"},
        critic={**_MAPS, "normalization": "batch"},
        average=0.9,
    ),
    "conditional_gan": _tree(
        "conditional_gan:ConditionalGAN",
        "digits",
        latent_size=4,
        generator={**_MAPS, "normalization": "layer"},
        critic={**_MAPS, "normalization": "layer"},
    ),
}
