"""Sparse coding as scikit-learn transformers, for a ``Pipeline`` and for ``GridSearchCV``.

min ½‖x − DΓ‖² + Σβ|Γ|        (P1), for every example by itself
"""

import copy
import math
import warnings
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch import Tensor

from pursuitnet.dictionaries import ConvDictionary, Dictionary, LinearDictionary
from pursuitnet.iterations import FISTA, ISTA
from pursuitnet.problems import OMP, ConvergenceWarning, beta_max, solve
from pursuitnet.problems.lasso import lasso
from pursuitnet.problems.polish import polished
from pursuitnet.problems.solve import default_tol
from pursuitnet.sklearn.inputs import FILTERS, check_beta, check_integers, check_one_size, kernel_of, weight_of

Array = NDArray[np.floating[Any]]
SOLVERS = ("fista", "ista", "omp")
BATCH = 512
"""Number of examples that are solved at a time."""


class _Coder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc, unused-ignore]
    """Base class of both coders: the parameters of the problem, and its solution in batches."""

    dictionary_: Dictionary

    def __init__(
        self,
        dictionary: Any = None,
        *,
        n_components: int = 8,
        beta: float = 0.1,
        relative: bool = True,
        nonnegative: bool = False,
        solver: str = "fista",
        nonzeros: int | None = None,
        max_steps: int = 10_000,
        tol: float | None = None,
        random_state: Any = None,
    ) -> None:
        self.dictionary = dictionary
        self.n_components = n_components
        self.beta = beta
        self.relative = relative
        self.nonnegative = nonnegative
        self.solver = solver
        self.nonzeros = nonzeros
        self.max_steps = max_steps
        self.tol = tol
        self.random_state = random_state

    def _check_parameters(self) -> None:
        if self.solver not in SOLVERS:
            raise ValueError(f"solver is {self.solver!r}; expected one of {', '.join(SOLVERS)}")
        if self.solver == "omp" and self.nonzeros is None:
            raise ValueError("solver is 'omp', which needs nonzeros: the number of non-zeros of an example's code")
        check_beta(self.beta, zero=True)
        check_integers(n_components=self.n_components, max_steps=self.max_steps)

    def _codes(self, signals: Tensor) -> Tensor:
        """Return the codes of signals (n, channels, …), (n, code_channels, …)."""
        return torch.cat([self._solve(part) for part in signals.split(BATCH)])

    def _solve(self, x: Tensor) -> Tensor:
        """Return the codes of a batch of signals."""
        D = self._dictionary_in(x.dtype)
        if self.solver == "omp":
            return solve(x, D, solver=OMP(self.nonzeros), max_steps=self.max_steps).code.detach()
        beta = self.beta * (beta_max(x, D) if self.relative else torch.ones(len(x), dtype=x.dtype))
        each = beta.detach().view(-1, *[1] * (D.dims + 1))
        solver = FISTA() if self.solver == "fista" else ISTA()
        tol = default_tol(x) if self.tol is None else self.tol
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # polishing may still close the gap
            solution = solve(x, D, each, solver, self.nonnegative, self.max_steps, tol)
        code = polished(solution.code.detach(), x, D, each)
        gap = lasso(x, D, each, self.nonnegative).certificate(D.split(code)).gap
        if float(gap.max()) > tol:
            warnings.warn(
                f"after {solution.steps} steps the duality gap is {float(gap.max()):.1e}, above tol = {tol:g}; give "
                "more max_steps or a larger tol",
                ConvergenceWarning,
                stacklevel=2,
            )
        return code

    def _dictionary_in(self, dtype: torch.dtype) -> Dictionary:
        """Return the dictionary in a dtype."""
        return copy.deepcopy(self.dictionary_).to(dtype)

    @property
    def _n_features_out(self) -> int:
        return int(self.n_features_out_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class SparseCoder(_Coder):
    """Sparse codes of vectors over a dictionary of atoms.

    Args:
        dictionary: D, atoms (n_components, n_features) or a ``pursuitnet.LinearDictionary``; None draws random examples
            in ``fit`` and normalizes them.
        n_components: number of atoms to draw if no dictionary is given.
        beta: β of (P1); if ``relative``, a fraction of the smallest β whose code is zero, for each example by itself.
        relative: whether ``beta`` is such a fraction, or β itself.
        nonnegative: restrict Γ to Γ ≥ 0.
        solver: "fista" or "ista" for (P1), "omp" for at most ``nonzeros`` non-zeros per example.
        nonzeros: number of non-zeros for "omp".
        max_steps: maximum number of steps of the solver.
        tol: duality gap at which it stops, relative to the objective; by default 1e-6 in float64 and 1e-4 in float32.
        random_state: seed or generator of the random atoms.

    Attributes:
        dictionary_: the D that is used.
        components_: its atoms, (n_components, n_features).
        n_features_in_: number of features of an example.
    """

    def fit(self, X: Any, y: Any = None) -> Self:
        """Set the dictionary to the given one, or to atoms drawn from the examples X (n, n_features)."""
        self._check_parameters()
        X = validate_data(self, X, dtype=[np.float64, np.float32])
        given = self.dictionary
        if isinstance(given, LinearDictionary):
            given = given.weight.detach()
        given = self._draw_atoms(X) if given is None else given
        atoms = torch.from_numpy(weight_of(given, "atoms (n_components, n_features)", 2).numpy().astype(X.dtype))
        if atoms.shape[1] != X.shape[1]:
            raise ValueError(f"the dictionary has shape {tuple(atoms.shape)}; expected (atoms, {X.shape[1]}), as X has")
        self.dictionary_ = LinearDictionary(atoms).requires_grad_(False)
        self.components_: Array = atoms.numpy()
        self.n_features_out_ = len(atoms)
        return self

    def transform(self, X: Any) -> Array:
        """Return the codes of X (n, n_features), (n, n_components)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return self._codes(torch.from_numpy(X.copy())).numpy()

    def inverse_transform(self, X: Any) -> Array:
        """Return DΓ of codes (n, n_components), (n, n_features)."""
        check_is_fitted(self)
        codes = check_array(X, dtype=[np.float64, np.float32])
        if codes.shape[1] != self.n_features_out_:
            raise ValueError(f"the codes have {codes.shape[1]} columns; expected {self.n_features_out_}")
        return codes @ self.components_

    def _draw_atoms(self, X: Array) -> Array:
        """Return random examples of norm 1."""
        chosen = X[check_random_state(self.random_state).permutation(len(X))[: self.n_components]]
        norms = np.linalg.norm(chosen, axis=1, keepdims=True)
        return chosen / np.where(norms > 0, norms, 1)


class ConvSparseCoder(_Coder):
    """Convolutional sparse codes of signals or images, as rows of numbers.

    Args:
        dictionary: D, filters (n_components, channels, *kernel) or a ``pursuitnet.ConvDictionary``; None draws random
            patches of the examples in ``fit`` and normalizes them.
        n_components, beta, relative, nonnegative, solver, nonzeros, max_steps, tol, random_state: see ``SparseCoder``.
        kernel_size: size of the patches that are drawn if no dictionary is given; by default 3, or that of a smaller
            example.
        signal_shape: shape of one example, (channels, *size), if X has rows (n, n_features); by default (n, n_features)
            are signals of one channel, (n, H, W) images of one channel, and (n, channels, …) signals with channels.

    Attributes:
        dictionary_: the D that is used, padded so that the code has the size of the signal.
        components_: its filters, (n_components, channels, *kernel).
        signal_shape_: shape of one example, (channels, *size).
        code_shape_: shape of its code, (n_components, *size).
        n_features_in_: size of the second axis of X.
    """

    def __init__(
        self,
        dictionary: Any = None,
        *,
        n_components: int = 8,
        kernel_size: int | None = None,
        signal_shape: Sequence[int] | None = None,
        beta: float = 0.1,
        relative: bool = True,
        nonnegative: bool = False,
        solver: str = "fista",
        nonzeros: int | None = None,
        max_steps: int = 10_000,
        tol: float | None = None,
        random_state: Any = None,
    ) -> None:
        super().__init__(
            dictionary,
            n_components=n_components,
            beta=beta,
            relative=relative,
            nonnegative=nonnegative,
            solver=solver,
            nonzeros=nonzeros,
            max_steps=max_steps,
            tol=tol,
            random_state=random_state,
        )
        self.kernel_size = kernel_size
        self.signal_shape = signal_shape

    def fit(self, X: Any, y: Any = None) -> Self:
        """Set the dictionary to the given one, or to patches of the examples X (n, …), see ``signal_shape``."""
        self._check_parameters()
        check_one_size(X)
        X = validate_data(self, X, dtype=[np.float64, np.float32], allow_nd=True)
        self.signal_shape_ = self._shape_of(X)
        D = self.dictionary
        if not isinstance(D, ConvDictionary):
            given = self._draw_patches(X) if D is None else D
            filters = weight_of(given, FILTERS, len(self.signal_shape_) + 1).numpy().astype(X.dtype)
            D = ConvDictionary(torch.from_numpy(filters), padding=[k // 2 for k in filters.shape[2:]])
        self.dictionary_ = D.with_weight(D.weight.detach().clone()).requires_grad_(False)
        self.components_: Array = D.weight.detach().numpy()
        self.code_shape_ = (D.code_channels[0], *D.code_size((1, *self.signal_shape_)))
        self.n_features_out_ = math.prod(self.code_shape_)
        return self

    def transform(self, X: Any) -> Array:
        """Return the codes of X (n, …) in rows, (n, n_components · positions): flattened from ``code_shape_``."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], allow_nd=True, reset=False)
        if X.shape[1:] != self.example_shape_:
            raise ValueError(f"an example has shape {X.shape[1:]}; expected {self.example_shape_}, as it was fitted to")
        signals = torch.from_numpy(X.reshape(len(X), *self.signal_shape_).copy())
        return self._codes(signals).flatten(1).numpy()

    def inverse_transform(self, X: Any) -> Array:
        """Return DΓ of codes in rows (n, n_components · positions), in the shape of the X that was fitted."""
        check_is_fitted(self)
        codes = check_array(X, dtype=[np.float64, np.float32])
        if codes.shape[1] != self.n_features_out_:
            raise ValueError(f"the codes have {codes.shape[1]} numbers; expected {self.n_features_out_}")
        code = torch.from_numpy(codes.reshape(len(codes), *self.code_shape_).copy())
        signals = self._dictionary_in(code.dtype).synthesize(code, (len(code), *self.signal_shape_)).numpy()
        return signals.reshape(len(codes), *self.example_shape_)

    def _shape_of(self, X: Array) -> tuple[int, ...]:
        """Return channels and size of one example."""
        self.example_shape_ = X.shape[1:]
        if self.signal_shape is not None:
            if math.prod(self.signal_shape) != math.prod(X.shape[1:]):
                raise ValueError(
                    f"an example has {math.prod(X.shape[1:])} numbers; expected those of {self.signal_shape}"
                )
            return tuple(self.signal_shape)
        return (1, *X.shape[1:]) if X.ndim <= 3 else X.shape[1:]

    def _draw_patches(self, X: Array) -> Array:
        """Return random patches of the examples, of norm 1, (n_components, channels, *kernel)."""
        generator = check_random_state(self.random_state)
        signals = X.reshape(len(X), *self.signal_shape_)
        kernel = kernel_of(self.kernel_size, self.signal_shape_[1:])
        sizes = list(zip(signals.shape[2:], kernel, strict=True))
        drawn = []
        for _ in range(self.n_components):
            lows = [generator.randint(n - k + 1) for n, k in sizes]
            window = [slice(low, low + k) for low, k in zip(lows, kernel, strict=True)]
            drawn.append(signals[(generator.randint(len(signals)), slice(None), *window)])
        patches = np.stack(drawn)
        norms = np.sqrt((patches**2).sum(axis=tuple(range(1, patches.ndim)), keepdims=True))
        return patches / np.where(norms > 0, norms, 1)
