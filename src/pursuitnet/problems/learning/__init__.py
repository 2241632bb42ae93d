"""Dictionaries learned from images: min over D and Γ of Σ ½‖xₙ − DΓₙ‖² + β‖Γₙ‖₁ with ‖dⱼ‖ ≤ 1.

Alternates codes, by ``solve``'s solvers to a certificate (``codes``), and filters for these codes (``atoms``), from
sufficient statistics of fixed size (``statistics``); in rounds over all images, or online over a stream.
"""

from pursuitnet.problems.learning.journal import Report
from pursuitnet.problems.learning.learn import Learned, learn

__all__ = ["Learned", "Report", "learn"]
