"""Factor 3: how often the update is repeated, and with which momentum.

``update`` has the one update, ``proximal`` has ISTA and FISTA as ``init`` and ``step``, ``unroll`` repeats them in a
layer, and ``checkpointing`` chooses what is kept for the backward pass and what it computes again.
"""

from pursuitnet.iterations.proximal import FISTA, ISTA, Solver, State, Update
from pursuitnet.iterations.unroll import unroll

__all__ = ["FISTA", "ISTA", "Solver", "State", "Update", "unroll"]
