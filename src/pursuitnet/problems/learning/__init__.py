"""Dictionaries learned from images: min over D and Γ of Σ ½‖xₙ − DΓₙ‖² + β‖Γₙ‖₁ with ‖dⱼ‖ ≤ 1.

Codes by ``solve``'s solvers to a certificate (``codes``), then filters for these codes (``atoms``), which know the
codes of all images by two sums of fixed size (``sums``); in rounds over all images, or once along a stream.
"""

from pursuitnet.problems.learning.journal import Report
from pursuitnet.problems.learning.learn import Learned, learn

__all__ = ["Learned", "Report", "learn"]
