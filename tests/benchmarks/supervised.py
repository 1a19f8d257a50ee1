"""Classifiers on 28x28 images against a hand-written loop over tensors in memory and against Lightning.

Lightning reads as its tutorial and torch's do: a DataLoader without workers over a data set that makes a Pillow image
and a float tensor of each example (torchvision's MNIST with ToTensor, of which `TutorialDataset` is the same work). A
second row gives it tensors that are ready, which is the most that a DataLoader can do here.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from bench import Comparison
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

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
    "ResNet-20": {"kind": "resnet"},
}
UPDATES = {"LeNet-5": 200, "MLP 784-256-128-10": 1200, "ResNet-20": 16}
"""How many are timed, after a twentieth of them."""


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


def _per_second(update: Callable[[], object], name: str) -> float:
    """Return the examples per second of so many calls, after the first ones."""
    for _ in range(max(2, UPDATES[name] // 20)):
        update()
    start = time.perf_counter()
    for _ in range(UPDATES[name]):
        update()
    return UPDATES[name] * BATCH / (time.perf_counter() - start)


def _ours(name: str) -> float:
    role = LearnerRole(from_tree(_tree(NETWORKS[name])))
    source, learner = role.source, role.learner
    return _per_second(lambda: learner.update(source.next, source.feedback), name)


def _hand_written(name: str) -> float:
    torch.set_num_threads(THREADS)
    network, data = _network(name), random_images(NoSettings(), 0).train
    images, labels = data["image"], data["label"]
    optimizer = torch.optim.Adam(network.parameters(), fused=True)

    def batches() -> Iterator[Tensor]:
        while True:
            yield from torch.randperm(EXAMPLES).split(BATCH)

    order = batches()

    def update() -> None:
        index = next(order)
        loss = nn.functional.cross_entropy(network(images[index].float() / 255), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return _per_second(update, name)


class TutorialDataset(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """What torchvision's MNIST with the transform ToTensor does for each example."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self._images, self._labels = images, labels

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return a float image [1, H, W] in 0..1, by way of Pillow, and its label."""
        image = Image.fromarray(self._images[index, 0].numpy(), mode="L")
        pixels = torch.from_numpy(np.array(image, np.uint8, copy=True)).view(image.size[1], image.size[0], 1)
        return pixels.permute(2, 0, 1).contiguous().to(torch.float32).div(255), int(self._labels[index])


def _lightning(name: str, tutorial: bool) -> float:
    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(THREADS)
    network, data = _network(name), random_images(NoSettings(), 0).train
    times: list[float] = []
    updates = UPDATES[name]

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def training_step(self, batch: Any, index: int) -> Tensor:
            images, labels = batch
            logits = self.network(images if tutorial else images.float() / 255)
            loss = nn.functional.cross_entropy(logits, labels)
            # rayloom's side records both of every step too.
            self.log_dict({"loss": loss, "accuracy": (logits.detach().argmax(dim=1) == labels).float().mean()})
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), fused=True)

        def on_train_batch_start(self, batch: Any, index: int) -> None:
            if self.global_step in (updates // 20, updates + updates // 20 - 1):
                times.append(time.perf_counter())

    columns = (data["image"], data["label"])
    dataset: Any = TutorialDataset(*columns) if tutorial else TensorDataset(*columns)
    trainer = lightning.Trainer(
        max_steps=updates + updates // 20,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), DataLoader(dataset, batch_size=BATCH, shuffle=True))
    return (updates - 1) * BATCH / (times[-1] - times[0])


def classifier() -> list[Comparison]:
    """Batch 128, Adam, two threads."""
    rows = []
    for name in NETWORKS:
        common = {"unit": "samples/s", "threads": THREADS, "ours": partial(_ours, name)}
        rows.append(Comparison(name, peer=partial(_hand_written, name), peer_name="by hand", target="0.98", **common))
        if name == "ResNet-20":  # nearly all of its time is the network's
            continue
        target = "1.3" if name == "LeNet-5" else "2.5"
        for tutorial in (True, False):
            label = "Lightning, the tutorial's DataLoader" if tutorial else "Lightning, tensors"
            peer = partial(_lightning, name, tutorial)
            rows.append(Comparison(name, peer=peer, peer_name=label, target=target if tutorial else "", **common))
    return rows


COMPARISONS: dict[str, Callable[[], list[Comparison]]] = {"classifier": classifier}
