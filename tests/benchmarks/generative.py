"""Generative models against hand-written loops and against Lightning: a VAE and WGAN-GP on 28x28 images.

    python tests/benchmarks/bench.py vae wgan_gp

Both sides train the same networks with the same optimiser and draw their own noise. The hand-written loops are what a
good tutorial has: data in memory as bytes, one gather a batch, torch's fused Adam, no metric that nobody reads.
"""

from __future__ import annotations

import copy
import logging
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from bench import Comparison
from supervised import EXAMPLES, random_images
from torch import Tensor, nn

from rayloom.components import NoSettings
from rayloom.config.load import from_tree
from rayloom.runs.learner_role import LearnerRole

BATCH, THREADS, CRITIC_STEPS, LATENT, PENALTY = 128, 1, 5, 64, 10.0
_RATE = 1e-4
_ADAM = {"kind": "adam", "learning_rate": _RATE}

VAE: dict[str, Any] = {
    "import": "rayloom_generative.autoencoders.vae:VAE",
    "latent_size": 40,
    "hidden_sizes": [300, 300],
    "binarize": "dynamic",
}
MAPS = {"kind": "conv", "channels": 32}
WGAN_GP: dict[str, Any] = {
    "import": "rayloom_generative.adversarial.wgan_gp:WGANGP",
    "latent_size": LATENT,
    "critic_steps": CRITIC_STEPS,
    "penalty_weight": PENALTY,
}
SIZES: dict[str, dict[str, Any]] = {
    "MLP": {"generator": {"hidden_sizes": [256, 256]}, "critic": {"hidden_sizes": [256, 256]}},
    "DCGAN": {"generator": MAPS, "critic": {**MAPS, "normalization": "layer"}},
}


def role_of(algorithm: dict[str, Any], **learner: Any) -> LearnerRole:
    """Return a learner of images of noise."""
    tree = {
        "name": "benchmark",
        "algorithm": algorithm,
        "source": {"kind": "dataset", "dataset": "supervised:random_images"},
        "learner": {"batch_size": BATCH, "threads": THREADS, "optimizer": _ADAM, **learner},
        "stop": {"epochs": 100},
    }
    return LearnerRole(from_tree(tree))


def freed(module: nn.Module) -> nn.Module:
    """Return a copy of a network with memory of its own."""
    other = copy.deepcopy(module)
    for parameter in other.parameters():
        parameter.data, parameter.grad = parameter.data.clone(), None
    return other


def rate(step: Callable[[], Any], seconds: float, warm_ups: int = 8) -> float:
    """Return steps per second over about so many seconds."""
    for _ in range(warm_ups):
        step()
    begin, done = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        for _ in range(5):
            step()
        done += 5
    return done / (time.perf_counter() - begin)


def engine_step(role: LearnerRole) -> Callable[[], Any]:
    """Return one update of a learner."""
    return lambda: role.learner.update(role.source.next, role.source.feedback)


class Batches:
    """Batches of bytes in the order of a permutation for each pass."""

    def __init__(self) -> None:
        self.images = random_images(NoSettings(), 0).train["image"]
        self._order = torch.randperm(EXAMPLES)
        self._at = 0

    def __call__(self) -> Tensor:
        """Return the next images, 0..1."""
        if self._at + BATCH > EXAMPLES:
            self._order, self._at = torch.randperm(EXAMPLES), 0
        index = self._order[self._at : self._at + BATCH]
        self._at += BATCH
        return self.images[index].float() / 255


# --- variational autoencoder -----------------------------------------------------------------------------------------


def bound(encoder: nn.Module, decoder: nn.Module, images: Tensor) -> Tensor:
    """Return the mean negative evidence lower bound of images [B, 1, 28, 28] in 0..1."""
    bits = torch.bernoulli(images)
    mean, log_variance = encoder(bits)
    decoded = decoder(mean + (0.5 * log_variance).exp() * torch.randn_like(mean))
    error = nn.functional.binary_cross_entropy_with_logits(decoded, bits.flatten(1), reduction="sum")
    divergence = 0.5 * (log_variance.exp() + mean.square() - 1 - log_variance).sum()
    return (error + divergence) / len(images)


def vae_by_hand() -> Callable[[], Any]:
    """Return one step of a loop that a reader could have written."""
    torch.set_num_threads(THREADS)
    model: Any = role_of(VAE).algorithm
    encoder, decoder, batches = freed(model.encoder), freed(model.decoder), Batches()
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=_RATE, fused=True)

    def step() -> None:
        loss = bound(encoder, decoder, batches())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def vae_by_lightning(steps: int) -> float:
    """Return steps per second of Lightning."""
    import lightning

    torch.set_num_threads(THREADS)
    model: Any = role_of(VAE).algorithm
    encoder, decoder = freed(model.encoder), freed(model.decoder)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = encoder, decoder

        def training_step(self, batch: Any, index: int) -> Tensor:
            loss = bound(self.encoder, self.decoder, batch[0].float() / 255)
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=_RATE, fused=True)

    return lightning_rate(Module(), steps)


