"""What a wrong call of the solvers and of the theory is told: what came, what was expected, what to do.

And what is no wrong call: arrays and lists, other memory formats, another default device.
"""

import numpy as np
import pytest
import torch
from makers import normal
from PIL import Image
from sklearn.linear_model import lars_path

import pursuitnet as pn
from pursuitnet import theory

SOLVERS = {
    "ISTA": pn.ISTA(),
    "FISTA": pn.FISTA(),
    "WorkingSet": pn.WorkingSet(),
    "OMP": pn.OMP(3),
}


def conv(**options):
    return pn.ConvDictionary(normal(3, 1, 3, 3), **{"padding": 1, **options})


X, V = normal(2, 1, 6, 6, seed=1), normal(2, 12, seed=1)
D, M = conv(), pn.LinearDictionary(normal(20, 12))
CODE = D.analyze(X).detach()

# what is done, the error, and what the message has to say
WRONG = {
    # the two first arguments
    "swapped": (lambda: pn.solve(D, X, 0.1), TypeError, ["the signal is a ConvDictionary", "swap"]),
    "swapped, matrix": (
        lambda: pn.solve(M, V, 0.1),
        TypeError,
        ["the signal is a LinearDictionary", "(2, 12)", "swap"],
    ),
    "weight for a dictionary": (lambda: pn.solve(V, normal(20, 12), 0.1), TypeError, ["(20, 12)", "LinearDictionary("]),
    "class for a dictionary": (lambda: pn.solve(V, pn.LinearDictionary, 0.1), TypeError, ["the class", "(weight)"]),
    "nothing for a dictionary": (lambda: pn.solve(V, None, 0.1), TypeError, ["dictionary is None", "ConvDictionary("]),
    "text for a signal": (lambda: pn.solve("x.png", D, 0.1), TypeError, ["the signal is 'x.png'", "a tensor"]),
    "nothing for a signal": (lambda: pn.solve(None, D, 0.1), TypeError, ["the signal is None", "a tensor"]),
    "ragged lists": (lambda: pn.solve([[1.0], [1.0, 2.0]], M, 0.1), TypeError, ["the signal is a list", "numbers"]),
    "objects": (
        lambda: pn.solve(np.array([["a"]]), M, 0.1),
        TypeError,
        ["the signal is an array", "numbers"],
    ),
    # number types
    "bytes": (lambda: pn.solve(X.to(torch.uint8), D, 0.1), ValueError, ["uint8", "float64", ".double()"]),
    "integers in a list": (lambda: pn.solve([[1] * 12], M, 0.1), ValueError, ["int64", ".double()"]),
    "float32 signal": (lambda: pn.solve(X.float(), D, 0.1), ValueError, ["float32", "float64", "signal.double()"]),
    "float32 dictionary": (
        lambda: pn.solve(X.numpy(), conv().float(), 0.1),
        ValueError,
        ["float64", "float32", "signal.float()"],
    ),
    "half": (lambda: pn.solve(X.half(), conv().half(), 0.1), ValueError, ["float16", "signal.float()"]),
    "bfloat16": (
        lambda: pn.solve(X.bfloat16(), conv().bfloat16(), 0.1),
        ValueError,
        ["bfloat16", "dictionary.float()"],
    ),
    "layered, half": (
        lambda: pn.layered_basis_pursuit(X.half(), [conv().half()], [0.1]),
        ValueError,
        ["float16", "signal.float()"],
    ),
    "multi-layer, bfloat16": (
        lambda: pn.multilayer_basis_pursuit(X.bfloat16(), [conv().bfloat16()], [0.1]),
        ValueError,
        ["bfloat16", "signal.float()"],
    ),
    # β
    "no beta": (lambda: pn.solve(X, D), TypeError, ["beta is missing", "beta_max", "0 for least squares"]),
    "beta in quotes": (lambda: pn.solve(X, D, "0.1"), TypeError, ["beta is '0.1'", "a number"]),
    "beta of a list of text": (lambda: pn.solve(X, D, ["a"]), TypeError, ["beta is a list", "numbers"]),
    "beta True": (lambda: pn.solve(X, D, True), TypeError, ["beta is True", "a number"]),
    "beta a solver": (lambda: pn.solve(X, D, pn.FISTA()), TypeError, ["beta is a FISTA", "numbers"]),
    # solvers
    "class for a solver": (lambda: pn.solve(X, D, 0.1, pn.FISTA), TypeError, ["the class FISTA", "FISTA()"]),
    "class OMP": (lambda: pn.solve(X, D, 0.1, pn.OMP), TypeError, ["the class OMP", "OMP()"]),
    "solver by name": (lambda: pn.solve(X, D, 0.1, "fista"), TypeError, ["'fista'", "pn.FISTA()"]),
    "solver by name, two words": (lambda: pn.solve(X, D, 0.1, "working_set"), TypeError, ["pn.WorkingSet()"]),
    "solver by no name": (lambda: pn.solve(X, D, 0.1, "adam"), TypeError, ["'adam'", "object"]),
    "no solver": (lambda: pn.solve(X, D, 0.1, None), TypeError, ["solver is None", "FISTA()"]),
    "True for a solver": (lambda: pn.solve(X, D, 0.1, True), TypeError, ["solver is True", "FISTA()"]),
    "class in ReducedSolver": (lambda: pn.ReducedSolver(pn.FISTA), TypeError, ["the class FISTA", "FISTA()"]),
    "text in ReducedSolver": (lambda: pn.ReducedSolver("fista"), TypeError, ["'fista'", "FISTA()"]),
    "working sets of text": (lambda: pn.WorkingSet(least="8"), ValueError, ["least is '8'", "≥ 0"]),
    "working sets, accuracy": (lambda: pn.WorkingSet(accuracy=1.5), ValueError, ["accuracy is 1.5", "between 0 and 1"]),
    "working sets, steps": (lambda: pn.WorkingSet(max_steps=0), ValueError, ["max_steps is 0", "≥ 1"]),
    "OMP of text": (lambda: pn.OMP("5"), ValueError, ["nonzeros is '5'", "integer ≥ 1"]),
    "OMP, residual of text": (lambda: pn.OMP(residual="0.1"), ValueError, ["residual is '0.1'", "≥ 0"]),
    "multi-layer, class": (
        lambda: pn.multilayer_basis_pursuit(X, [D], [0.1], pn.ISTA),
        TypeError,
        ["the class ISTA", "ISTA()"],
    ),
    "multi-layer, OMP": (
        lambda: pn.multilayer_basis_pursuit(X, [D], [0.1], pn.OMP(3)),
        ValueError,
        ["OMP(", "ISTA() or FISTA()"],
    ),
    "multi-layer, WorkingSet": (
        lambda: pn.multilayer_basis_pursuit(X, [D], [0.1], pn.WorkingSet()),
        ValueError,
        ["WorkingSet(", "ISTA() or FISTA()"],
    ),
    # the other options
    "tol in quotes": (lambda: pn.solve(X, D, 0.1, tol="1e-3"), TypeError, ["tol is '1e-3'", "a number"]),
    "max_steps True": (lambda: pn.solve(X, D, 0.1, max_steps=True), ValueError, ["max_steps is True", "integer"]),
    "max_steps in quotes": (lambda: pn.solve(X, D, 0.1, max_steps="9"), ValueError, ["max_steps is '9'", "integer"]),
    "nonnegative a number": (lambda: pn.solve(X, D, 0.1, nonnegative=0.5), TypeError, ["0.5", "True or False"]),
    "start of text": (lambda: pn.solve(X, D, 0.1, start="zero"), TypeError, ["start is 'zero'", "a tensor"]),
    # the layered model
    "one beta": (lambda: pn.layered_basis_pursuit(X, [D], 0.5), TypeError, ["betas is 0.5", "[0.1, 0.1]"]),
    "one beta, a tensor": (
        lambda: pn.layered_basis_pursuit(X, [D], torch.tensor(0.5)),
        TypeError,
        ["betas is a tensor"],
    ),
    "one dictionary": (lambda: pn.layered_basis_pursuit(X, D, [0.5]), TypeError, ["a ConvDictionary", "[D1, D2]"]),
    "thresholds": (lambda: pn.layered_thresholding(X, [D], 0.5), TypeError, ["thresholds is 0.5", "[0.1, 0.1]"]),
    "all layers": (lambda: pn.multilayer_basis_pursuit(X, [D], 0.5), TypeError, ["betas is 0.5"]),
    "layered, swapped": (lambda: pn.layered_basis_pursuit([D], X, [0.5]), TypeError, ["dictionaries is a tensor"]),
    "weights for dictionaries": (
        lambda: pn.layered_basis_pursuit(V, [normal(20, 12)], [0.5]),
        TypeError,
        ["dictionary 1 is a tensor of shape (20, 12)", "LinearDictionary("],
    ),
    "no betas": (lambda: pn.layered_basis_pursuit(X, [D], [None]), TypeError, ["beta is missing"]),
    # beta_max
    "beta_max, swapped": (lambda: pn.beta_max(D, X), TypeError, ["the signal is a ConvDictionary", "swap"]),
    "beta_max, shape": (lambda: pn.beta_max(X[0], D), ValueError, ["(1, 6, 6)", "(B, 1, and 2 sizes)"]),
    "beta_max, type": (lambda: pn.beta_max(X.float(), D), ValueError, ["float32", "float64"]),
    "beta_max, NaN": (lambda: pn.beta_max(X * torch.nan, D), ValueError, ["the signal holds NaN", "finite"]),
    "beta_max, image": (
        lambda: pn.beta_max(Image.new("L", (6, 6)), D),
        TypeError,
        ["the signal is an Image", "for a PIL image", "/ 255"],
    ),
    # the operators and the other problems
    "soft threshold, text": (lambda: pn.soft_threshold(X, "0.1"), TypeError, ["theta is '0.1'", "numbers"]),
    "threshold, image": (
        lambda: pn.nonnegative_threshold(Image.new("L", (6, 6)), 0.1),
        TypeError,
        ["z is an Image", "numbers"],
    ),
    "learn, file": (lambda: pn.learn("a.png", D, 0.1), TypeError, ["images is 'a.png'", "a tensor (N, channels, …)"]),
    "learn, bytes": (lambda: pn.learn(X.to(torch.uint8), D, 0.1), ValueError, ["uint8", ".double() / 255"]),
    "certify, array": (
        lambda: pn.certify(pn.create_model("certified_6", in_chans=1, width=4), X.numpy()),
        TypeError,
        ["the images are an array of shape (2, 1, 6, 6)", "a tensor of floats"],
    ),
    "certify, swapped": (lambda: pn.certify(X, D), TypeError, ["model is a tensor of shape", "certified_6"]),
    "apply, swapped": (lambda: pn.apply(X, D), TypeError, ["model is a tensor of shape", "task='image'"]),
    "inspect, swapped": (lambda: pn.inspect(X, D), ValueError, ["the model is a tensor of shape", "torch.nn.Module"]),
    "trained, a number": (lambda: pn.trained(3), TypeError, ["the path is 3", "a string or a Path"]),
    "load, nothing": (lambda: pn.load(None), TypeError, ["the path is None", "a string or a Path"]),
    "norms, one size": (lambda: D.atom_norms(6), TypeError, ["signal_shape is 6", "signal.shape"]),
    # the theory
    "coherence, one size": (lambda: theory.mutual_coherence(D, 6), TypeError, ["signal_shape is 6", "signal.shape"]),
    "stripe, swapped": (lambda: theory.stripe_norm(D, CODE), TypeError, ["the code is a ConvDictionary", "swap"]),
    "stripe, weight": (
        lambda: theory.stripe_norm(CODE, D.weight),
        TypeError,
        ["the dictionary is a tensor", "(3, 1, 3, 3)"],
    ),
    "stripe, text": (lambda: theory.stripe_norm("code", D), TypeError, ["the code is 'code'"]),
    "coherence, weight": (lambda: theory.mutual_coherence(D.weight), TypeError, ["the dictionary is a tensor"]),
    "coherence, array": (
        lambda: theory.mutual_coherence(np.eye(3)),
        TypeError,
        ["the dictionary is an array of"],
    ),
    "coherence, class": (lambda: theory.mutual_coherence(pn.ConvDictionary), TypeError, ["the class ConvDictionary"]),
    "interval, weight": (lambda: theory.lipschitz_interval(M.weight), TypeError, ["the dictionary is a tensor"]),
    "interval, steps": (lambda: theory.lipschitz_interval(M, steps=2.5), ValueError, ["steps is 2.5"]),
    "spectrum, dictionary": (lambda: theory.with_identity_spectrum(M), TypeError, ["A is a LinearDictionary"]),
    "uniqueness, text": (lambda: theory.uniqueness_bound("0.5"), TypeError, ["μ is '0.5'", "mutual_coherence"]),
    "uniqueness, dictionary": (
        lambda: theory.uniqueness_bound(D),
        TypeError,
        ["μ is a ConvDictionary", "mutual_coherence"],
    ),
    "certified, dictionary": (lambda: theory.certified_unique(CODE, D), TypeError, ["μ is a ConvDictionary"]),
    "certified, text": (lambda: theory.certified_unique("code", 0.5), TypeError, ["the code is 'code'"]),
    "bound, one norm": (lambda: theory.layered_error_bound(0.1, 3, [0.1]), TypeError, ["stripe_norms is 3", "[3, 2]"]),
    "bound, one mu": (lambda: theory.layered_error_bound(0.1, [3], 0.1), TypeError, ["coherences is 0.1"]),
    "bound, noise": (lambda: theory.layered_error_bound("0.1", [3], [0.1]), TypeError, ["noise is '0.1'"]),
    "bias, text": (lambda: theory.beta_of_bias("0.1", 2.0), TypeError, ["b is '0.1'"]),
    "beta, nothing": (lambda: theory.bias_of_beta(None, 2.0), TypeError, ["β is None"]),
    "lipschitz, dictionary": (lambda: theory.beta_of_bias(0.1, M), TypeError, ["lipschitz is a LinearDictionary"]),
    "unsuccessful, dictionary": (lambda: theory.unsuccessful(X, D, 0.1), TypeError, ["the reconstruction is a Conv"]),
    "unsuccessful, beta": (lambda: theory.unsuccessful(X, X, "0.1"), TypeError, ["β is '0.1'"]),
    "better, swapped": (
        lambda: theory.better_code(X, D, CODE, 0.1),
        TypeError,
        ["the code is a ConvDictionary", "swap"],
    ),
    "better, weight": (lambda: theory.better_code(X, CODE, D.weight, 0.1), TypeError, ["the dictionary is a tensor"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_call_is_told_what_came_and_what_was_expected(case):
    action, kind, words = WRONG[case]
    with pytest.raises(kind) as caught:
        action()
    told = str(caught.value)
    assert type(caught.value) is kind and "\n" not in told
    for word in words:
        assert word in told, told


# ---------------------------------------------------------------------------------------------------------------------
# What is taken


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("solver", SOLVERS)
def test_arrays_and_lists_are_taken_as_tensors(solver, dtype):
    M32 = pn.LinearDictionary(M.weight.detach().to(dtype))
    x = V.to(dtype)
    options = {"solver": SOLVERS[solver], "max_steps": 9000, "tol": 1e-4}
    expected = pn.solve(x, M32, 2.0, **options).code
    same = 0 if dtype == torch.float32 else 1e-6  # a list of float32 numbers is exact in float32
    for given in (x.numpy(), x.tolist(), tuple(x.tolist())):
        found = pn.solve(given, M32, np.float64(2.0), **options).code
        assert found.dtype == dtype
        torch.testing.assert_close(found, expected, rtol=0, atol=same)
    if solver != "OMP":
        again = pn.solve(x.numpy(), M32, [2.0] * 20, start=expected.numpy(), **options)
        assert again.steps == 0
    assert torch.equal(pn.beta_max(x.numpy(), M32), pn.beta_max(x, M32))


def test_arrays_are_taken_by_the_theory():
    array = CODE.numpy()
    assert torch.equal(theory.stripe_norm(array, D), theory.stripe_norm(CODE, D))
    assert torch.equal(theory.certified_unique(array, 0.1), theory.certified_unique(CODE, 0.1))
    assert torch.equal(theory.unsuccessful(X.numpy(), 0 * X.numpy(), 0.1), theory.unsuccessful(X, 0 * X, 0.1))
    matrix = normal(3, 4)
    assert torch.equal(theory.with_identity_spectrum(matrix.numpy()), theory.with_identity_spectrum(matrix))
    better = theory.better_code(X.numpy(), array, D, 0.1)
    assert torch.equal(better.code, theory.better_code(X, CODE, D, 0.1).code)


@pytest.mark.parametrize("solver", ["ISTA", "FISTA", "WorkingSet"])
def test_a_start_and_a_signal_may_have_any_memory_format(solver):
    beta = 0.1 * pn.beta_max(X, D)
    start = 0.1 * normal(*CODE.shape, seed=3)
    expected = pn.solve(X, D, beta, SOLVERS[solver], max_steps=5, tol=0.0, start=start)
    wide = pn.ConvDictionary(normal(3, 4, 3, 3) / 6, padding=1)
    y = normal(2, 4, 6, 6, seed=4)
    wanted = pn.solve(y, wide, 1.0, SOLVERS[solver], max_steps=5, tol=0.0, start=start)
    last = {"memory_format": torch.channels_last}
    found = pn.solve(X, D, beta, SOLVERS[solver], max_steps=5, tol=0.0, start=start.contiguous(**last))
    torch.testing.assert_close(found.code, expected.code, rtol=0, atol=1e-10)
    found = pn.solve(
        y.contiguous(**last), wide, 1.0, SOLVERS[solver], max_steps=5, tol=0.0, start=start.contiguous(**last)
    )
    torch.testing.assert_close(found.code, wanted.code, rtol=0, atol=1e-10)


def answers():
    """What is asked of the solvers and the theory, all on CPU tensors."""
    I, C = pn.WithIdentity(conv()), pn.CircularDictionary(normal(3, 1, 3, 3))
    found = {name: pn.solve(X, D, 2.0, solver, tol=1e-2).code for name, solver in SOLVERS.items()}
    found["arrays"] = pn.solve(X.numpy(), D, [2.0, 2.0, 2.0], tol=1e-2).code
    found["ReducedSolver"] = pn.solve(X, I, 0.5, pn.ReducedSolver(), tol=1e-2).code
    found["WorkingSet of [I D]"] = pn.solve(X, I, 0.5, pn.WorkingSet(), tol=1e-2).code
    found["OMP of a matrix"] = pn.solve(V, M, solver=pn.OMP(2)).code
    found["least squares"] = pn.solve(V, pn.LinearDictionary(normal(5, 12)), 0.0).code
    found["beta_max"] = pn.beta_max(X, D)
    found["layered"] = pn.layered_basis_pursuit(X, [D], [2.0], tol=1e-2)[0].code
    found["multi-layer"] = pn.multilayer_basis_pursuit(X, [D], [2.0], tol=0.05).code
    found["better"] = theory.better_code(X, CODE, D, 0.1).code
    found["stripe"] = theory.stripe_norm(CODE, D)
    found["bound"] = theory.layered_error_bound(0.1, [1, 2.0], [0.1, 0.05])
    found["unsuccessful"] = theory.unsuccessful(X, 0 * X, 0.1)
    found["spectrum"] = theory.with_identity_spectrum(M.matrix())
    found["matrix"], found["norms"] = D.matrix(X.shape), D.atom_norms(X.shape)
    numbers = {f"lipschitz {name}": A.lipschitz((1, 30, 30)) for name, A in (("D", D), ("I", I), ("C", C))}
    numbers |= {f"small {name}": A.lipschitz(X.shape) for name, A in (("D", D), ("I", I), ("C", C))}
    numbers |= {f"mu {name}": theory.mutual_coherence(A, s) for name, A, s in (("D", D, X.shape), ("C", C, None))}
    numbers["matrix mu"] = theory.mutual_coherence(M)
    numbers["lower"], numbers["upper"] = theory.lipschitz_interval(I, X.shape)
    numbers["b"], numbers["beta"] = theory.bias_of_beta(0.1, 2.0), theory.beta_of_bias(0.1, 2.0)
    return {name: code.detach() for name, code in found.items()}, numbers


def test_nothing_hangs_on_the_default_device():
    codes, numbers = answers()
    torch.set_default_device("meta")
    try:
        same, again = answers()
    finally:
        torch.set_default_device(None)
    assert again == numbers
    for name, code in codes.items():
        assert same[name].device.type == "cpu" and torch.equal(same[name], code), name


# ---------------------------------------------------------------------------------------------------------------------
# β_max


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("D", [M, D, pn.WithIdentity(D)], ids=["matrix", "convolution", "[I D]"])
def test_beta_max_is_the_smallest_beta_whose_code_is_zero_and_scikit_learns_alpha_max(D, nonnegative):
    x = V if D is M else X
    beta = pn.beta_max(x, D, nonnegative)
    assert beta.shape == (2, *[1] * (x.dim() - 1)) and not beta.requires_grad
    matrix = D.matrix(x.shape).detach().numpy()
    for one, most in zip(x.flatten(1).numpy(), beta.flatten().tolist(), strict=True):
        alphas = lars_path(matrix, one, method="lasso", positive=nonnegative, max_iter=1)[0]
        assert most == pytest.approx(alphas[0] * len(one))
    zero = pn.solve(x, D, beta, nonnegative=nonnegative)
    assert zero.converged and zero.steps == 0 and (zero.code == 0).all()
    assert (pn.solve(x, D, 0.99 * beta, nonnegative=nonnegative).code != 0).flatten(1).any(1).all()


def test_beta_max_of_a_signal_that_every_atom_opposes_is_zero_for_nonnegative_codes():
    atoms = pn.LinearDictionary(torch.eye(3, dtype=torch.float64))
    assert pn.beta_max(-torch.ones(1, 3).double(), atoms, nonnegative=True).tolist() == [[0]]
    assert pn.beta_max(-torch.ones(1, 3).double(), atoms).tolist() == [[1]]
