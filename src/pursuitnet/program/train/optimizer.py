"""The optimizer of a recipe, and its learning rate."""

import math

import torch
from torch import nn

from pursuitnet.program.recipe import Recipe


def optimizer_of(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """Return SGD or Adam with weight decay on filters and head, and on thresholds, steps and norms if the recipe asks.

    A step size c is one number for a whole layer and sums the gradients of all its pixels: it has a tenth of the
    learning rate, without which Res-CSC of 110 layers starts more slowly than ResNet. Adam does not depend on the
    size of gradients, and has one rate for all.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    filters = [p for p in trained if p.dim() > 1]
    rows = [p for p in trained if p.dim() == 1]
    steps = [p for p in trained if p.dim() == 0]
    other = recipe.weight_decay if recipe.decay_all else 0.0
    groups = [
        {"params": filters, "weight_decay": recipe.weight_decay, "scale": 1.0},
        {"params": rows, "weight_decay": other, "scale": 1.0},
        {"params": steps, "weight_decay": other, "scale": 0.1},
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "adam":
        return torch.optim.AdamW([{**group, "scale": 1.0} for group in groups], lr=recipe.lr)
    nesterov = recipe.nesterov and recipe.momentum > 0
    fused = all(p.device.type in ("cpu", "cuda") for p in model.parameters())
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov, fused=fused)


def learning_rate(recipe: Recipe, epochs: float) -> float:
    """Return the learning rate after a number of epochs, which may be fractional."""
    warmup = min(recipe.warmup, recipe.epochs / 5) if recipe.schedule == "onecycle" else recipe.warmup
    peak = recipe.lr * min(1.0, epochs / warmup) if warmup else recipe.lr
    done = min(epochs / recipe.epochs, 1.0)
    if recipe.schedule == "cosine":
        return peak * (1 + math.cos(math.pi * done)) / 2
    if recipe.schedule == "onecycle":
        return min(peak, recipe.lr * (recipe.epochs - epochs) / (recipe.epochs - warmup))
    if recipe.schedule == "steps":
        return peak * 0.1 ** sum(done > milestone for milestone in recipe.milestones)
    return peak
