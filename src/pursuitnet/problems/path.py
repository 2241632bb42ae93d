"""Regularization paths: (P1) for decreasing β, each solved starting from the code before."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pursuitnet.dictionaries import Dictionary
from pursuitnet.dictionaries.inputs import check_count
from pursuitnet.problems.iht import IHT
from pursuitnet.problems.inputs import tensor_of, with_dictionary
from pursuitnet.problems.lasso import beta_max
from pursuitnet.problems.omp import OMP
from pursuitnet.problems.solve import AnySolver, Solution, solve

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, repr=False)
class RegularizationPath:
    """The result of ``path``: a solution for each β, from the largest on.

    Attributes:
        betas: β, (n, B, 1, …), in which ``betas[i]`` is what ``solve`` takes.
        solutions: those of ``solve``, n of them.
    """

    betas: Float[Tensor, "n B *ones"]
    solutions: tuple[Solution, ...]

    @property
    def codes(self) -> Float[Tensor, "n B code_channels *code_size"]:
        """The codes, as one tensor: a copy of all of them."""
        return torch.stack([solution.code for solution in self.solutions])

    @property
    def gaps(self) -> Float[Tensor, "n B"]:
        """The duality gaps relative to the objective."""
        return torch.stack([solution.gap for solution in self.solutions])

    @property
    def nonzeros(self) -> Int[Tensor, "n B"]:
        """The number of non-zeros of each code."""
        return torch.stack([(solution.code != 0).flatten(1).sum(1) for solution in self.solutions])

    def plot(self, axes: "Axes | None" = None, *, example: int = 0, most: int = 30) -> "Axes":
        """Draw the code of one example against β, which decreases to the right, and its number of non-zeros.

        A β of 0 is left out, since the scale is logarithmic.

        Args:
            axes: where to draw; by default those of a new figure, which ``.figure.savefig(path)`` writes.
            example: index of the example.
            most: number of coefficients to draw: those that become the largest.

        Returns:
            The axes of the coefficients.

        Raises:
            ValueError: for an example that does not exist, and a path without two β > 0.
            ImportError: if matplotlib is not installed.
        """
        check_count("most", most, 1, "the number of coefficients to draw")
        if type(example) is not int or not 0 <= example < self.betas.shape[1]:
            raise ValueError(f"example is {example!r}; expected an index from 0 to {self.betas.shape[1] - 1}")
        betas = self.betas.flatten(2)[:, example, 0].detach().cpu()
        shown = betas > 0
        if int(shown.sum()) < 2:
            raise ValueError(f"the path has {int(shown.sum())} β > 0; expected two or more to draw")
        codes = torch.stack([solution.code[example].flatten().detach().cpu() for solution in self.solutions])
        nonzeros = (codes != 0).sum(1)
        drawn = codes[:, codes.abs().amax(0).topk(min(most, codes.shape[1])).indices]
        return _draw(axes, betas[shown], drawn[shown], nonzeros[shown])

    def __len__(self) -> int:
        return len(self.solutions)

    def __iter__(self) -> Iterator[Solution]:
        return iter(self.solutions)

    def __repr__(self) -> str:
        ends = [f"{float(b.amax()):.3g}" for b in (self.betas[0], self.betas[-1])]
        return f"RegularizationPath({len(self)} solutions, β from {ends[0]} to {ends[1]})"


def _draw(axes: "Axes | None", betas: Tensor, coefficients: Tensor, nonzeros: Tensor) -> "Axes":
    """Draw coefficients (n, k) and numbers of non-zeros (n,) against β (n,)."""
    if axes is None:
        from matplotlib.figure import Figure  # the library itself does not need it

        axes = Figure(figsize=(6, 3.8), layout="constrained").add_subplot()
    ink, gray = "#31518f", "#a8a8a8"
    count = axes.twinx()
    count.step(betas, nonzeros, where="mid", color=gray, linewidth=1.4, linestyle=(0, (4, 3)))
    count.set_ylabel("non-zeros (dashed)", color="#707070")
    count.set_ylim(bottom=0)
    count.spines[["top", "left"]].set_visible(False)
    largest = coefficients.abs().amax(0)
    for line, size in zip(coefficients.T, (largest / largest.amax().clamp(min=1e-30)).tolist(), strict=True):
        axes.plot(betas, line, color=ink, alpha=0.25 + 0.75 * size, linewidth=1.4)
    axes.axhline(0, color=gray, linewidth=0.8, zorder=0)
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.set(xlabel="β", ylabel="coefficients")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_zorder(count.get_zorder() + 1)
    axes.patch.set_visible(False)
    return axes


def path(
    signal: Float[Tensor, "B channels *size"],
    dictionary: Dictionary,
    betas: Sequence[float] | Tensor | None = None,
    *,
    eps: float = 1e-2,
    n_betas: int = 20,
    solver: AnySolver | Literal["auto"] = "auto",
    nonnegative: bool = False,
    **options: Any,
) -> RegularizationPath:
    """Solve (P1) for decreasing β, each starting from the code before: scikit-learn's ``lasso_path`` on any dictionary.

    The first β of an example is its ``beta_max``, whose code is zero; the others decrease to eps times that in
    equal ratios.

    Args:
        signal: x, (B, channels, …), as ``solve`` takes it.
        dictionary: D.
        betas: instead of eps and n_betas, in any order: (n,), the same for all examples, or (n, B, 1, …). The path
            begins at the largest.
        eps: the last β as a fraction of the first.
        n_betas: number of β.
        solver: as ``solve`` takes it, except OMP and IHT.
        nonnegative: restrict Γ to Γ ≥ 0.
        options: the others of ``solve``: max_steps, tol, …

    Raises:
        TypeError: for an argument of the wrong kind.
        ValueError: for input that does not fit; the message says what came and what was expected.

    Warns:
        ConvergenceWarning: as ``solve`` does.

    Example:
        >>> import torch
        >>> import pursuitnet as pn
        >>> result = pn.path(torch.tensor([[4.0, -2.0, 1.0]]), pn.LinearDictionary(torch.eye(3)), eps=0.25, n_betas=3)
        >>> result.betas.flatten().tolist(), result.nonzeros.flatten().tolist()
        ([4.0, 2.0, 1.0], [0, 1, 2])
    """
    if "start" in options or "beta" in options:
        name = "start" if "start" in options else "beta"
        raise TypeError(f"{name} was given; a path begins at zero, at the largest of its betas: leave it out")
    if isinstance(solver, OMP | IHT):
        raise ValueError(f"{type(solver).__name__} takes no path, which is of (P1); expected FISTA() or the like")
    signal = with_dictionary("the signal", signal, dictionary)
    falling = _own(betas, signal) if betas is not None else _falling(signal, dictionary, eps, n_betas, nonnegative)
    solutions: list[Solution] = []
    for beta in falling:
        start = solutions[-1].code.detach() if solutions else None
        solutions.append(solve(signal, dictionary, beta, solver, nonnegative, start=start, **options))
    return RegularizationPath(falling, tuple(solutions))


def _falling(signal: Tensor, dictionary: Dictionary, eps: float, n_betas: int, nonnegative: bool) -> Tensor:
    """Return equal ratios from β_max of each example to eps times that, (n, B, 1, …)."""
    check_count("n_betas", n_betas, 1, "the number of β")
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 < eps < 1:
        raise ValueError(f"eps is {eps!r}; expected a number between 0 and 1, the last β as a fraction of the first")
    first = beta_max(signal, dictionary, nonnegative)
    shares = torch.logspace(0, 1, n_betas, base=eps, dtype=torch.float64, device=signal.device).to(signal.dtype)
    return shares.view(-1, *[1] * first.dim()) * first


def _own(betas: Sequence[float] | Tensor, signal: Tensor) -> Tensor:
    """Return the given β in decreasing order, (n, B, 1, …)."""
    value, ones = tensor_of("betas", betas, signal).to(signal), [1] * (signal.dim() - 1)
    if not len(value) or (value.dim() != 1 and tuple(value.shape[1:]) != (len(signal), *ones)):
        each = ", ".join(map(str, ("n", len(signal), *ones)))
        raise ValueError(f"betas has shape {tuple(value.shape)}; expected (n,), or ({each}) for one in each example")
    if not (value.isfinite() & (value >= 0)).all():
        worst = float(value[~value.isfinite() | (value < 0)][0])
        raise ValueError(f"betas holds {worst:g}; expected finite numbers ≥ 0")
    value = value.view(-1, 1, *ones).expand(-1, len(signal), *ones) if value.dim() == 1 else value
    return value.sort(dim=0, descending=True).values
