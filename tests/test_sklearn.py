"""Sparse coders as scikit-learn's transformers."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import sparse_encode
from sklearn.linear_model import Lasso, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import pursuitnet as pn
from pursuitnet.sklearn import ConvDictionaryLearning, ConvSparseCoder, SparseCoder


@parametrize_with_checks(
    [
        SparseCoder(n_components=3, beta=0.7, tol=1e-3, random_state=0),
        SparseCoder(n_components=3, solver="omp", nonzeros=1, random_state=0),
        ConvSparseCoder(n_components=2, beta=0.7, tol=1e-3, random_state=0),
    ]
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def signals(count=12, features=20, atoms=30, seed=0):
    draw = np.random.default_rng(seed)
    D = draw.standard_normal((atoms, features))
    return draw.standard_normal((count, features)), D / np.linalg.norm(D, axis=1, keepdims=True)


def test_the_codes_are_those_of_scikit_learn():
    X, D = signals()
    ours = SparseCoder(D, beta=0.3, relative=False, tol=1e-10).fit_transform(X)
    lasso = Lasso(0.3 / X.shape[1], fit_intercept=False, tol=1e-12, max_iter=100_000)
    np.testing.assert_allclose(ours, lasso.fit(D.T, X.T).coef_, atol=1e-4)
    matched = SparseCoder(D, solver="omp", nonzeros=4).fit_transform(X)
    np.testing.assert_allclose(matched, sparse_encode(X, D, algorithm="omp", n_nonzero_coefs=4), atol=1e-8)


def test_the_codes_of_an_example_do_not_depend_on_those_beside_it():
    X, D = signals(count=9)
    coder = SparseCoder(D, beta=0.2).fit(X)
    whole = coder.transform(X)
    np.testing.assert_allclose(np.concatenate([coder.transform(x[None]) for x in X]), whole, atol=1e-9)
    # the conditions of optimality, to rounding
    beta = 0.2 * np.abs(X @ D.T).max(axis=1, keepdims=True)
    off = (X - whole @ D) @ D.T - beta * np.sign(whole)
    assert np.abs(off[whole != 0]).max() < 1e-9 and np.count_nonzero(whole) > 100


def test_convolutional_codes_are_those_of_solve():
    draw = torch.Generator().manual_seed(0)
    X, weight = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((5, 1, 9, 9), (4, 1, 3, 3)))
    D = pn.ConvDictionary(weight, padding=1)
    coder = ConvSparseCoder(D, beta=0.3, nonnegative=True, tol=1e-9, max_steps=20_000)
    codes = coder.fit_transform(X.numpy())
    expected = pn.solve(X, D, 0.3 * pn.beta_max(X, D), nonnegative=True, tol=1e-12, max_steps=20_000).code.detach()
    assert coder.code_shape_ == (4, 9, 9) and codes.shape == (5, 324)
    np.testing.assert_allclose(codes, expected.flatten(1).numpy(), atol=1e-5)
    back = coder.inverse_transform(codes)
    np.testing.assert_allclose(
        back, D.synthesize(torch.from_numpy(codes.reshape(5, 4, 9, 9)), X.shape).detach().numpy()
    )
    rows = clone(coder).set_params(signal_shape=(1, 9, 9)).fit(X.flatten(1).numpy())
    np.testing.assert_allclose(rows.transform(X.flatten(1).numpy()), codes, atol=1e-9)
    assert rows.inverse_transform(codes).shape == (5, 81)
    assert len(rows.get_feature_names_out()) == 324 and rows.get_feature_names_out()[0] == "convsparsecoder0"


@pytest.mark.parametrize("kind", [pn.CircularDictionary, pn.ReflectingDictionary])
def test_the_boundary_of_a_given_dictionary_is_kept(kind):
    D, X = kind(torch.randn(2, 1, 3, 3, dtype=torch.float64)), np.random.default_rng(0).normal(size=(2, 1, 6, 5))
    fitted = ConvSparseCoder(D, beta=0.5).fit(X).dictionary_
    assert type(fitted) is kind and torch.equal(fitted.matrix((1, 6, 5)), D.matrix((1, 6, 5)))
    if kind is pn.CircularDictionary:
        assert type(ConvDictionaryLearning(dictionary=D, max_iter=1).fit(X).dictionary_) is kind


def test_a_coder_works_in_a_pipeline_with_a_classifier_and_in_a_grid_search():
    X, y = load_digits(return_X_y=True)
    X, y = X[:100] / 16, y[:100]
    pipe = make_pipeline(SparseCoder(n_components=12, random_state=0), LogisticRegression(max_iter=1000))
    search = GridSearchCV(pipe, {"sparsecoder__beta": [0.1, 0.9]}, cv=2).fit(X, y)
    assert search.best_params_ == {"sparsecoder__beta": 0.1} and search.best_score_ > 0.8
    images = X[:20].reshape(-1, 8, 8)
    conv = make_pipeline(ConvSparseCoder(n_components=3, beta=0.3, random_state=0), LogisticRegression(max_iter=1000))
    assert conv.fit(images, y[:20]).score(images, y[:20]) > 0.9


def test_single_precision_stays_single():
    X, D = signals()
    coder = SparseCoder(D, tol=1e-4).fit(X.astype(np.float32))
    codes = coder.transform(X.astype(np.float32))
    assert codes.dtype == np.float32 == coder.inverse_transform(codes).dtype


@pytest.mark.parametrize(
    ("coder", "says"),
    [
        (SparseCoder(solver="lars"), "solver is 'lars'; expected one of fista, ista, omp"),
        (SparseCoder(solver="omp"), "which needs nonzeros"),
        (SparseCoder(beta=-1), "beta is -1; expected a number ≥ 0"),
        (SparseCoder(n_components=0), "n_components is 0; expected an integer ≥ 1"),
        (SparseCoder(np.ones((3, 4))), r"the dictionary has shape \(3, 4\); expected \(atoms, 20\), as X has"),
        (ConvSparseCoder(signal_shape=(1, 3, 3)), r"an example has 20 numbers; expected those of \(1, 3, 3\)"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_said_when_it_is_fitted(coder, says):
    with pytest.raises(ValueError, match=says):
        coder.fit(signals()[0])


CONVOLUTIONAL = (ConvSparseCoder, ConvDictionaryLearning)
WRONG = [
    ({"n_components": 0}, "n_components is 0; expected an integer ≥ 1"),
    ({"n_components": 2.5}, "n_components is 2.5; expected an integer ≥ 1"),
    ({"n_components": "a"}, "n_components is 'a'; expected an integer ≥ 1"),
    ({"beta": "x"}, "beta is 'x'; expected a number"),
    ({"beta": -1.0}, "beta is -1.0; expected a number"),
    ({"dictionary": "x"}, "dictionary is 'x'; expected"),
]
WRONG_KERNELS = [
    ({"kernel_size": 31}, r"kernel_size is 31, and an example has size \(10,\); expected at most that"),
    ({"kernel_size": (3, 3)}, r"kernel_size is \(3, 3\); expected an integer ≥ 1"),
]


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [(kind, *wrong) for kind in (SparseCoder, *CONVOLUTIONAL) for wrong in WRONG]
    + [(kind, *wrong) for kind in CONVOLUTIONAL for wrong in WRONG_KERNELS],
)
def test_every_estimator_says_what_is_wrong_with_a_parameter(kind, options, said):
    with pytest.raises(ValueError, match=said):
        kind(**options).fit(np.random.default_rng(0).standard_normal((6, 10)))
