"""Classifiers on 28x28 images against a hand-written loop over tensors in memory and against Lightning."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from bench import Comparison
from torch import Tensor, nn

from rayloom.components import NoSettings, component
from rayloom.config.load import from_tree
from rayloom.contract import TensorSpec
from rayloom.datasets import Dataset
from rayloom.runs.learner_role import LearnerRole

BATCH, EXAMPLES, THREADS = 128, 25_600, 2


@component("data set")
def random_images(config: NoSettings, seed: int) -> Dataset:
    """Return 28x28 images of noise: the speed does not depend on what they show."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> dict[str, Tensor]:
        return {
            "image": torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8, generator=generator),
            "label": torch.randint(0, 10, (count,), generator=generator),
        }

    spec = {
        "image": TensorSpec(shape=(1, 28, 28), dtype=torch.uint8),
        "label": TensorSpec(shape=(), dtype=torch.int64, num_values=10, labels=tuple("0123456789")),
    }
    return Dataset(train=split(EXAMPLES), validation=split(500), test=split(500), spec=spec)


def _tree(network: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "benchmark",
        "algorithm": {"import": "rayloom_supervised.tasks.classification:Classifier", "network": network},
        "source": {"kind": "dataset", "dataset": "supervised:random_images"},
        "learner": {"batch_size": BATCH, "threads": THREADS},
        "stop": {"epochs": 100},
    }


NETWORKS: dict[str, dict[str, Any]] = {
    "LeNet-5": {"kind": "lenet5"},
    "MLP 784-256-128-10": {"kind": "mlp", "hidden_sizes": [256, 128]},
}


def _network(name: str) -> nn.Module:
    """Return the network of rayloom's classifier itself, so that both sides compute the same."""
    role = LearnerRole(from_tree(_tree(NETWORKS[name])))
    module = role.algorithm.network
    assert isinstance(module, nn.Module)
    fresh: nn.Module = module
    for parameter in fresh.parameters():  # give it memory of its own again
        parameter.data = parameter.data.clone()
        parameter.grad = None
    return fresh


def _ours(name: str, epochs: int) -> float:
    role = LearnerRole(from_tree(_tree(NETWORKS[name])))
    source, learner = role.source, role.learner
    for _ in range(20):
        learner.update(source.next, source.feedback)
    start = time.perf_counter()
    for _ in range(epochs * (EXAMPLES // BATCH)):
        learner.update(source.next, source.feedback)
    learner.sums.drain()
    return epochs * EXAMPLES / (time.perf_counter() - start)


def _hand_written(name: str, epochs: int) -> float:
    torch.set_num_threads(THREADS)
    network, data = _network(name), random_images(NoSettings(), 0).train
    images, labels = data["image"], data["label"]
    optimizer = torch.optim.Adam(network.parameters(), fused=True)

    def epoch() -> None:
        order = torch.randperm(EXAMPLES)
        for start in range(0, EXAMPLES, BATCH):
            index = order[start : start + BATCH]
            loss = nn.functional.cross_entropy(network(images[index].float() / 255), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    epoch()
    begin = time.perf_counter()
    for _ in range(epochs):
        epoch()
    return epochs * EXAMPLES / (time.perf_counter() - begin)


def _lightning(name: str, epochs: int) -> float:
    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(THREADS)
    network, data = _network(name), random_images(NoSettings(), 0).train
    times: list[float] = []

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def training_step(self, batch: Any, index: int) -> Tensor:
            images, labels = batch
            logits = self.network(images.float() / 255)
            loss = nn.functional.cross_entropy(logits, labels)
            # rayloom's side records both of every step too.
            self.log_dict({"loss": loss, "accuracy": (logits.detach().argmax(dim=1) == labels).float().mean()})
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), fused=True)

        def on_train_epoch_start(self) -> None:
            times.append(time.perf_counter())

        def on_train_end(self) -> None:
            times.append(time.perf_counter())

    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(data["image"], data["label"]), batch_size=BATCH, shuffle=True
    )
    trainer = lightning.Trainer(
        max_epochs=epochs + 1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), loader)
    return epochs * EXAMPLES / (times[-1] - times[1])


def classifier() -> list[Comparison]:
    """Batch 128, Adam, two threads."""
    rows = []
    for name, epochs, lightning_target in (("LeNet-5", 1, "1.2"), ("MLP 784-256-128-10", 6, "2.5")):
        common = {"unit": "samples/s", "threads": THREADS, "ours": lambda n=name, e=epochs: _ours(n, e)}
        rows.append(
            Comparison(
                name, peer=lambda n=name, e=epochs: _hand_written(n, e), peer_name="by hand", target="0.98", **common
            )
        )
        rows.append(
            Comparison(
                name,
                peer=lambda n=name, e=epochs: _lightning(n, e),
                peer_name="Lightning",
                target=lightning_target,
                **common,
            )
        )
    return rows


COMPARISONS: dict[str, Callable[[], list[Comparison]]] = {"classifier": classifier}
