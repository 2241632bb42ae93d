"""The white box: which Lasso each layer of a network solves, how close it gets, and which guarantees apply.

``interpret``: a layer as a step on a Lasso. ``torch_models``: plain PyTorch models as layers, by ``recorder``, which
records one run of them, and ``sums``, what their tensors are sums of. ``problem``: that Lasso with a certificate.
``layers``: the measurements of a layer. ``unfolding``: the network with other numbers of steps. ``inspection``:
``inspect`` itself. ``page``: its HTML.
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
