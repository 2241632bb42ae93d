"""The white box: which Lasso each layer of a network solves, how far it gets, and which guarantees reach it.

``interpret``: a layer as a step on a Lasso. ``torch_models``: plain PyTorch models as layers, by ``recorder``, which
watches them run, and ``sums``, what their tensors are made of. ``problem``: that Lasso with a certificate. ``layers``:
what is measured of one. ``unfolding``: the network at other numbers of steps. ``inspection``: ``inspect`` itself.
``page``: its HTML.
"""

from pursuitnet.program.whitebox.findings import UnreadModule
from pursuitnet.program.whitebox.inspection import Inspection, inspect
from pursuitnet.program.whitebox.interpret import InterpretedLayer
from pursuitnet.program.whitebox.layers import Guarantee, Layer, SolverBudget, Solving, Spread
from pursuitnet.program.whitebox.traced import Convolutions, Projection
from pursuitnet.program.whitebox.unfolding import AtSteps

__all__ = [
    "AtSteps",
    "Convolutions",
    "Guarantee",
    "Inspection",
    "InterpretedLayer",
    "Layer",
    "Projection",
    "SolverBudget",
    "Solving",
    "Spread",
    "UnreadModule",
    "inspect",
]
