"""What dictionaries, layers and networks say to a wrong call, what they take, and how they show themselves."""

import numpy as np
import pytest
import torch
from PIL import Image

import pursuitnet as pn

WEIGHT = torch.randn(4, 1, 3, 3, generator=torch.Generator().manual_seed(0))


def conv(**options):
    return pn.ConvDictionary(WEIGHT.clone(), **options)


def layer(**options):
    return pn.PursuitLayer(conv(padding=1), **options)


def network():
    return pn.create_model("msdnet_3", in_chans=1, width=2)


PIXELS = np.zeros((1, 1, 6, 6), dtype=np.float32)
SIGNALS = {
    "array": (PIXELS, ["is an array of shape (1, 1, 6, 6)", "expected a tensor of floats", "torch.as_tensor"]),
    "list": ([[1.0, 2.0]], ["is a list;", "expected a tensor of floats", "torch.as_tensor"]),
    "image": (Image.new("L", (6, 6)), ["is an Image;", "PIL", "/ 255"]),
    "none": (None, ["None", "expected a tensor of floats"]),
    "integers": (torch.zeros(1, 1, 6, 6, dtype=torch.uint8), ["torch.uint8", ".float() / 255"]),
    "booleans": (torch.zeros(1, 1, 6, 6, dtype=torch.bool), ["torch.bool", ".float()"]),
    "double": (torch.zeros(1, 1, 6, 6).double(), ["torch.float64", "torch.float32", "signal.float()"]),
    "unbatched": (torch.zeros(1, 6, 6), ["(1, 6, 6)", "expects (B, 1, and 2 sizes)"]),
    "channels": (torch.zeros(1, 3, 6, 6), ["(1, 3, 6, 6)", "expects (B, 1, and 2 sizes)"]),
}
TAKERS = {
    "analyze": lambda x: conv(padding=1).analyze(x),
    "[I D]": lambda x: pn.WithIdentity(conv(padding=1)).analyze(x),
    "circular": lambda x: pn.CircularDictionary(WEIGHT).analyze(x),
    "layer": lambda x: layer()(x),
    "sweep": lambda x: pn.MultiLayerPursuit([layer()])(x),
    "network": lambda x: network()(x),
    "residual network": lambda x: pn.create_model("resnet_8", in_chans=1, width=2)(x),
}


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("signal", SIGNALS)
def test_a_wrong_signal_is_answered_with_what_came_and_what_was_expected(signal, taker):
    value, words = SIGNALS[signal]
    with pytest.raises((TypeError, ValueError)) as error:
        TAKERS[taker](value)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_integers_are_refused_under_autocast_too_and_other_floats_are_taken():
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(ValueError, match=r"torch\.int64; expected torch\.float32"):
            layer()(torch.zeros(1, 1, 6, 6, dtype=torch.long))
        assert layer()(torch.zeros(1, 1, 6, 6).bfloat16()).dtype == torch.bfloat16


