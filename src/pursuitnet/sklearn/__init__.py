"""Sparse coding and dictionary learning as scikit-learn estimators, for a ``Pipeline`` and for ``GridSearchCV``."""

from pursuitnet.sklearn.coding import ConvSparseCoder, SparseCoder
from pursuitnet.sklearn.learning import ConvDictionaryLearning

__all__ = ["ConvDictionaryLearning", "ConvSparseCoder", "SparseCoder"]
