"""The shapes in signatures are those that come and go: jaxtyping's annotations of the core, checked in every call.

Only here: elsewhere wrong shapes are to reach the library's own sentences.
"""

import functools
import importlib
import inspect
import pkgutil
import sys
import typing
from types import FunctionType

import jaxtyping
import pytest
import torch
from makers import DICTIONARIES, normal

import pursuitnet as pn
from pursuitnet import theory
from pursuitnet.dictionaries.fourier import FourierDictionary
from pursuitnet.dictionaries.sparse import Columns
from pursuitnet.problems.learning.start import from_patches

THREE = ("analyze", "synthesize", "lipschitz_bound")  # that every dictionary has to write
NAMES = [
    m.name for m in pkgutil.walk_packages(pn.__path__, "pursuitnet.") if not m.name.startswith("pursuitnet.program")
]
MODULES = [importlib.import_module(name) for name in NAMES if not name.endswith("__main__")]


def has_shape(hint):
    return (isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)) or any(
        map(has_shape, typing.get_args(hint))
    )


def functions():
    """(owner, name, function) of every function and method of the core whose annotations say a shape."""
    for module in MODULES:
        owners = [
            module,
            *(o for o in vars(module).values() if isinstance(o, type) and o.__module__ == module.__name__),
        ]
        for owner in owners:
            for name, function in vars(owner).items():
                own = isinstance(function, FunctionType) and function.__module__ == module.__name__
                if own and any(map(has_shape, function.__annotations__.values())):
                    yield owner, name, function


def check(hint, value, where):
    """Hold a value against what of an annotation says a shape; sizes keep their names within a call."""
    parts = typing.get_args(hint)
    if has_shape(hint) and not parts:
        assert isinstance(value, hint), f"{where}: {tuple(value.shape)} is no {hint}"
    elif typing.get_origin(hint) is tuple and Ellipsis not in parts:
        for part, one in zip(parts, value, strict=True):
            check(part, one, where)
    elif value is not None and len(shaped := [part for part in parts if has_shape(part)]) == 1:
        check(shaped[0], value, where)  # or None


@pytest.fixture
def uncalled(monkeypatch):
    """Check the shapes of every call from here on; the names of the functions that have not been called yet."""
    left = set()

    def checked(function):
        signature, name = inspect.signature(function), f"{function.__module__}.{function.__qualname__}"
        left.add(name)

        @functools.wraps(function)
        def call(*given, **options):
            left.discard(name)
            with jaxtyping.jaxtyped("context"):
                for argument, value in signature.bind(*given, **options).arguments.items():
                    check(signature.parameters[argument].annotation, value, f"{name}({argument})")
                result = function(*given, **options)
                check(signature.return_annotation, result, name)
            return result

        return call

    places = {id(m): m for n, m in sys.modules.items() if n.startswith("pursuitnet")}
    for owner, name, function in list(functions()):
        new = checked(function)
        for place in {**places, id(owner): owner}.values():
            if vars(place).get(name) is function:
                monkeypatch.setattr(place, name, new)
    assert len(left) > 30
    return left


class Own(pn.Dictionary):
    """A dictionary of one's own, which leaves the rest to its base."""

    def __init__(self, weight):
        super().__init__()
        self.register_buffer("weight", weight)
        self.code_channels, self.channels = (len(weight),), weight.shape[1]

    def analyze(self, signal):
        return signal @ self.weight.mT

    def synthesize(self, code, signal_shape=None):
        return code @ self.weight

    def lipschitz_bound(self):
        return torch.linalg.matrix_norm(self.weight, 2) ** 2


def call_the_dictionary(D, shape):
    x = normal(2, *shape, seed=1)
    code = normal(*D.analyze(x).shape, seed=2)
    assert D.synthesize(code, x.shape).shape == x.shape
    (
        D.matrix(shape),
        D.columns(torch.tensor([0, 1]), shape),
        D.atom_norms(shape),
        D.lipschitz(shape),
        D.lipschitz_bound(),
    )
    return x, code


def call_the_theory(D, x, code):
    theory.stripe_norm(code, D)
    theory.certified_unique(code, theory.mutual_coherence(D, x.shape))
    theory.unsuccessful(x, D.synthesize(code, x.shape).detach(), 0.1)
    theory.with_identity_spectrum(D.matrix(x.shape))
    theory.layered_error_bound(0.1, [1, torch.tensor([1, 2])], [0.1, 0.2])
    if getattr(D, "keeps_size", D.dims == 0) and len(D.code_channels) == 1:
        theory.better_code(x, code, D, 0.1)


