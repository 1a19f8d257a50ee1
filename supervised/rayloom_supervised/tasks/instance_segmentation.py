"""Instance segmentation: the class, the box and the pixels of each object of an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le, MinLen, MultipleOf
from torch import Tensor

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Figure, Loss, Metric, Phase, Spec, UserError
from rayloom_supervised.layers.boxes import decoded, encoded, overlaps, places_in, roi_align, unsuppressed
from rayloom_supervised.metrics.coco import mask_average_precision
from rayloom_supervised.networks.mask_rcnn import (
    BOX_BINS,
    MASK_BINS,
    STRIDE,
    Backbone,
    BoxHead,
    MaskHead,
    ProposalHead,
    make_anchors,
)

_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class MaskRCNNConfig(AlgorithmConfig):
    """Settings of the network and of what it keeps."""

    channels: Annotated[int, Ge(8), MultipleOf(8)] = 32
    """Feature maps at half the image's size; twice as many at a quarter."""
    hidden_size: Annotated[int, Ge(1)] = 128
    """Units of the layers that tell class and box."""
    anchor_sizes: Annotated[tuple[Annotated[float, Gt(0)], ...], MinLen(1)] = (14.0, 24.0)
    """Sides of the anchors (unit: pixels)."""
    candidates: Annotated[int, Ge(1)] = 48
    """Best anchors that are considered."""
    proposals: Annotated[int, Ge(1)] = 16
    """Of those, how many that do not overlap are looked at more closely."""
    masks: Annotated[int, Ge(1)] = 6
    """Proposals of an image whose mask is learnt from."""
    detections: Annotated[int, Ge(1)] = 8
    """Objects that are told of one image at most."""
    proposal_overlap: Annotated[float, Gt(0), Le(1)] = 0.7
    """Largest overlap of two proposals."""
    detection_overlap: Annotated[float, Gt(0), Le(1)] = 0.5
    """Largest overlap of two boxes of one class that are told."""


class Detections(NamedTuple):
    """What is found in images: D objects of each, the surest first; the rest has the label 0."""

    label: Tensor
    """[B, D]; 0: nothing."""
    score: Tensor
    """[B, D], the probability of the class."""
    box: Tensor
    """[B, D, 4]."""
    mask: Tensor
    """[B, D, H, W], bool."""


class _Assigned(NamedTuple):
    """Which true object boxes [B, N] stand for."""

    overlap: Tensor
    """[B, N], with the object that each overlaps most; -1 where there is none."""
    object: Tensor
    """[B, N], its place among the true ones."""