def lightning_rate(module: Any, steps: int, updates_each: int = 1) -> float:
    """Return updates per second of a module of Lightning, each of so many batches."""
    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    times: list[float] = []

    class Clock(lightning.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
            times.append(time.perf_counter())

    images = random_images(NoSettings(), 0).train["image"]
    data = torch.utils.data.TensorDataset(images)
    trainer = lightning.Trainer(
        max_steps=-1,
        max_epochs=1,
        limit_train_batches=min(steps * updates_each, EXAMPLES // BATCH),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Clock()],
    )
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=True))
    first = len(times) // 5
    return (len(times) - 1 - first) / (times[-1] - times[first]) / updates_each


# --- WGAN-GP ---------------------------------------------------------------------------------------------------------


def critic_objective(generator: nn.Module, critic: nn.Module, real: Tensor) -> Tensor:
    """Return the critic's loss with its penalty."""
    with torch.no_grad():
        fake = generator(torch.randn(len(real), LATENT, device=real.device))
    share = torch.rand(len(real), 1, 1, 1, device=real.device)
    points = (share * real + (1 - share) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
    penalty = (gradient.flatten(1).norm(2, dim=1) - 1).square().mean()
    return critic(fake).mean() - critic(real).mean() + PENALTY * penalty


def wgan_gp_by_hand(size: str) -> Callable[[], Any]:
    """Return one update of a plain eager loop: five steps of the critic and one of the generator."""
    torch.set_num_threads(THREADS)
    model: Any = role_of({**WGAN_GP, **SIZES[size]}).algorithm
    generator, critic = freed(model.generator), freed(model.critic)
    batches = Batches()
    adam = {"lr": _RATE, "betas": (0.0, 0.9), "fused": True}
    critic_optimizer = torch.optim.Adam(critic.parameters(), **adam)
    generator_optimizer = torch.optim.Adam(generator.parameters(), **adam)

    def step() -> None:
        for _ in range(CRITIC_STEPS):
            loss = critic_objective(generator, critic, 2 * batches() - 1)
            critic_optimizer.zero_grad()
            loss.backward()
            critic_optimizer.step()
        loss = -critic(generator(torch.randn(BATCH, LATENT))).mean()
        generator_optimizer.zero_grad()
        loss.backward()
        generator_optimizer.step()

    return step


def wgan_gp_by_lightning(size: str, steps: int) -> float:
    """Return updates per second of Lightning with optimisers that are stepped by hand."""
    import lightning

    torch.set_num_threads(THREADS)
    model: Any = role_of({**WGAN_GP, **SIZES[size]}).algorithm
    generator, critic = freed(model.generator), freed(model.critic)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.generator, self.critic = generator, critic
            self.automatic_optimization = False

        def training_step(self, batch: Any, index: int) -> None:
            critic_optimizer, generator_optimizer = self.optimizers()  # type: ignore[misc]
            loss = critic_objective(self.generator, self.critic, 2 * batch[0].float() / 255 - 1)
            self._descend(critic_optimizer, loss)
            self.log("critic_loss", loss)
            if (index + 1) % CRITIC_STEPS == 0:
                loss = -self.critic(self.generator(torch.randn(BATCH, LATENT))).mean()
                self._descend(generator_optimizer, loss)
                self.log("generator_loss", loss)

        def _descend(self, optimizer: Any, loss: Tensor) -> None:
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

        def configure_optimizers(self) -> Any:
            adam = {"lr": _RATE, "betas": (0.0, 0.9), "fused": True}
            return [torch.optim.Adam(network.parameters(), **adam) for network in (self.critic, self.generator)]

    return lightning_rate(Module(), steps, CRITIC_STEPS)


def _seconds() -> float:
    return 2.0


def vae() -> list[Comparison]:
    """Batch 128, Adam, one thread."""
    common: dict[str, Any] = {
        "unit": "updates/s",
        "threads": THREADS,
        "ours": lambda: rate(engine_step(role_of(VAE)), _seconds()),
    }
    name = "VAE 784-300-300-40"
    return [
        Comparison(name, peer=lambda: rate(vae_by_hand(), _seconds()), peer_name="by hand", target="1.0", **common),
        Comparison(name, peer=lambda: vae_by_lightning(190), peer_name="Lightning", target="1.2", **common),
    ]


def wgan_gp() -> list[Comparison]:
    """Five critic steps and one of the generator, batch 128, Adam, one thread."""
    rows = []
    for size, parts in SIZES.items():
        common: dict[str, Any] = {
            "unit": "updates/s",
            "threads": THREADS,
            "ours": lambda parts=parts: rate(engine_step(role_of({**WGAN_GP, **parts})), _seconds(), warm_ups=2),
        }
        by_hand = Comparison(
            f"WGAN-GP {size}",
            peer=lambda size=size: rate(wgan_gp_by_hand(size), _seconds(), warm_ups=2),
            peer_name="by hand",
            target="1.0",
            **common,
        )
        lightning = Comparison(
            f"WGAN-GP {size}",
            peer=lambda size=size: wgan_gp_by_lightning(size, 38 if size == "MLP" else 8),
            peer_name="Lightning",
            target="1.2",
            **common,
        )
        rows += [by_hand, lightning]
    return rows


COMPARISONS: dict[str, Callable[[], list[Comparison]]] = {"vae": vae, "wgan_gp": wgan_gp}
