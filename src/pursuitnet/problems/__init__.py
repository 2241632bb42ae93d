"""Problems solved to a certificate, not unrolled: (P1) in ``lasso``, (P0) by ``omp``, the multi-layer model.

``solve`` runs ISTA, FISTA, ``ADMM`` or ``WorkingSet`` in ``loop`` until the duality gap is small; ``ReducedSolver``
eliminates the identity part of [I D] first. ``learn`` optimizes the dictionary as well.
"""

from pursuitnet.problems.admm import ADMM
from pursuitnet.problems.iht import IHT
from pursuitnet.problems.lasso import beta_max
from pursuitnet.problems.learning import Learned, learn
from pursuitnet.problems.multilayer import layered_basis_pursuit, layered_thresholding, multilayer_basis_pursuit
from pursuitnet.problems.omp import OMP
from pursuitnet.problems.path import RegularizationPath, path
from pursuitnet.problems.solve import ConvergenceWarning, ReducedSolver, Solution, solve
from pursuitnet.problems.working_set import WorkingSet

__all__ = [
    "ADMM",
    "IHT",
    "OMP",
    "ConvergenceWarning",
    "Learned",
    "ReducedSolver",
    "RegularizationPath",
    "Solution",
    "WorkingSet",
    "beta_max",
    "layered_basis_pursuit",
    "layered_thresholding",
    "learn",
    "multilayer_basis_pursuit",
    "path",
    "solve",
]
