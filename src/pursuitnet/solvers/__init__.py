"""Factor 3, how often the update is repeated and with which momentum; and solvers for whole problems.

``ISTA`` and ``FISTA`` are two functions, ``init`` and ``step``; a layer takes a few of their steps, ``solve`` as many
as a certificate needs. ``WorkingSet`` steps from one small problem to the next, ``Reduced`` takes the identity part out
of [I D] first, and ``OMP`` solves (P0).
"""

from pursuitnet.solvers.matching import OMP
from pursuitnet.solvers.proximal import FISTA, ISTA, Solver, State, Update
from pursuitnet.solvers.solve import ConvergenceWarning, Reduced, Solution, solve
from pursuitnet.solvers.unfolding import unroll
from pursuitnet.solvers.working_set import WorkingSet

__all__ = [
    "FISTA",
    "ISTA",
    "OMP",
    "ConvergenceWarning",
    "Reduced",
    "Solution",
    "Solver",
    "State",
    "Update",
    "WorkingSet",
    "solve",
    "unroll",
]
