"""Predictions of a trained network for images."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """The predicted classes of images.

    Attributes:
        probabilities: softmax of the logits, (B, classes), float32.
        classes: their names.
    """

    probabilities: Tensor
    classes: tuple[str, ...]

    @property
    def labels(self) -> Tensor:
        """The most probable class of each image, int64 (B,)."""
        return self.probabilities.argmax(dim=1)

    @property
    def names(self) -> list[str]:
        """The most probable class of each image, by name."""
        return [self.classes[label] for label in self.labels.tolist()]

    def top(self, count: int = 5) -> list[list[tuple[str, float]]]:
        """Return the ``count`` most probable classes of each image with their probabilities, in descending order."""
        best = self.probabilities.topk(min(count, len(self.classes)), dim=1)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [[(self.classes[k], p) for k, p in zip(*pair, strict=True)] for pair in pairs]

    @staticmethod
    def concatenated(parts: Sequence["Prediction"]) -> "Prediction":
        """Concatenate predictions of one network."""
        return Prediction(torch.cat([part.probabilities for part in parts]), parts[0].classes)
