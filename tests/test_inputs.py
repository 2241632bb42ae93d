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
    "array": (PIXELS, ["type ndarray", "expected a tensor of floats", "torch.as_tensor"]),
    "list": ([[1.0, 2.0]], ["type list", "expected a tensor of floats", "torch.as_tensor"]),
    "image": (Image.new("L", (6, 6)), ["type Image", "PIL", "/ 255"]),
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
    "image as weight": (
        lambda: pn.ConvDictionary(Image.new("L", (3, 3))),
        ["type Image", "(atoms, channels, *"],
    ),
    "string as weight": (lambda: pn.LinearDictionary("dct"), ["'dct'", "(atoms, features)"]),
    "array of strings": (lambda: pn.LinearDictionary(np.array([["a"]])), ["type ndarray", "(atoms, features)"]),
    "ragged list": (lambda: pn.LinearDictionary([[1.0], [1.0, 2.0]]), ["type list", "(atoms, features)"]),
    "shape of weight": (lambda: pn.LinearDictionary([1.0, 2.0]), ["(2,)", "(atoms, features)"]),
    "tensor in [I D]": (lambda: pn.WithIdentity(WEIGHT), ["dictionary is of type Tensor", "expected a Dictionary"]),
    "tensor in a layer": (lambda: pn.PursuitLayer(WEIGHT), ["dictionary is of type Tensor", "ConvDictionary(weight)"]),
    "class in a layer": (lambda: pn.PursuitLayer(pn.ConvDictionary), ["the class ConvDictionary", "(weight)"]),
    "start by name": (lambda: layer(start="resnet"), ["start is 'resnet'", "no string"]),
    "solver as a class": (lambda: layer(solver=pn.FISTA), ["the class FISTA", "pursuitnet.FISTA()"]),
    "solver by name": (lambda: layer(solver="fista"), ["solver is 'fista'", "pursuitnet.FISTA()"]),
    "no solver": (lambda: layer(solver=None), ["solver is None", "pursuitnet.FISTA()"]),
    "OMP": (lambda: layer(solver=pn.OMP(3)), ["OMP(nonzeros=3", "solve(signal", "ISTA()"]),
    "WorkingSet": (lambda: layer(solver=pn.WorkingSet()), ["WorkingSet(", "solve(signal", "ISTA()"]),
    "Reduced": (lambda: layer(solver=pn.Reduced()), ["Reduced(", "solve(signal", "ISTA()"]),
    "solver of a sweep": (lambda: pn.MultiLayerPursuit([layer()], "fista"), ["'fista'", "pursuitnet.FISTA()"]),
    "step as a number": (lambda: layer(step=0.1), ["step is 0.1", "FreeStep(0.1)"]),
    "step as a class": (lambda: layer(step=pn.BoundedStep), ["the class BoundedStep", "BoundedStep()"]),
    "threshold as a number": (lambda: layer(threshold=0.1), ["threshold is 0.1", "Threshold(dictionary.rows, 0.1)"]),
    "unfolding": (lambda: layer(unfolding="2"), ["unfolding is 2", "an integer ≥ 0"]),
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


@pytest.mark.parametrize("change", [np.asarray, lambda w: w[::-1], lambda w: w.astype(">f8"), lambda w: w.tolist()])
def test_arrays_and_lists_are_taken_as_weights_and_copied(change):
    array = np.arange(6.0).reshape(2, 3)
    given = change(array)
    dictionary = pn.LinearDictionary(given)
    assert dictionary.weight.tolist() == np.asarray(given).tolist()
    with torch.no_grad():
        dictionary.weight.zero_()
    assert array.any()


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
