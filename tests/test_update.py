"""The one update: what is computed in place, what a dictionary may return, and what is computed once."""

import itertools

import pytest
import torch
from makers import dictionary_of, normal
from torch.autograd import forward_ad

import pursuitnet as pn
from pursuitnet.problems.lasso import lasso
from pursuitnet.problems.multilayer import MultiLayerLasso
from pursuitnet.utils import inplace


class Same(pn.Dictionary):
    """D = I, which returns what it is handed."""

    def __init__(self):
        super().__init__()
        self.channels, self.code_channels, self.dims = 2, (2,), 2

    def analyze(self, signal):
        return signal

    def synthesize(self, code, signal_shape):
        return code

    def code_size(self, signal_shape):
        return tuple(signal_shape[2:])

    def lipschitz_bound(self):
        return torch.ones((), dtype=torch.float64)


class SameByMixin:
    def analyze(self, signal):
        return signal

    def synthesize(self, code, signal_shape):
        return code


class SameConv(SameByMixin, pn.ConvDictionary):
    """A convolution whose two directions are another class's."""


class View(Same):
    """Returns a view of what it is handed."""

    def analyze(self, signal):
        return signal.view_as(signal)

    def synthesize(self, code, signal_shape):
        return code.view(signal_shape)


class Kept(Same):
    """Returns a tensor of its own, the same one each time."""

    def __init__(self):
        super().__init__()
        self.register_buffer("zero", torch.zeros(2, 2, 3, 3, dtype=torch.float64))

    def analyze(self, signal):
        return self.zero

    def synthesize(self, code, signal_shape):
        return self.zero


def eye(scale=1.0):
    return scale * torch.eye(2, dtype=torch.float64).view(2, 2, 1, 1)


# name: (a dictionary whose results are not its own, the same with new results)
ALIASES = {
    "argument": (Same, lambda: pn.ConvDictionary(eye())),
    "argument, by a mixin": (lambda: SameConv(eye()), lambda: pn.ConvDictionary(eye())),
    "view": (View, lambda: pn.ConvDictionary(eye())),
    "kept": (Kept, lambda: pn.ConvDictionary(eye(0.0))),
    "[I I]": (lambda: pn.WithIdentity(Same()), lambda: pn.WithIdentity(pn.ConvDictionary(eye()))),
    "[I view]": (lambda: pn.WithIdentity(View()), lambda: pn.WithIdentity(pn.ConvDictionary(eye()))),
    "[I kept]": (lambda: pn.WithIdentity(Kept()), lambda: pn.WithIdentity(pn.ConvDictionary(eye(0.0)))),
    "[I [I I]]": (
        lambda: pn.WithIdentity(pn.WithIdentity(Same())),
        lambda: pn.WithIdentity(pn.WithIdentity(pn.ConvDictionary(eye()))),
    ),
}
STEPS = {"fixed": lambda: pn.FreeStep(0.3), "absorbed": lambda: pn.AbsorbedStep(-0.2), "none": pn.AbsorbedStep}
STARTS = [pn.zero, pn.resnet, pn.res_csc_simplified, pn.res_csc]


def layer_of(dictionary, start=pn.zero, step=STEPS["fixed"], solver=pn.ISTA(), unfolding=2, **threshold):  # noqa: B008
    P = pn.Threshold(dictionary.code_channels, 0.1, **threshold)
    return pn.PursuitLayer(dictionary, start, solver, unfolding, step=step(), threshold=P).double().eval()


