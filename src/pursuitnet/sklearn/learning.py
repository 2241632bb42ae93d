"""Dictionary learning as a scikit-learn estimator.

min over D and Γ of Σ ½‖xₙ − DΓₙ‖² + β‖Γₙ‖₁ with ‖dⱼ‖ ≤ 1
"""

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch import Tensor

from pursuitnet.dictionaries import ConvDictionary
from pursuitnet.problems import beta_max, learn, solve
from pursuitnet.problems.learning.codes import Coder
from pursuitnet.problems.learning.factors import Factors
from pursuitnet.problems.learning.filters import with_weight
from pursuitnet.problems.learning.images import Batch
from pursuitnet.problems.learning.journal import Journal
from pursuitnet.problems.learning.online import OnlineLearner
from pursuitnet.problems.learning.start import from_patches
from pursuitnet.sklearn.inputs import FILTERS, check_beta, check_integers, check_one_size, kernel_of, weight_of

Array = NDArray[np.floating[Any]]


class ConvDictionaryLearning(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc, unused-ignore]
    """Filters learned from signals or images, and their convolutional sparse codes, as rows of numbers.

    Args:
        n_components: number of filters to learn.
        kernel_size: size of the filters along every axis; by default 3, or that of a smaller example.
        signal_shape: shape of one example, (channels, *size), if X has rows (n, n_features); by default (n, n_features)
            are signals of one channel, (n, H, W) images of one channel, and (n, channels, …) signals with channels.
        beta: β; if ``relative``, a fraction of the smallest β with which all codes are zero for the initial filters.
        relative: whether ``beta`` is such a fraction, or β itself.
        nonnegative: restrict Γ to Γ ≥ 0.
        dictionary: initial filters, (n_components, channels, *kernel) or a ``pursuitnet.ConvDictionary``; None draws
            random patches of the examples.
        max_iter: maximum number of rounds over all examples.
        tol: stop when the relative decrease of the objective in a round is at most this.
        transform_tol: duality gap of the codes that ``transform`` returns, relative to the objective; by default 1e-6
            in float64 and 1e-4 in float32.
        random_state: seed or generator of the patches.

    Attributes:
        dictionary_: D, padded so that the code has the size of the signal where kernel sizes are odd.
        components_: its filters, (n_components, channels, *kernel).
        beta_: β itself.
        history_: the certified objectives (see ``pursuitnet.learn``).
        n_iter_: number of rounds, or of batches passed to ``partial_fit``.
        signal_shape_: shape of one example, (channels, *size).
        code_shape_: shape of its code, (n_components, *size).
        n_features_in_: size of the second axis of X.
    """

    dictionary_: ConvDictionary

    def __init__(
        self,
        n_components: int = 8,
        *,
        kernel_size: int | None = None,
        signal_shape: Sequence[int] | None = None,
        beta: float = 0.1,
        relative: bool = True,
        nonnegative: bool = False,
        dictionary: Any = None,
        max_iter: int = 100,
        tol: float = 1e-4,
        transform_tol: float | None = None,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.kernel_size = kernel_size
        self.signal_shape = signal_shape
        self.beta = beta
        self.relative = relative
        self.nonnegative = nonnegative
        self.dictionary = dictionary
        self.max_iter = max_iter
        self.tol = tol
        self.transform_tol = transform_tol
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn filters from the examples X: (n, …), see ``signal_shape``."""
        x = self._initialize(X)
        learned = learn(
            x, self.dictionary_, self.beta_, nonnegative=self.nonnegative, max_iterations=self.max_iter, tol=self.tol
        )
        self.history_ = learned.history
        self.n_iter_ = max(1, learned.history[-1].iteration if learned.history else self.max_iter)
        self._learner: OnlineLearner | None = None
        return self._set_dictionary(learned.dictionary)

    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Continue learning with more examples, each used once; β is that of the first call."""
        if getattr(self, "_learner", None) is None:
            x = self._initialize(X)
            coder = Coder(torch.tensor([self.beta_], dtype=x.dtype), self.nonnegative)
            self._learner = OnlineLearner(Factors(self.dictionary_), coder, Journal(1e-4), forget=10.0)
        else:
            x = self._signals(X, reset=False)
        learner = self._learner
        if learner is None:
            raise RuntimeError("learning has not started")
        with torch.no_grad():
            learner.partial_fit(Batch.of(x.to(learner.usage.dtype), self.dictionary_, None, "X"))
        self.history_, self.n_iter_ = tuple(learner.journal.history), learner.count
        return self._set_dictionary(learner.dictionary)

    def transform(self, X: Any) -> Array:
        """Return the codes of X (n, …) in rows, (n, n_components · positions): flattened from ``code_shape_``."""
        check_is_fitted(self)
        x = self._signals(X, reset=False)
        D = with_weight(self.dictionary_, self.dictionary_.weight.detach().to(x.dtype)).requires_grad_(False)
        return torch.cat([self._code(one, D) for one in x.split(1)]).flatten(1).numpy()

    def inverse_transform(self, X: Any) -> Array:
        """Return DΓ of codes in rows (n, n_components · positions), in the shape of the X that was fitted."""
        check_is_fitted(self)
        codes = check_array(X, dtype=[np.float64, np.float32])
        if codes.shape[1] != self._n_features_out:
            raise ValueError(f"the codes have {codes.shape[1]} numbers; expected {self._n_features_out}")
        code = torch.from_numpy(codes.reshape(len(codes), *self.code_shape_).copy())
        D = with_weight(self.dictionary_, self.dictionary_.weight.detach().to(code.dtype)).requires_grad_(False)
        return D.synthesize(code, (len(code), *self.signal_shape_)).numpy().reshape(len(codes), *self.example_shape_)

    def _code(self, x: Tensor, D: Any) -> Tensor:
        """Return the code of one example, which does not depend on the others."""
        return solve(
            x, D, self.beta_, nonnegative=self.nonnegative, max_steps=100_000, tol=self.transform_tol
        ).code.detach()

    def _initialize(self, X: Any) -> Tensor:
        """Set shapes, initial filters and β from the first examples X; return X as a tensor."""
        check_integers(n_components=self.n_components, max_iter=self.max_iter)
        check_beta(self.beta, zero=False)
        x = self._signals(X, reset=True)
        self._set_dictionary(self._initial_filters(x))
        largest = float(beta_max(x, self.dictionary_, self.nonnegative).max()) if self.relative else 1.0
        self.beta_: float = float(self.beta) * (largest or 1.0)
        return x

    def _signals(self, X: Any, reset: bool) -> Tensor:
        """Return examples as a tensor (n, channels, …) after checking them."""
        check_one_size(X)
        X = validate_data(self, X, dtype=[np.float64, np.float32], allow_nd=True, reset=reset)
        if reset:
            self.example_shape_ = X.shape[1:]
            own = self.signal_shape
            self.signal_shape_ = tuple(own) if own is not None else (1, *X.shape[1:]) if X.ndim <= 3 else X.shape[1:]
            if math.prod(self.signal_shape_) != math.prod(X.shape[1:]):
                raise ValueError(f"an example has {math.prod(X.shape[1:])} numbers; expected those of {own}")
        elif X.shape[1:] != self.example_shape_:
            raise ValueError(f"an example has shape {X.shape[1:]}; expected {self.example_shape_}, as it was fitted to")
        return torch.from_numpy(X.reshape(len(X), *self.signal_shape_).copy())

    def _initial_filters(self, x: Tensor) -> ConvDictionary:
        """Return the initial filters."""
        D = self.dictionary
        if isinstance(D, ConvDictionary):
            return D.with_weight(D.weight.detach().to(x.dtype))
        if D is None:
            kernel = kernel_of(self.kernel_size, self.signal_shape_[1:])
            weight = torch.zeros(1, self.signal_shape_[0], *kernel, dtype=x.dtype)
        else:
            weight = weight_of(D, FILTERS, len(self.signal_shape_) + 1).to(x.dtype)
        filters = ConvDictionary(weight, padding=[k // 2 for k in weight.shape[2:]])
        if D is not None:
            return filters
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        drawn = from_patches([x], filters, self.n_components, seed)
        return ConvDictionary(drawn.weight.detach(), padding=filters.padding)

    def _set_dictionary(self, D: Any) -> Self:
        self.dictionary_ = D.with_weight(D.weight.detach().clone())
        self.dictionary_.requires_grad_(False)
        self.components_: Array = self.dictionary_.weight.numpy()
        self.code_shape_ = (D.code_channels[0], *D.code_size((1, *self.signal_shape_)))
        return self

    @property
    def _n_features_out(self) -> int:
        return math.prod(self.code_shape_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
