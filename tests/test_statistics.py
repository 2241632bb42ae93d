"""Paired differences: against numbers worked out otherwise."""

import numpy as np
import pytest
from scipy import stats

from pursuitnet.program.reproduce.statistics import Difference, holm


def test_the_paired_test_is_scipys_of_the_two_samples():
    one, other = np.array([81.3, 80.7, 81.2, 81.5, 80.9]), np.array([78.7, 76.0, 76.8, 77.2, 77.3])
    d = Difference(tuple(one - other))
    expected = stats.ttest_rel(one, other)
    assert d.p == pytest.approx(expected.pvalue)
    assert d.interval() == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert Difference((1.0, 1.0, 1.0)).p == 0 and Difference((0.0, 0.0)).p == 1


def test_holm_multiplies_the_smallest_most_and_never_falls():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_a_difference_of_the_detectable_size_is_found_in_eight_of_ten_experiments():
    rng = np.random.default_rng(0)
    d = Difference(tuple(rng.normal(size=5)))
    true = d.detectable() / (d.error * 5**0.5)  # in standard deviations
    found = stats.ttest_1samp(rng.normal(true, 1, size=(20_000, 5)), 0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.01)
