"""pursuitnet: every layer is a pursuit, defined by its start, its dictionary and its number of steps.

    Γ ← P_θ( anchor − c · Dᵀ( D · probe − x ) )

The names below are loaded on first use, so that ``pursuitnet --help`` does not wait for PyTorch.
"""

import importlib
from typing import TYPE_CHECKING

from pursuitnet.program.timm import register_on_import as _register_with_timm
from pursuitnet.utils.version import __version__ as __version__

_HOME = {
    # factor 1: where the pursuit starts
    **dict.fromkeys(("Start", "zero", "resnet", "res_csc_simplified", "res_csc", "LearnedStart"), "starts"),
    # factor 2: the dictionary
    **dict.fromkeys(("Dictionary", "LinearDictionary", "ConvDictionary", "CircularDictionary"), "dictionaries"),
    **dict.fromkeys(("ReflectingDictionary", "WithIdentity", "ScaledDictionary", "ComposedDictionary"), "dictionaries"),
    # factor 3: how many steps, and with which momentum
    **dict.fromkeys(("Solver", "ISTA", "FISTA"), "iterations"),
    # the operator P and the step c
    **dict.fromkeys(("soft_threshold", "nonnegative_threshold", "Threshold", "IdentityPenalty", "BatchNorm"), "prox"),
    **dict.fromkeys(("BoundedStep", "FreeStep", "AbsorbedStep"), "prox"),
    # the layer, the sweep over several layers, the networks
    "PursuitLayer": "layer",
    "MultiLayerPursuit": "multilayer",
    **dict.fromkeys(("Network", "apply", "certify", "create_model", "list_models"), "networks"),
    **dict.fromkeys(("load_msdnet", "load_resnet_checkpoint"), "networks"),
    # problems solved to a certificate
    **dict.fromkeys(("solve", "Solution", "ConvergenceWarning", "beta_max"), "problems"),
    **dict.fromkeys(("ReducedSolver", "WorkingSet", "ADMM", "OMP", "IHT", "path", "RegularizationPath"), "problems"),
    **dict.fromkeys(("layered_thresholding", "layered_basis_pursuit", "multilayer_basis_pursuit"), "problems"),
    **dict.fromkeys(("learn", "Learned"), "problems"),
    # the white box
    **dict.fromkeys(("inspect", "Inspection"), "program.whitebox"),
    # training, and trained networks
    "Recipe": "program.recipe",
    "train": "program.train",
    **dict.fromkeys(("load", "Trained", "trained"), "program.sharing"),
    # the process
    "keep_freed_memory": "utils.memory",
}
_MODULES = ("data", "theory")
__all__ = [*_HOME, *_MODULES]

if TYPE_CHECKING:
    from pursuitnet import data, theory
    from pursuitnet.dictionaries import (
        CircularDictionary,
        ComposedDictionary,
        ConvDictionary,
        Dictionary,
        LinearDictionary,
        ReflectingDictionary,
        ScaledDictionary,
        WithIdentity,
    )
    from pursuitnet.iterations import FISTA, ISTA, Solver
    from pursuitnet.layer import PursuitLayer
    from pursuitnet.multilayer import MultiLayerPursuit
    from pursuitnet.networks import (
        Network,
        apply,
        certify,
        create_model,
        list_models,
        load_msdnet,
        load_resnet_checkpoint,
    )
    from pursuitnet.problems import (
        ADMM,
        IHT,
        OMP,
        ConvergenceWarning,
        Learned,
        ReducedSolver,
        RegularizationPath,
        Solution,
        WorkingSet,
        beta_max,
        layered_basis_pursuit,
        layered_thresholding,
        learn,
        multilayer_basis_pursuit,
        path,
        solve,
    )
    from pursuitnet.program.recipe import Recipe
    from pursuitnet.program.sharing import Trained, load, trained
    from pursuitnet.program.train import train
    from pursuitnet.program.whitebox import Inspection, inspect
    from pursuitnet.prox import (
        AbsorbedStep,
        BatchNorm,
        BoundedStep,
        FreeStep,
        IdentityPenalty,
        Threshold,
        nonnegative_threshold,
        soft_threshold,
    )
    from pursuitnet.starts import LearnedStart, Start, res_csc, res_csc_simplified, resnet, zero
    from pursuitnet.utils.memory import keep_freed_memory


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return importlib.import_module(f"pursuitnet.{name}")
    if name not in _HOME:
        raise AttributeError(f"pursuitnet has no name {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"pursuitnet.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


_register_with_timm()
