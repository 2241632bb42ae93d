"""Orthogonal matching pursuit for (P0)."""

from dataclasses import dataclass
from numbers import Real
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from pursuitnet.dictionaries import Dictionary


@dataclass(frozen=True)
class OMP:
    """Orthogonal matching pursuit: selects the atom that fits the residual best, then fits all selected atoms again.

    After Pati, Rezaiifar and Krishnaprasad (1993). Atoms are compared at unit norm, so that truncated atoms at a border
    and atoms of any norm have an equal chance; an atom of zeros is never selected.

    Attributes:
        nonzeros: number of non-zeros to select in each example.
        residual: stop an example as soon as ‖x − DΓ‖₂ ≤ residual.

    Example:
        >>> import torch
        >>> import pursuitnet as pn
        >>> x, D = torch.tensor([[3.0, -2.0, 0.5]]), pn.LinearDictionary(torch.eye(3))
        >>> pn.solve(x, D, solver=pn.OMP(nonzeros=2)).code.tolist()
        [[3.0, -2.0, 0.0]]
    """

    whole_problem: ClassVar[bool] = True
    nonzeros: int | None = None
    residual: float | None = None

    def __post_init__(self) -> None:
        if self.nonzeros is None and self.residual is None:
            raise ValueError("OMP has no stopping criterion; give nonzeros, residual, or both")
        if self.nonzeros is not None and (type(self.nonzeros) is not int or self.nonzeros < 1):
            raise ValueError(f"nonzeros is {self.nonzeros!r}; expected an integer ≥ 1")
        if self.residual is not None and not (isinstance(self.residual, Real) and self.residual >= 0):
            raise ValueError(f"residual is {self.residual!r}; expected a number ≥ 0")

    @torch.no_grad()
    def run(
        self, signal: Float[Tensor, "B channels *size"], dictionary: Dictionary, max_steps: int
    ) -> tuple[Float[Tensor, "B code_channels *code_size"], int, Tensor]:
        """Return the code, the number of steps, and which examples met the criterion, (B,)."""
        x, shape = signal.flatten(1), signal.shape
        fit = _Fit(x.double(), dictionary, shape)
        norms = dictionary.atom_norms(shape).flatten(1)
        goal = torch.full_like(x[:, 0], 0.0 if self.residual is None else self.residual)
        goal = goal.maximum(x.norm(dim=1) * 8 * torch.finfo(x.dtype).eps)  # below, only rounding errors are left
        most = min(max_steps, self.nonzeros or max_steps, norms.shape[1])
        searching, taken = fit.rest.norm(dim=1) > goal, 0
        while taken < most and searching.any():
            match = dictionary.analyze(fit.rest.to(x.dtype).view(shape)).flatten(1).abs() / norms
            searching &= fit.add_atom(match.nan_to_num(0, 0, 0).argmax(1), searching)
            searching &= fit.rest.norm(dim=1) > goal
            taken += 1
        met = fit.rest.norm(dim=1) <= goal
        if self.nonzeros is not None:
            met |= searching & (taken == self.nonzeros)
        size = dictionary.code_size(shape) if dictionary.dims else ()
        code = torch.zeros(len(x), norms.shape[1], dtype=x.dtype, device=x.device)
        return code.scatter_add(1, fit.chosen, fit.weights.to(x.dtype)).view(len(x), -1, *size), taken, met


class _Fit:
    """A least-squares fit by a growing number of columns of D, one more per example at a time.

    Keeps the Cholesky factor of their Gram matrix; an example that has stopped gets columns of zeros. The Gram matrix
    squares the condition number of the columns, so all is in float64; a column of a dictionary in float32 is known only
    up to rounding, and counts as independent above the square root of that.

    Args:
        x: the signals to fit, (B, numel), in float64.
        dictionary: D.
        shape: that of the signal, (B, channels, …).
    """

    def __init__(self, x: Tensor, dictionary: Dictionary, shape: torch.Size) -> None:
        self.x, self.dictionary, self.shape = x, dictionary, shape
        self.chosen = torch.zeros(len(x), 0, dtype=torch.long, device=x.device)
        self.weights, self.rest = x[:, :0], x
        self.places: Tensor | None = None
        self.values = x.new_zeros(len(x), 0, 0)
        self.factor = x.new_zeros(len(x), 0, 0)

    def add_atom(self, atom: Tensor, wanted: Tensor) -> Tensor:
        """Add one column to each wanted example and fit again; return which were independent of the earlier ones."""
        places, values = self.dictionary.columns(atom, self.shape)
        least = max(1e-6, torch.finfo(values.dtype).eps ** 0.5)
        values = values.to(self.x.dtype)
        column = torch.zeros_like(self.x).scatter_add(1, places, values)
        row, pivot = self._extend(column)
        independent = wanted & (pivot > least * column.norm(dim=1))
        live = independent[:, None].to(values.dtype)
        self._append(atom, places, values * live, row * live, torch.where(independent, pivot, 1.0))
        self._refit()
        return independent

    def _extend(self, column: Tensor) -> tuple[Tensor, Tensor]:
        """Return the new row of the Cholesky factor and its pivot."""
        if self.places is None:
            return column[:, :0], column.norm(dim=1)
        n, k, taps = self.values.shape
        overlap = (column.gather(1, self.places.view(n, -1)).view(n, k, taps) * self.values).sum(2)
        row = torch.linalg.solve_triangular(self.factor, overlap.unsqueeze(2), upper=False).squeeze(2)
        return row, (column.square().sum(1) - row.square().sum(1)).clamp(min=0).sqrt()

    def _append(self, atom: Tensor, places: Tensor, values: Tensor, row: Tensor, pivot: Tensor) -> None:
        self.chosen = torch.cat([self.chosen, atom[:, None]], 1)
        self.places = places[:, None] if self.places is None else torch.cat([self.places, places[:, None]], 1)
        self.values = values[:, None] if not self.values.numel() else torch.cat([self.values, values[:, None]], 1)
        wider = torch.nn.functional.pad(self.factor, (0, 1))
        self.factor = torch.cat([wider, torch.cat([row, pivot[:, None]], 1)[:, None]], 1)

    def _refit(self) -> None:
        n, k, taps = self.values.shape
        places = self.places.view(n, -1) if self.places is not None else self.chosen
        right = (self.x.gather(1, places).view(n, k, taps) * self.values).sum(2, keepdim=True)
        self.weights = torch.cholesky_solve(right, self.factor).squeeze(2)
        model = (self.values * self.weights[..., None]).view(n, -1)
        self.rest = self.x - torch.zeros_like(self.x).scatter_add(1, places, model)
