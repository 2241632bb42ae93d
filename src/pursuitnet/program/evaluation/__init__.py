"""Evaluation: how often a network is right, how well it knows it, and what is left of that on corrupted images.

``measures``: accuracy, calibration, confusions. ``settings``: the same weights with other steps and thresholds.
``corruptions``: images spoilt in seven ways. ``robustness``: accuracy on them. ``adaptation``: thresholds chosen for
images without labels. ``run``: all of it for a run folder. ``words`` and ``figures``: as text and as a picture.
"""

from pursuitnet.program.evaluation.adaptation import Adaptation
from pursuitnet.program.evaluation.corruptions import CORRUPTIONS, Corruption
from pursuitnet.program.evaluation.measures import CalibrationBin, Evaluation, evaluate
from pursuitnet.program.evaluation.robustness import Robustness, Row, robustness
from pursuitnet.program.evaluation.settings import with_thresholds, with_unfolding

__all__ = [
    "CORRUPTIONS",
    "Adaptation",
    "CalibrationBin",
    "Corruption",
    "Evaluation",
    "Robustness",
    "Row",
    "evaluate",
    "robustness",
    "with_thresholds",
    "with_unfolding",
]