CALLS = {
    "as nn.Conv2d": (lambda: pn.ConvDictionary(1, 16, 3, padding=1), ["weight is 1", "the atoms", "torch.randn(atoms"]),
    "as nn.Conv2d, by position": (lambda: pn.ConvDictionary(1, 16, 3, 1, 1), ["weight is 1", "the atoms themselves"]),
    "as nn.Linear": (lambda: pn.LinearDictionary(8, 20), ["weight is 8", "LinearDictionary(torch.randn(atoms"]),
    "circular": (lambda: pn.CircularDictionary(1, 16, 3), ["weight is 1", "CircularDictionary(torch.randn("]),
    "integer weight": (lambda: pn.LinearDictionary(torch.ones(2, 3, dtype=torch.long)), ["torch.int64", ".float()"]),
    "integer array": (lambda: pn.LinearDictionary(np.ones((2, 3), int)), ["torch.int64", ".float()"]),
    "stride in quotes": (lambda: conv(stride="22"), ["stride is '22'", "one integer ≥ 1"]),
    "image as weight": (
        lambda: pn.ConvDictionary(Image.new("L", (3, 3))),
        ["weight is an Image;", "(atoms, channels, *"],
    ),
    "string as weight": (lambda: pn.LinearDictionary("dct"), ["'dct'", "(atoms, features)"]),
    "array of strings": (
        lambda: pn.LinearDictionary(np.array([["a"]])),
        ["an array", "(atoms, features)"],
    ),
    "ragged list": (lambda: pn.LinearDictionary([[1.0], [1.0, 2.0]]), ["weight is a list;", "(atoms, features)"]),
    "shape of weight": (lambda: pn.LinearDictionary([1.0, 2.0]), ["(2,)", "(atoms, features)"]),
    "tensor in [I D]": (
        lambda: pn.WithIdentity(WEIGHT),
        ["dictionary is a tensor of", "expected a Dictionary"],
    ),
    "tensor in a layer": (
        lambda: pn.PursuitLayer(WEIGHT),
        ["dictionary is a tensor of", "ConvDictionary(weight)"],
    ),
    "class in a layer": (lambda: pn.PursuitLayer(pn.ConvDictionary), ["the class ConvDictionary", "(weight)"]),
    "start by name": (lambda: layer(start="resnet"), ["start is 'resnet'", "not a string"]),
    "solver as a class": (lambda: layer(solver=pn.FISTA), ["the class FISTA", "pursuitnet.FISTA()"]),
    "solver by name": (lambda: layer(solver="fista"), ["solver is 'fista'", "pursuitnet.FISTA()"]),
    "OMP": (lambda: layer(solver=pn.OMP(3)), ["OMP(nonzeros=3", "solve(signal", "ISTA()"]),
    "WorkingSet": (lambda: layer(solver=pn.WorkingSet()), ["WorkingSet(", "solve(signal", "ISTA()"]),
    "ReducedSolver": (lambda: layer(solver=pn.ReducedSolver()), ["ReducedSolver(", "solve(signal", "ISTA()"]),
    "solver of a sweep": (lambda: pn.MultiLayerPursuit([layer()], "fista"), ["'fista'", "pursuitnet.FISTA()"]),
    "step as a number": (lambda: layer(step=0.1), ["step is 0.1", "FreeStep(0.1)"]),
    "step as a class": (lambda: layer(step=pn.BoundedStep), ["the class BoundedStep", "BoundedStep()"]),
    "threshold as a number": (
        lambda: layer(threshold=0.1),
        ["threshold is 0.1", "Threshold(dictionary.code_channels, 0.1)"],
    ),
    "unfolding": (lambda: layer(unfolding="2"), ["unfolding is '2'", "an integer ≥ 0"]),
    "unfolding True": (lambda: layer(unfolding=True), ["unfolding is True", "an integer ≥ 0"]),
    "sweeps": (lambda: pn.MultiLayerPursuit([layer()], unfolding=1.0), ["unfolding is 1.0", "an integer ≥ 0"]),
    "one layer to sweep": (lambda: pn.MultiLayerPursuit(layer()), ["layers is a PursuitLayer", "[layer1, layer2]"]),
    "previous as an array": (
        lambda: layer(start=pn.resnet)(torch.zeros(1, 1, 6, 6), np.zeros((1, 4, 6, 6), "f")),
        ["previous is an array of shape (1, 4, 6, 6)", "torch.as_tensor"],
    ),
    "previous as a list": (
        lambda: layer(start=pn.res_csc)(torch.zeros(1, 1, 6, 6), [1.0]),
        ["previous is a list", "expected a tensor"],
    ),
    "code as an array": (
        lambda: conv(padding=1).synthesize(np.zeros((1, 4, 6, 6)), (1, 1, 6, 6)),
        ["the code is an array", "expected a tensor"],
    ),
    "one size for a shape": (
        lambda: layer().reconstruct(torch.zeros(1, 4, 6, 6), 6),
        ["signal_shape is 6", "signal.shape"],
    ),
    "rows as a number": (lambda: pn.Threshold(4, 0.1), ["code_channels is 4", "dictionary.code_channels"]),
    "rows of three parts": (lambda: pn.Threshold((1, 2, 3)), ["code_channels is (1, 2, 3)", "(atoms,)"]),
    "penalty in quotes": (lambda: pn.Threshold((4,), "0.1"), ["penalty is '0.1'", "a number"]),
    "penalty True": (lambda: pn.Threshold((4,), True), ["penalty is True", "a number"]),
    "identity by no name": (lambda: pn.Threshold((1, 4), 0.1, "mine"), ["identity is 'mine'", "'own', 'same', 'none'"]),
    "identity None": (lambda: pn.Threshold((1, 4), 0.1, None), ["identity is None", "'own', 'same', 'none'"]),
    "norm by name": (lambda: pn.Threshold((4,), norm="batch"), ["norm is 'batch'", "BatchNorm()"]),
    "norm as a class": (lambda: pn.Threshold((4,), norm=pn.BatchNorm), ["the class BatchNorm", "BatchNorm()"]),
    "norm on nothing": (lambda: pn.BatchNorm(on="code"), ["on is 'code'", "'sum', 'update'"]),
    "norm of an identity": (lambda: pn.BatchNorm(identity="rms"), ["identity is 'rms'", "'none', 'scale', 'batch'"]),
    "steps of a threshold": (lambda: pn.Threshold((4,), steps=0), ["steps is 0", "an integer ≥ 1"]),
    "ratio in quotes": (lambda: pn.BoundedStep("0.9"), ["ratio is '0.9'", "0 < ratio < 1"]),
    "free step in quotes": (lambda: pn.FreeStep("0.1"), ["c is '0.1'", "a number"]),
    "absorbed step in quotes": (lambda: pn.AbsorbedStep("0.1"), ["c is '0.1'", "a number"]),
    "classes": (lambda: pn.create_model("msdnet_3", num_classes="10"), ["num_classes is '10'", "an integer ≥ 0"]),
    "channels": (lambda: pn.create_model("msdnet_3", in_chans=1.0), ["in_chans is 1.0", "an integer ≥ 1"]),
    "width": (lambda: pn.create_model("msdnet_3", width="8"), ["width is '8'", "an integer ≥ 1"]),
    "steps": (lambda: pn.create_model("msd_csc_3", unfolding=1.5), ["unfolding is 1.5", "an integer ≥ 0"]),
    "model": (lambda: pn.create_model(3), ["name is 3", "a string"]),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_call_is_answered_with_what_came_and_what_was_expected(call):
    act, words = CALLS[call]
    with pytest.raises((TypeError, ValueError)) as error:
        act()
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize("value", [WEIGHT, PIXELS, None, "fista", [1.0], pn.FISTA, pn.ISTA(), Image.new("L", (2, 2))])
def test_a_layer_and_a_problem_call_what_came_by_the_same_words(value):
    said = []
    for call in (lambda: pn.PursuitLayer(value), lambda: pn.layered_thresholding(torch.zeros(1, 2), [value], [0.1])):
        with pytest.raises(TypeError) as error:
            call()
        said.append(str(error.value).split(" is ", 1)[1].partition("; expected")[0])
    assert said[0] == said[1]


@pytest.mark.parametrize("change", [np.asarray, lambda w: w[::-1], lambda w: w.astype(">f8"), lambda w: w.tolist()])
def test_arrays_and_lists_are_taken_as_weights_and_copied(change):
    array = np.arange(6.0).reshape(2, 3)
    given = change(array)
    dictionary = pn.LinearDictionary(given)
    assert dictionary.weight.tolist() == np.asarray(given).tolist()
    with torch.no_grad():
        dictionary.weight.zero_()
    assert array.any()


def test_the_penalty_on_an_identity_is_taken_by_its_name():
    for kind in pn.IdentityPenalty:
        named, meant = pn.Threshold((2, 3), 0.1, str(kind.value)), pn.Threshold((2, 3), 0.1, kind)
        assert named.identity is kind and named.state_dict().keys() == meant.state_dict().keys()
        parts = (torch.full((1, 2), -0.3), torch.full((1, 3), 0.3))
        assert all(torch.equal(*pair) for pair in zip(named(None, parts), meant(None, parts), strict=True))


def test_a_layer_shows_dictionary_start_solver_unfolding_and_threshold():
    dictionary = pn.WithIdentity(pn.ConvDictionary(torch.zeros(4, 3, 5, 5), padding=2))
    threshold = pn.Threshold(dictionary.code_channels, 0.25)
    shown = repr(pn.PursuitLayer(dictionary, solver=pn.FISTA(), unfolding=2, threshold=threshold))
    for words in (
        "start=zero, solver=FISTA(), unfolding=2",
        "ConvDictionary(3 → 4, kernel=(5, 5), stride=(1, 1), padding=(2, 2), dilation=(1, 1))",
        "code_channels=(3, 4), β=0.25…0.25, identity=own, nonnegative",
    ):
        assert words in shown
    assert "LinearDictionary(3 → 2)" in repr(pn.LinearDictionary(torch.zeros(2, 3)))
    assert "solver=ISTA(), unfolding=1" in repr(pn.MultiLayerPursuit([layer()], unfolding=1))
    assert "β=none" in repr(pn.Threshold((4,), None)) and "norm=BatchNorm(" in repr(
        pn.Threshold((4,), norm=pn.BatchNorm())
    )
