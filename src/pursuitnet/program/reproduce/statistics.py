"""Paired differences between cells: t-test, confidence interval, Holm's correction, and detectable difference."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.05
POWER = 0.8


@dataclass(frozen=True)
class Difference:
    """Differences in percentage points between runs that share a seed, and so their batches.

    Attributes:
        values: one for each seed.
    """

    values: tuple[float, ...]

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return statistics.mean(self.values)

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return statistics.stdev(self.values) / math.sqrt(self.n)

    @property
    def p(self) -> float:
        """Two-sided p-value of a paired t-test with n − 1 degrees of freedom."""
        from scipy.stats import ttest_1samp  # type: ignore[import-untyped]

        if self.error == 0:
            return float(self.mean == 0)
        return float(ttest_1samp(self.values, 0).pvalue)

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Return the confidence interval of the mean, at 1 − level."""
        from scipy.stats import t

        half = float(t.ppf(1 - level / 2, self.n - 1)) * self.error
        return self.mean - half, self.mean + half

    def detectable(self, level: float = LEVEL, power: float = POWER) -> float:
        """Return the true difference that this test detects with the given power, at the measured deviation."""
        from scipy.optimize import brentq  # type: ignore[import-untyped]
        from scipy.stats import nct, t

        df, limit = self.n - 1, float(t.ppf(1 - level / 2, self.n - 1))
        error_of_power = lambda shift: nct.cdf(limit, df, shift) - (1 - power)  # noqa: E731  # the other tail is negligible
        return float(brentq(error_of_power, 0, 4 * limit)) * self.error


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values corrected for the number of tests by Holm's step-down method, in the order given.

    Source: Holm, A simple sequentially rejective multiple test procedure (1979).
    """
    corrected, largest = [0.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = largest
    return corrected
