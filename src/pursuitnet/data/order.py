"""An order of labeled images in which every prefix is representative of all."""

import torch
from torch import Tensor


def stratified(labels: Tensor, seed: int = 0) -> Tensor:
    """Return a random order in which every prefix has the classes in proportion, and every class as early as possible.

    labels int64 (N,) -> indices int64 (N,). The j-th image of a class of n, in random order within the class, comes at
    the fraction j/n of the whole; ties are broken at random. All is determined by `seed`.
    """
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    counts = labels.bincount()
    before = (counts.cumsum(0) - counts)[labels[by_class]]
    share = torch.empty(len(labels), dtype=torch.float64)
    share[by_class] = (torch.arange(len(labels)) - before) / counts[labels[by_class]].double()
    return shuffled[share[shuffled].argsort(stable=True)]
