"""The white box: which Lasso each layer of a network solves, how far it gets, and which guarantees reach it.

``reading``: a layer as a step on a Lasso. ``foreign``: plain PyTorch models as layers. ``problem``: that Lasso with a
certificate. ``layers``: what is measured of one. ``unfolding``: the network at other numbers of steps. ``inspection``:
``inspect`` itself. ``page``: its HTML.
"""

from pursuitnet.program.whitebox.findings import Unread
from pursuitnet.program.whitebox.inspection import Inspection, inspect
from pursuitnet.program.whitebox.layers import Effort, Guarantee, Layer, Solving, Spread
from pursuitnet.program.whitebox.reading import Reading
from pursuitnet.program.whitebox.unfolding import AtSteps

__all__ = [
    "AtSteps",
    "Effort",
    "Guarantee",
    "Inspection",
    "Layer",
    "Reading",
    "Solving",
    "Spread",
    "Unread",
    "inspect",
]
