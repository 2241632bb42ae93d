"""``ConvDictionaryLearning`` keeps the contract of scikit-learn, and learns what ``learn`` does."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

import pursuitnet as pn
from pursuitnet.sklearn import ConvDictionaryLearning


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([ConvDictionaryLearning(n_components=1, max_iter=1, beta=0.8, transform_tol=1e-1)])
def test_the_contract_of_scikit_learn(estimator, check):
    check(estimator)


def images(n=12, size=10, seed=0):
    return np.random.default_rng(seed).standard_normal((n, size, size))


def test_fit_is_learn_and_transform_is_solve():
    X = images(5, 8)
    model = ConvDictionaryLearning(3, kernel_size=3, beta=0.8, relative=False, max_iter=3, random_state=0).fit(X)
    x = torch.tensor(X)[:, None]
    start = ConvDictionaryLearning(3, kernel_size=3, beta=0.8, relative=False, random_state=0)
    begin = pn.ConvDictionary(torch.tensor(start._initialize(X) is not None and start.components_), padding=1)
    learned = pn.learn(x, begin, 0.8, max_iterations=3)
    np.testing.assert_allclose(model.components_, learned.dictionary.weight.detach(), atol=1e-12)
    assert model.history_[-1].objective == learned.history[-1].objective
    codes = model.transform(X)
    assert codes.shape == (5, 3 * 64) and model.code_shape_ == (3, 8, 8)
    code = torch.tensor(codes).view(5, 3, 8, 8)
    back = model.inverse_transform(codes)
    np.testing.assert_allclose(back, learned.dictionary.synthesize(code, x.shape)[:, 0].detach(), atol=1e-9)
    spelled = 0.5 * ((X - back) ** 2).sum() + 0.8 * np.abs(codes).sum()
    assert spelled == pytest.approx(model.history_[-1].objective, rel=2e-4)


def test_partial_fit_goes_on_and_survives_a_pickle():
    X = images(16, 8)
    model = ConvDictionaryLearning(3, beta=0.2, random_state=0)
    first = model.partial_fit(X[:4]).components_.copy()
    model = pickle.loads(pickle.dumps(model))
    for i in (4, 8, 12):
        model.partial_fit(X[i : i + 4])
    assert model.n_iter_ == 4 and np.abs(model.components_ - first).max() > 1e-3
    fresh = ConvDictionaryLearning(3, beta=0.2, random_state=0).partial_fit(X[:4])
    np.testing.assert_array_equal(fresh.components_, first)


def test_it_stands_in_a_pipeline_and_takes_filters_to_start_from():
    start = np.random.default_rng(1).standard_normal((2, 1, 3, 3))
    pipeline = make_pipeline(FunctionTransformer(), ConvDictionaryLearning(dictionary=start, max_iter=2))
    assert pipeline.fit_transform(images(4, 8)).shape == (4, 128)
    assert len(pipeline[-1].get_feature_names_out()) == 128


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n_components": 0}, "n_components is 0; expected an integer ≥ 1"),
        ({"n_components": 2.5}, "n_components is 2.5; expected an integer ≥ 1"),
        ({"n_components": "a"}, "n_components is 'a'; expected an integer ≥ 1"),
        ({"kernel_size": (3, 3)}, r"kernel_size is \(3, 3\); expected an integer ≥ 1"),
        ({"kernel_size": 31}, r"kernel_size is 31, and an example has size \(10, 10\); expected at most that"),
        ({"dictionary": "x"}, r"dictionary is 'x'; expected filters \(n_components, channels, \*kernel\), 4 axes"),
        ({"beta": "x"}, "beta is 'x'; expected a number > 0"),
        ({"beta": 0}, "beta is 0; expected a number > 0"),
        ({"beta": 2.0, "relative": False, "signal_shape": (3, 5, 5)}, "an example has 100 numbers"),
        ({"beta": 1e4, "relative": False}, "every code is zero"),
    ],
)
def test_bad_parameters_get_one_sentence(options, said):
    with pytest.raises(ValueError, match=said):
        ConvDictionaryLearning(**options).fit(images())


def test_examples_of_several_sizes_are_refused_with_the_way_to_learn_from_them():
    with pytest.raises(ValueError, match=r"the examples have 2 sizes, such as .* use pursuitnet\.learn"):
        ConvDictionaryLearning().fit([np.ones((8, 8)), np.ones((9, 9))])