def call_the_solvers(D, x):
    beta = 0.3 * pn.beta_max(x, D)
    solvers = [
        pn.ISTA(),
        pn.FISTA(),
        pn.WorkingSet(),
        pn.OMP(2),
        *([pn.ADMM()] if type(D) in (pn.LinearDictionary, pn.CircularDictionary) else []),
        *([pn.ReducedSolver()] if len(D.code_channels) == 2 else []),
    ]
    for solver in solvers:
        found = pn.solve(x, D, beta, solver, max_steps=4, tol=0.0, trace=not isinstance(solver, pn.OMP))
        for name, hint in typing.get_type_hints(pn.Solution).items():
            if has_shape(hint) and (value := getattr(found, name)) is not None:
                assert isinstance(value, typing.get_args(hint)[:1] or hint), (name, value)
    regularization = pn.path(x, D, n_betas=2, ridge=0.1, max_steps=4, tol=0.0)
    for name in ("codes", "gaps", "nonzeros"):
        hint = typing.get_type_hints(getattr(pn.RegularizationPath, name).fget)["return"]
        assert isinstance(getattr(regularization, name), hint), name
    theory.encoder_gap(x, found.code.detach(), D, float(beta.max()), 1)
    pn.solve(x, D.requires_grad_(), 0.0 * beta, max_steps=4, tol=0.0, gradient="implicit")  # least squares


def call_learning():
    images, D = normal(4, 1, 6, 6), pn.ConvDictionary(normal(3, 1, 3, 3), padding=1)
    for mask in (None, torch.rand(4, 1, 6, 6) > 0.2, torch.rand(1, 1, 6, 6) > 0.2):
        for online in (False, True):
            pn.learn(images, D, 0.3, mask=mask, online=online, max_iterations=2)
    pn.learn(normal(20, 8), pn.LinearDictionary(normal(5, 8)), 0.3, max_iterations=2)
    from_patches([images], D, 3)
    flat = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)  # the second atom is in no image
    used = torch.cat([normal(20, 3, seed=1), torch.zeros(20, 1)], 1).double()
    pn.learn(used, pn.LinearDictionary(flat), 0.05, max_iterations=8)


@pytest.mark.filterwarnings("ignore::pursuitnet.ConvergenceWarning")  # stopped early on purpose
def test_every_annotated_shape_of_the_core_is_that_of_every_dictionary(uncalled):
    for name, (kind, shapes) in DICTIONARIES.items():
        D, shape = kind.make(), shapes[0]
        x, code = call_the_dictionary(D, shape)
        call_the_theory(D, x, code)
        if isinstance(D, pn.ConvDictionary):
            call_the_dictionary(FourierDictionary(D, shape[1:]), shape)
        if name in ("wide matrix", "1-D / 2, dilated", "2-D circular", "[I 2-D]"):
            call_the_solvers(D, x)
    x, layers = (
        normal(2, 1, 4, 4),
        [pn.ConvDictionary(normal(3, 1, 3, 3), padding=1), pn.ConvDictionary(normal(2, 3, 1, 1))],
    )
    pn.layered_thresholding(x, layers, [0.1, 0.1])
    pn.layered_basis_pursuit(x, layers, [1.0, 0.5], max_steps=4)
    pn.multilayer_basis_pursuit(x, layers, [1.0, 0.5], max_steps=2)
    call_learning()
    pn.certify(pn.create_model("certified_3", num_classes=2, in_chans=1, width=4).eval(), torch.rand(2, 1, 8, 8))
    own = Own(normal(4, 5))
    call_the_dictionary(own, (5,))
    some = Columns(*own.columns(torch.tensor([0, 2]), (5,)), 5)
    assert torch.equal(some.matrix(), own.matrix()[:, [0, 2]])
    assert some.lipschitz_bound() == pytest.approx(float(torch.linalg.matrix_norm(own.weight[[0, 2]], 2) ** 2))
    assert uncalled == {f"pursuitnet.dictionaries.base.Dictionary.{name}" for name in THREE}


def test_a_wrong_shape_is_noticed(uncalled, monkeypatch):
    monkeypatch.setattr(pn.ConvDictionary, "_correlate", lambda self, signal, weight: signal.new_zeros(3, 3, 2))
    with pytest.raises(AssertionError, match=r"ConvDictionary.analyze: \(3, 3, 2\) is no .*Float"):
        pn.ConvDictionary(normal(3, 2, 3), padding=1).analyze(normal(2, 2, 5))
