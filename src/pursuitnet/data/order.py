"""An order of labeled images in which the first so many stand for all."""

import torch
from torch import Tensor


def stratified(labels: Tensor, seed: int = 0) -> Tensor:
    """A random order in which every beginning holds each class in proportion, and every class as early as can be.

    labels int64 (N,) -> indices int64 (N,). The j-th image of a class of n, each in random order, stands at the share
    j/n of the whole; ties are broken at random, by `seed` alone.
    """
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    counts = labels.bincount()
    before = (counts.cumsum(0) - counts)[labels[by_class]]
    share = torch.empty(len(labels), dtype=torch.float64)
    share[by_class] = (torch.arange(len(labels)) - before) / counts[labels[by_class]].double()
    return shuffled[share[shuffled].argsort(stable=True)]