class MaskRCNN(Algorithm):
    """Mask R-CNN (He et al. 2017) at the scale of small pictures.

    As in the paper the loss is the sum of those of proposals (objectness and box), class, box and mask; masks are told
    for each class by itself. Departures: one level of anchors, a fine level for RoIAlign; group norm; all anchors and
    proposals are learnt from, with objects and background half and half of the proposals' loss, where the paper draws
    some at random, so that nothing here is random; true boxes are among the proposals in training; boxes are not told
    for each class by itself. Data have `image`, `label` [M] (0: none), `box` [M, 4] and `mask` [M, H, W].
    """

    Config = MaskRCNNConfig
    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric(better="min"),
        "proposal_loss": Metric(better="min", meaning="of objectness and of the anchors' boxes"),
        "class_loss": Metric(better="min", unit="nats"),
        "box_loss": Metric(better="min"),
        "mask_loss": Metric(better="min", unit="nats"),
        "mask_ap": Metric(better="max", meaning="COCO: mean over overlaps from 0.5 to 0.95"),
        "mask_ap_50": Metric(better="max", meaning="COCO: at an overlap of 0.5"),
        "mask_ap_75": Metric(better="max", meaning="COCO: at an overlap of 0.75"),
    }

    anchors: Tensor

    def __init__(self, config: MaskRCNNConfig, spec: Spec) -> None:
        """Build for images of bytes [3, H, W]; UserError where fields are missing or sides are no multiples of 4."""
        super().__init__(config, spec)
        missing = sorted({"image", "label", "box", "mask"} - set(spec))
        if missing or not spec["label"].labels:
            raise UserError(
                f"source.dataset: instance segmentation needs the fields image, box and mask, and a label with names; "
                f"{missing[0] if missing else 'names'} is missing"
            )
        channels, self.height, self.width = spec["image"].shape
        if self.height % STRIDE or self.width % STRIDE:
            raise UserError(f"source.dataset: sides of images must be multiples of {STRIDE}, not {spec['image'].shape}")
        classes = len(spec["label"].labels)
        self.backbone = Backbone(config.channels, channels)
        self.proposal_head = ProposalHead(2 * config.channels, len(config.anchor_sizes))
        self.box_head = BoxHead(config.channels, config.hidden_size, classes)
        self.mask_head = MaskHead(config.channels, classes)
        self.register_buffer("anchors", make_anchors(self.height, self.width, config.anchor_sizes))

    def phases(self) -> list[Phase]:
        """Return the one phase that descends the sum of all losses."""
        return [Phase("segment", self.loss, tuple(self.parameters()), compilable=False)]

    def prepare(self, trajectory: dict[str, Tensor]) -> Batch:
        """Scale the images to -1..1."""
        return {**trajectory, "image": trajectory["image"].float() / 127.5 - 1}

    def loss(self, batch: Batch) -> Loss:
        """Return the sum of the losses [B], and each of them."""
        coarse, fine = self.backbone(batch["image"])
        logits, change = self.proposal_head(coarse)
        anchors = self.anchors.expand(len(fine), -1, -1)
        losses = {"proposal_loss": self._proposal_loss(logits, change, anchors, batch)}
        proposals, valid = self._propose(logits.detach(), change.detach(), anchors)
        boxes, valid = torch.cat((proposals, batch["box"]), 1), torch.cat((valid, batch["label"] > 0), 1)
        assigned = _assign(boxes, batch)
        found = (assigned.overlap >= 0.5) & valid
        truth = batch["label"].gather(1, assigned.object) * found
        told, moved = self.box_head(roi_align(fine, boxes, BOX_BINS, self.height, self.width))
        wrong = F.cross_entropy(told.transpose(1, 2), truth, reduction="none")
        losses["class_loss"] = _mean(wrong, valid)
        losses["box_loss"] = _mean(_box_errors(moved, _matched(batch["box"], assigned), boxes), found)
        losses["mask_loss"] = self._mask_loss(fine, boxes, assigned, found, batch)
        total = torch.stack(list(losses.values())).sum(0)
        return Loss(total, {name: value.detach() for name, value in losses.items()})

    def _proposal_loss(self, logits: Tensor, change: Tensor, anchors: Tensor, batch: Batch) -> Tensor:
        """Return the mean error of anchors on objects and of those on the background, halved, and of the boxes."""
        assigned = _assign(anchors, batch)
        # An object that no anchor fits well has the best one all the same (Ren et al. 2015, section 3.1.2).
        shared = overlaps(anchors, batch["box"]) * (batch["label"] > 0).unsqueeze(1)
        best = (shared == shared.amax(1, keepdim=True)) & (shared > 0.1)
        forced = best.any(2)
        match = torch.where(forced, best.long().argmax(2), assigned.object)
        positive = (assigned.overlap >= 0.5) | forced
        negative = (assigned.overlap < 0.3) & ~positive
        wrong = F.binary_cross_entropy_with_logits(logits, positive.to(logits.dtype), reduction="none")
        errors = _box_errors(change, _matched(batch["box"], _Assigned(assigned.overlap, match)), anchors)
        return (_mean(wrong, positive) + _mean(wrong, negative)) / 2 + _mean(errors, positive)

    def _mask_loss(self, fine: Tensor, boxes: Tensor, assigned: _Assigned, found: Tensor, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of the pixels of the boxes that fit best, for their true class."""
        count = min(self.config.masks, boxes.shape[1])
        chosen = torch.where(found, assigned.overlap, -1.0).topk(count, 1).indices
        box = boxes.gather(1, chosen.unsqueeze(2).expand(-1, -1, 4))
        match = assigned.object.gather(1, chosen)
        logits = self._masks(fine, box, batch["label"].gather(1, match))
        rows = torch.arange(len(fine), device=fine.device).unsqueeze(1)
        true = batch["mask"][rows, match].to(logits.dtype).flatten(0, 1).unsqueeze(1)
        size = logits.shape[2]
        grid = places_in(box, size, self.height, self.width).view(-1, size, size, 2)
        wanted = (F.grid_sample(true, grid, align_corners=False) >= 0.5).to(logits.dtype).view_as(logits)
        wrong = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean((2, 3))
        return _mean(wrong, found.gather(1, chosen))

    def _masks(self, fine: Tensor, boxes: Tensor, label: Tensor) -> Tensor:
        """Return logits [B, R, 28, 28] of the pixels of boxes, for objects of these classes [B, R]."""
        logits = self.mask_head(roi_align(fine, boxes, MASK_BINS, self.height, self.width))
        index = label.view(*label.shape, 1, 1, 1).expand(-1, -1, -1, *logits.shape[3:])
        chosen: Tensor = logits.gather(2, index).squeeze(2)
        return chosen

    def _propose(self, logits: Tensor, change: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best boxes [B, P, 4] that do not overlap much, and which of them there are [B, P]."""
        scores, chosen = logits.topk(min(self.config.candidates, logits.shape[1]), 1)
        index = chosen.unsqueeze(2).expand(-1, -1, 4)
        boxes = self._inside(decoded(change.gather(1, index), anchors.gather(1, index)))
        scores = scores.masked_fill(~unsuppressed(boxes, self.config.proposal_overlap), -torch.inf)
        scores, kept = scores.topk(min(self.config.proposals, scores.shape[1]), 1)
        return boxes.gather(1, kept.unsqueeze(2).expand(-1, -1, 4)), scores > -torch.inf

    def _inside(self, boxes: Tensor) -> Tensor:
        """Return boxes cut at the picture's border."""
        return torch.stack((boxes[..., 0::2].clamp(0, self.width), boxes[..., 1::2].clamp(0, self.height)), -1).flatten(
            -2
        )

    @torch.no_grad()
    def detect(self, image: Tensor) -> Detections:
        """Find the objects of prepared images [B, 3, H, W]."""
        coarse, fine = self.backbone(image)
        logits, change = self.proposal_head(coarse)
        boxes, valid = self._propose(logits, change, self.anchors.expand(len(fine), -1, -1))
        logits, change = self.box_head(roi_align(fine, boxes, BOX_BINS, self.height, self.width))
        score, label = logits.softmax(2)[..., 1:].max(2)
        label = (label + 1).masked_fill(~valid | (logits.argmax(2) == 0), 0)
        score, order = score.masked_fill(label == 0, 0.0).sort(dim=1, descending=True, stable=True)
        label = label.gather(1, order)
        boxes = self._inside(decoded(change, boxes)).gather(1, order.unsqueeze(2).expand(-1, -1, 4))
        # Classes lie side by side, so that a box suppresses those of its own class only.
        apart = boxes + (label * 2 * max(self.height, self.width)).unsqueeze(2)
        label = label * unsuppressed(apart, self.config.detection_overlap)
        score, kept = (score * (label > 0)).topk(min(self.config.detections, score.shape[1]), 1)
        label, boxes = label.gather(1, kept), boxes.gather(1, kept.unsqueeze(2).expand(-1, -1, 4))
        return Detections(label, score, boxes, self._pasted(self._masks(fine, boxes, label), boxes) & _spread(label))

    def _pasted(self, logits: Tensor, boxes: Tensor) -> Tensor:
        """Return which pixels of the picture [B, R, H, W] masks [B, R, 28, 28] of boxes cover."""
        down = torch.arange(self.height, device=boxes.device) + 0.5
        right = torch.arange(self.width, device=boxes.device) + 0.5
        low, sides = boxes[..., :2], (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-3)
        x = (right - low[..., 0:1]) / sides[..., 0:1] * 2 - 1
        y = (down - low[..., 1:2]) / sides[..., 1:2] * 2 - 1
        across = x.unsqueeze(-2).expand(-1, -1, self.height, -1)
        grid = torch.stack((across, y.unsqueeze(-1).expand_as(across)), -1).flatten(0, 1)
        drawn = F.grid_sample(logits.sigmoid().flatten(0, 1).unsqueeze(1), grid, align_corners=False)
        inside = (grid.abs() <= 1).all(-1)
        return ((drawn.squeeze(1) >= 0.5) & inside).view(*logits.shape[:2], self.height, self.width)

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss [B], and what `summarize` needs."""
        found, loss = self.detect(batch["image"]), self.loss(batch)
        return {
            "loss": loss.per_example,
            **loss.metrics,
            "_label": found.label,
            "_score": found.score,
            "_mask": found.mask,
            "_true_label": batch["label"],
            "_true_mask": batch["mask"],
        }

    def summarize(self, outputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Figure]]:
        """Return the COCO average precisions of the masks."""
        fields = ("_mask", "_score", "_label", "_true_mask", "_true_label")
        found = mask_average_precision(*(outputs[name] for name in fields))
        named = {"mask_ap": found.all, "mask_ap_50": found.at_50, "mask_ap_75": found.at_75}
        return {name: torch.tensor(value) for name, value in named.items()}, {}

    def figures(self, batch: Batch) -> dict[str, Figure]:
        """Show pictures, and below them the objects that are found, each in a colour of its own."""
        few = batch["image"][:_SHOWN]
        found = self.detect(few)
        picture = ((few + 1) / 2).clamp(0, 1)
        colours = torch.tensor([(1.0, 0.2, 0.2), (0.2, 1.0, 0.2), (0.3, 0.4, 1.0), (1.0, 1.0, 0.2)], device=few.device)
        shown = picture * 0.3
        for place in range(found.label.shape[1]):
            tint = colours[place % len(colours)].view(1, 3, 1, 1)
            shown = torch.where(found.mask[:, place].unsqueeze(1), 0.5 * picture + 0.5 * tint, shown)
        return {"objects": Figure("images", torch.cat((picture, shown)).cpu(), columns=len(few))}


def _assign(boxes: Tensor, batch: Batch) -> _Assigned:
    """Return the true object that each of boxes [B, N, 4] overlaps most."""
    shared = overlaps(boxes, batch["box"]).masked_fill((batch["label"] == 0).unsqueeze(1), -1.0)
    return _Assigned(*shared.max(2))


def _matched(true: Tensor, assigned: _Assigned) -> Tensor:
    """Return the true boxes [B, N, 4] that boxes stand for."""
    return true.gather(1, assigned.object.unsqueeze(2).expand(-1, -1, 4))


def _box_errors(change: Tensor, true: Tensor, boxes: Tensor) -> Tensor:
    """Return the smooth L1 errors [B, N] of changes [B, N, 4] of boxes."""
    return F.smooth_l1_loss(change, encoded(true, boxes), reduction="none").mean(2)


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean of those of values [B, N] that are chosen, [B]; 0 where none is."""
    return (values * chosen).sum(1) / chosen.sum(1).clamp(min=1)


def _spread(label: Tensor) -> Tensor:
    return (label > 0).unsqueeze(2).unsqueeze(3)
