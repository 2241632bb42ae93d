"""What the paper proves, as functions: they take dictionaries and codes and return numbers.

``coherence``: μ(D). ``sparsity``: the stripe norm, Lemmas 1 and 2. ``spectrum``: Lemma 3, λmax, β and b (Section V).
``theorem``: Definition 1 and Theorem 1.
"""

from pursuitnet.theory.coherence import mutual_coherence
from pursuitnet.theory.definition1 import BetterCode, better_code, unsuccessful
from pursuitnet.theory.sparsity import certified_unique, layered_error_bound, stripe_norm, uniqueness_bound
from pursuitnet.theory.spectrum import beta_of_bias, bias_of_beta, lipschitz_interval, with_identity_spectrum

__all__ = [
    "BetterCode",
    "beta_of_bias",
    "better_code",
    "bias_of_beta",
    "certified_unique",
    "layered_error_bound",
    "lipschitz_interval",
    "mutual_coherence",
    "stripe_norm",
    "uniqueness_bound",
    "unsuccessful",
    "with_identity_spectrum",
]
