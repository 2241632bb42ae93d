"""pursuitnet: every layer is a pursuit, chosen by its start, its dictionary and its number of steps.

    Γ ← P_θ( anchor − c · Dᵀ( D · probe − x ) )

The names below are loaded on first use, so that ``pursuitnet --help`` does not wait for PyTorch.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOME = {
    # factor 1: where the pursuit starts
    "Start": "starts",
    "zero": "starts",
    "resnet": "starts",
    "res_csc_simplified": "starts",
    "res_csc": "starts",
    # factor 2: the dictionary
    "Dictionary": "dictionaries",
    "LinearDictionary": "dictionaries",
    "ConvDictionary": "dictionaries",
    "CircularDictionary": "dictionaries",
    "WithIdentity": "dictionaries",
    # factor 3: how often, and with which momentum
    "Solver": "solvers",
    "ISTA": "solvers",
    "FISTA": "solvers",
    "Reduced": "solvers",
    "WorkingSet": "solvers",
    "OMP": "solvers",
    "solve": "solvers",
    "Solution": "solvers",
    "ConvergenceWarning": "solvers",
    "beta_max": "problems",
    # the operator P and the step c
    "soft_threshold": "thresholds",
    "nonnegative_threshold": "thresholds",
    "Threshold": "thresholds",
    "IdentityPenalty": "thresholds",
    "BatchNorm": "norms",
    "BoundedStep": "steps",
    "FreeStep": "steps",
    "AbsorbedStep": "steps",
    # the multi-layer model, solved
    "layered_thresholding": "layered",
    "layered_basis_pursuit": "layered",
    "multilayer_basis_pursuit": "layered",
    # the layer, the sweep over several layers, the networks
    "PursuitLayer": "layer",
    "MultiLayerPursuit": "multilayer",
    "Network": "networks",
    "create_model": "networks",
    "list_models": "networks",
    # the white box
    "inspect": "whitebox",
    "Inspection": "whitebox",
    # trained networks
    "load": "sharing",
    "Trained": "sharing",
    "trained": "sharing",
    # the program
    "Recipe": "recipe",
}
_MODULES = ("data", "train", "report", "theory")
__all__ = [*_HOME, *_MODULES]

if TYPE_CHECKING:
    from pursuitnet import data, report, theory, train
    from pursuitnet.dictionaries import CircularDictionary, ConvDictionary, Dictionary, LinearDictionary, WithIdentity
    from pursuitnet.layer import PursuitLayer
    from pursuitnet.layered import layered_basis_pursuit, layered_thresholding, multilayer_basis_pursuit
    from pursuitnet.multilayer import MultiLayerPursuit
    from pursuitnet.networks import Network, create_model, list_models
    from pursuitnet.norms import BatchNorm
    from pursuitnet.problems import beta_max
    from pursuitnet.recipe import Recipe
    from pursuitnet.sharing import Trained, load, trained
    from pursuitnet.solvers import (
        FISTA,
        ISTA,
        OMP,
        ConvergenceWarning,
        Reduced,
        Solution,
        Solver,
        WorkingSet,
        solve,
    )
    from pursuitnet.starts import Start, res_csc, res_csc_simplified, resnet, zero
    from pursuitnet.steps import AbsorbedStep, BoundedStep, FreeStep
    from pursuitnet.thresholds import IdentityPenalty, Threshold, nonnegative_threshold, soft_threshold
    from pursuitnet.whitebox import Inspection, inspect


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return importlib.import_module(f"pursuitnet.{name}")
    if name not in _HOME:
        raise AttributeError(f"pursuitnet has no name {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"pursuitnet.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