@pytest.mark.parametrize(
    ("alias", "start", "step"),  # each step with each alias and with each start
    [(alias, start, list(STEPS)[(i + j) % 3]) for i, alias in enumerate(ALIASES) for j, start in enumerate(STARTS)],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_dictionary_may_return_what_is_not_its_own(alias, start, step):
    dictionary, plain = (make() for make in ALIASES[alias])
    x, previous = normal(2, 2, 3, 3), normal(2, sum(plain.code_channels), 3, 3, seed=1)
    kept = x.clone(), previous.clone()
    for solver, unfolding in itertools.product((pn.ISTA(), pn.FISTA()), (0, 1, 3)):
        layers = (layer_of(D, start, STEPS[step], solver, unfolding) for D in (dictionary, plain))
        given = (x, previous) if start.needs_previous else (x,)
        layer, expected = layers
        value = expected(*given).detach()
        torch.testing.assert_close(layer(*given).detach(), value, rtol=1e-13, atol=1e-13)
        with torch.no_grad():
            torch.testing.assert_close(layer(*given), value, rtol=1e-13, atol=1e-13)
        assert torch.equal(x, kept[0]) and torch.equal(previous, kept[1])
    assert not any(buffer.any() for buffer in dictionary.buffers())


@pytest.mark.parametrize("alias", ["argument", "view", "[I I]"])
def test_gradients_through_a_dictionary_that_returns_its_argument(alias):
    layer, expected = (layer_of(make()) for make in ALIASES[alias])
    found = []
    for one in (layer, expected):
        x = normal(2, 2, 3, 3).requires_grad_()
        (one(x) * normal(2, sum(one.dictionary.code_channels), 3, 3, seed=2)).sum().backward()
        found.append((x.grad, one.step.c.grad, one.threshold.atom_weight.grad))
    for mine, plain in zip(*found, strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("alias", ["argument", "[I I]", "kept"])
def test_solving_with_a_dictionary_that_returns_its_argument(alias):
    dictionary, plain = (make() for make in ALIASES[alias])
    x = normal(2, 2, 3, 3)
    kept = x.clone()
    codes = [pn.solve(x, D, 0.2, tol=1e-12).code.detach() for D in (dictionary, plain)]  # at steps of their own
    torch.testing.assert_close(*codes, rtol=1e-5, atol=1e-5)
    assert torch.equal(x, kept)


# in place and out of place


# name: (dictionary, signal shape of one example, code shape of one example)
DICTIONARIES = {
    "matrix": (lambda: dictionary_of("wide matrix", 0.25 * normal(7, 5)), (5,), (7,)),
    "conv": (lambda: dictionary_of("2-D / 2, padded", 0.2 * normal(3, 2, 4, 4)), (2, 5, 6), (3, 2, 3)),
    "[I conv]": (lambda: dictionary_of("[I 2-D]", 0.2 * normal(3, 2, 3, 3)), (2, 4, 5), (5, 4, 5)),
}
THRESHOLDS = {
    "penalty": {},
    "soft": {"nonnegative": False},
    "norm": {"norm": pn.BatchNorm(identity="scale")},
    "affine": {"norm": pn.BatchNorm("update", affine=True)},
}


@pytest.fixture
def out_of_place(monkeypatch):
    """Turns off all work in place, from the moment it is called."""

    def turn_off():
        for module in ("dictionaries.base", "dictionaries.identity", "prox.threshold", "iterations.update"):
            monkeypatch.setattr(f"pursuitnet.{module}.reusable", lambda *_: None)

    return turn_off


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("dictionary", DICTIONARIES)
def test_work_in_place_gives_the_same_bits(dictionary, step, threshold, out_of_place):
    make, signal, code = DICTIONARIES[dictionary]
    layer = layer_of(make(), pn.res_csc, STEPS[step], pn.FISTA(), 3, **THRESHOLDS[threshold])
    x, previous = normal(3, *signal, seed=1), normal(3, *code, seed=2)
    with_gradients = layer(x, previous).detach()
    with torch.no_grad():
        found = layer(x, previous)
        out_of_place()
        assert torch.equal(found, layer(x, previous))
    assert torch.equal(found, with_gradients)


@pytest.mark.parametrize(
    ("identity", "unfolding", "start"),
    [
        (identity, (i + j) % 2, start)
        for i, identity in enumerate(pn.IdentityPenalty)
        for j, start in enumerate((pn.zero, pn.res_csc))
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_gradients_are_those_of_the_update_for_every_penalty_of_the_identity_part(identity, unfolding, start):
    """The identity part of Dᵀr is r itself, which the gradient of the atoms still needs."""
    given = [normal(1, 1, 4, seed=1), normal(1, 3, 4, seed=2)][: 1 + start.needs_previous]
    inputs = [tensor.requires_grad_() for tensor in given]
    for norm in (None, pn.BatchNorm()):
        D = pn.WithIdentity(pn.ConvDictionary(0.2 * normal(2, 1, 3), padding=1))
        layer = layer_of(D, start, unfolding=unfolding, identity=identity, norm=norm)
        parameters = list(layer.parameters())
        assert torch.autograd.gradcheck(lambda *_, layer=layer: layer(*inputs), (*inputs, *parameters), fast_mode=True)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # of jvp itself
@pytest.mark.parametrize(
    ("dictionary", "step", "gradients"),
    [(D, step, bool((i + j) % 2)) for i, D in enumerate(DICTIONARIES) for j, step in enumerate(("fixed", "absorbed"))],
)
def test_transforms_of_one_argument_alone_are_those_of_the_plain_form(dictionary, step, gradients):
    make, signal, code = DICTIONARIES[dictionary]
    layer = layer_of(make(), pn.res_csc, STEPS[step], pn.FISTA(), 3)
    at = {"x": normal(3, *signal, seed=1), "previous": normal(3, *code, seed=2), **dict(layer.named_parameters())}

    def run(name, value):
        given = {**at, name: value}
        return torch.func.functional_call(layer, given, (given.pop("x"), given.pop("previous")))

    for name, value in at.items():
        value, along = value.detach(), normal(*value.shape, seed=3).cos()
        pair = torch.stack([value, value + 0.1 * along])
        with torch.set_grad_enabled(gradients):
            batched = torch.vmap(lambda v, name=name: run(name, v))(pair)
            for i in range(2):
                torch.testing.assert_close(batched[i], run(name, pair[i]), rtol=1e-12, atol=1e-13)
            plain = run(name, value)
            found, tangent = torch.func.jvp(lambda v, name=name: run(name, v), (value,), (along,))
            with forward_ad.dual_level():
                dual = forward_ad.unpack_dual(run(name, forward_ad.make_dual(value, along)))
        for primal in (found, dual.primal):
            torch.testing.assert_close(primal, plain, rtol=1e-12, atol=1e-13)
        h = 1e-6
        with torch.no_grad():
            slope = (run(name, value + h * along) - run(name, value - h * along)) / (2 * h)
        for one in (tangent, dual.tangent):
            torch.testing.assert_close(one, slope, rtol=1e-5, atol=1e-7)


def test_a_place_is_used_again_only_where_nobody_looks_and_the_result_fits():
    z = torch.zeros(2, 3)
    assert inplace.reusable(z) is None
    with torch.no_grad():
        assert inplace.reusable(z) is z and inplace.reusable(z, torch.ones(2, 3)) is z
        assert inplace.reusable(z, torch.ones(2, 3).double()) is None
        assert inplace.reusable(z, torch.ones(4, 2, 3)) is None
        torch.vmap(lambda row: row if inplace.reusable(row) is None else pytest.fail("in place"))(z)
        with forward_ad.dual_level():
            assert inplace.reusable(z) is None


# once


def counted(monkeypatch, *names):
    """Count the calls of methods of ConvDictionary."""
    counts = dict.fromkeys(names, 0)

    def counting(name, method):
        def count(self, *given):
            counts[name] += 1
            return method(self, *given)

        return count

    for name in names:
        monkeypatch.setattr(pn.ConvDictionary, name, counting(name, getattr(pn.ConvDictionary, name)))
    return counts


@pytest.mark.parametrize("dictionary", ["conv", "[I conv]"])
def test_shapes_are_checked_once_where_a_signal_enters(dictionary, monkeypatch):
    make, signal, _ = DICTIONARIES[dictionary]
    layers = [layer_of(make(), unfolding=unfolding) for unfolding in (0, 5)]
    layers.append(pn.MultiLayerPursuit([layer_of(make(), unfolding=0)], unfolding=5).double())
    for layer in layers:
        counts = counted(monkeypatch, "check_signal", "check_code", "code_size")
        layer(normal(2, *signal))
        assert counts == {"check_signal": 1, "check_code": 0, "code_size": 1}
        monkeypatch.undo()


def test_a_sweep_analyzes_once_in_a_layer_and_gives_what_each_threshold_took_away(monkeypatch):
    x = normal(2, 1, 6, 6)
    dictionaries = [
        pn.ConvDictionary(normal(4, 1, 3, 3, seed=1) / 3, padding=1),
        pn.WithIdentity(pn.ConvDictionary(normal(3, 4, 3, 3, seed=3) / 5, padding=1)),
    ]
    with torch.no_grad():
        layers = [lasso(x, dictionaries[0], 0.1), lasso(torch.zeros(2, 4, 6, 6).double(), dictionaries[1], 0.05)]
        problem = MultiLayerLasso(x, tuple(layers))
        probe = dictionaries[1].split(normal(2, 7, 6, 6, seed=4))
        counts = counted(monkeypatch, "_correlate", "_superpose")
        code, duals = problem.sweep(probe)
        assert counts == {"_correlate": 2, "_superpose": 3}  # one more model on the way down
        signal, at = x, problem.descend(probe)
        for layer, before, dual in zip(layers, at, duals, strict=True):
            D = layer.dictionary
            ahead = D.analyze_parts(layer.step * (signal - D.synthesize_parts(before, signal.shape)))
            z = tuple(p + a for p, a in zip(before, ahead, strict=True))
            new = tuple(pn.soft_threshold(part, layer.step * b) for part, b in zip(z, layer.beta, strict=True))
            for part, took, kept in zip(z, dual, new, strict=True):
                assert torch.equal(took, (part - kept) / layer.step)
            signal = D.join(new)
        assert torch.equal(dictionaries[1].join(code), signal)
