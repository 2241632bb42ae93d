"""The paper's theory as functions of dictionaries and codes that return numbers.

``coherence``: μ(D). ``sparsity``: the stripe norm, Lemmas 1 and 2. ``spectrum``: Lemma 3, λmax, β and b (Section V).
``definition1``: Definition 1 and Theorem 1. ``robustness``: how much a signal may change before a guarantee fails.
"""

from pursuitnet.theory.coherence import mutual_coherence
from pursuitnet.theory.definition1 import BetterCode, better_code, unsuccessful
from pursuitnet.theory.robustness import Guarantee, encoder_gap, layered_pursuit_bound
from pursuitnet.theory.sparsity import certified_unique, layered_error_bound, stripe_norm, uniqueness_bound
from pursuitnet.theory.spectrum import beta_of_bias, bias_of_beta, lipschitz_interval, with_identity_spectrum

__all__ = [
    "BetterCode",
    "Guarantee",
    "beta_of_bias",
    "better_code",
    "bias_of_beta",
    "certified_unique",
    "encoder_gap",
    "layered_error_bound",
    "layered_pursuit_bound",
    "lipschitz_interval",
    "mutual_coherence",
    "stripe_norm",
    "uniqueness_bound",
    "unsuccessful",
    "with_identity_spectrum",
]
