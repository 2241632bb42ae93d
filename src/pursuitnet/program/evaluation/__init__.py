"""Evaluation: accuracy and calibration of a network, on the test images and on corrupted ones.

``measures``: accuracy, calibration, confusion matrix. ``settings``: the same weights with other steps and thresholds.
``corruptions``: images corrupted in seven ways. ``robustness``: accuracy on them. ``adaptation``: thresholds chosen
for images without labels. ``certification``: certified accuracy. ``evaluate_run``: all of it for a run folder.
``text``, ``plots`` and ``certification_plot``: the results as text and as figures.
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
