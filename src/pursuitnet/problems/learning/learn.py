"""``learn``: the dictionary that codes some images best, in rounds over all of them or once along a stream."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from pursuitnet.dictionaries import Dictionary
from pursuitnet.dictionaries.inputs import kind_of
from pursuitnet.problems.iht import IHT
from pursuitnet.problems.inputs import tensor_of
from pursuitnet.problems.learning import images as incoming
from pursuitnet.problems.learning.alternating import AlternatingLearner
from pursuitnet.problems.learning.codes import Coder
from pursuitnet.problems.learning.factors import factors_of
from pursuitnet.problems.learning.filters import Filters, filters_of, places_of
from pursuitnet.problems.learning.images import Batch
from pursuitnet.problems.learning.journal import Callback, CodeTotals, Journal, Report
from pursuitnet.problems.learning.online import OnlineLearner
from pursuitnet.problems.learning.plot import draw_atoms
from pursuitnet.problems.learning.saved import check_path, digest_of
from pursuitnet.problems.omp import OMP
from pursuitnet.problems.solve import ConvergenceWarning, check_budget, check_solver

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POSITIONS = 2**13
"""Code positions of a batch in online learning."""
ENTRIES = 2**24
"""Code entries of a batch in rounds over all images."""


@dataclass(frozen=True, repr=False)
class Learned:
    """The result of ``learn``.

    Attributes:
        dictionary: of the same kind as the initial one, with atoms of norm 1 at most.
        history: the certified reports: those whose gap is at most the requested one.
        usage: Σ|Γⱼ| of each atom as a fraction of the total: over all images, or over a stream with early batches
            forgotten.
        codes: of the images, if requested: one tensor, or one for each batch of a list.
        reason: "converged", "max_iterations", or "end of stream".
    """

    dictionary: Dictionary
    history: tuple[Report, ...]
    usage: Float[Tensor, " atoms"]
    codes: Tensor | tuple[Tensor, ...] | None = None
    reason: str = "converged"

    def plot(self, axes: "Axes | None" = None, *, most: int = 100) -> "Axes":
        """Draw the atoms, those with the largest ``usage`` first, each on a scale of its own.

        Args:
            axes: where to draw; by default those of a new figure, ``plot().figure``.
            most: the most atoms to draw.

        Returns:
            The axes.

        Raises:
            ValueError: for atoms that are neither signals nor images of 1 or 3 channels.
            ImportError: if matplotlib is not installed.
        """
        return draw_atoms(self.dictionary, self.usage, axes, most)

    def __repr__(self) -> str:
        last = self.history[-1] if self.history else None
        numbers = f", objective={last.objective:.6g}, gap={last.gap:.1e}, iterations={last.iteration}" if last else ""
        return f"Learned({self.dictionary}{numbers}, reason={self.reason!r})"


def learn(
    images: Any,
    dictionary: Dictionary | Sequence[Dictionary],
    beta: float | Tensor,
    *,
    nonnegative: bool = False,
    mask: incoming.Mask = None,
    online: bool | None = None,
    batch_size: int | None = None,
    max_iterations: int | None = None,
    tol: float = 1e-4,
    gap: float = 1e-4,
    solver: Any = None,
    max_steps: int = 1000,
    forget: float = 10.0,
    seed: int = 0,
    codes: bool = False,
    atom_nonzeros: int | Sequence[int | None] | None = None,
    callback: Callback | None = None,
    checkpoint: str | Path | None = None,
) -> Learned:
    """Learn the dictionary that codes images best, min over D, Γ of Σ ½‖xₙ − DΓₙ‖² + β‖Γₙ‖₁ with ‖dⱼ‖ ≤ 1.

    Codes are computed to a certificate, starting at those of the round before; then the filters for these codes, by
    accelerated projected gradients on the exact quadratic, which depends on the codes only through their correlations.
    Atoms that no image uses are replaced by the patches with the largest residual. On a stream every image is used once
    and the correlations are summed, so that memory does not grow with the number of images (after Mairal, Bach, Ponce
    and Sapiro, 2010). Equal seeds give equal results on CPUs.

    Several dictionaries are learned as the layers of one multi-layer model, D = D₁·D₂·…, each with atoms of norm 1 at
    most: Γ is the deepest code, and the atoms after the first layer are sparse (after Sulam, Papyan, Romano and Elad,
    2018). Only the first layer may be padded.

    Args:
        images: x: a tensor (N, channels, …), a list of such batches, which may be of different sizes, or any iterable
            of batches as a stream: of tensors, or of pairs (images, labels).
        dictionary: the initial one: a ConvDictionary, CircularDictionary, LinearDictionary, or [I D] of one, whose
            identity part then absorbs outliers; or several layers of one of the first three kinds, in a list or a
            ComposedDictionary. It is not changed.
        beta: β ≥ 0, a number or one for each channel of the code, (code_channels,).
        nonnegative: whether Γ ≥ 0.
        mask: nonzero where images are known, a tensor that broadcasts to them (or to each batch of a stream); "nan" if
            NaN stands for what is missing.
        online: learn batch by batch, as from a stream; by default only from a stream. A tensor or a list is used in
            random order, once or in ``max_iterations`` rounds.
        batch_size: images that are coded together; by default chosen for speed.
        max_iterations: maximum number of rounds over all images; by default 100, and online 1. A stream is used once.
        tol: stop when the relative decrease of the objective in a round is at most this.
        gap: relative duality gap of every objective in ``history``.
        solver: for the codes, as ``solve`` takes it; None or "auto" chooses by the dictionary and the density of the
            codes.
        max_steps: maximum number of steps of each solution.
        forget: online, at the t-th batch everything before it is weighted by (1 − 1/t)^forget.
        seed: seed of the random order.
        codes: whether to return the codes; only in rounds over all images.
        atom_nonzeros: of several layers, the most non-zeros of an atom in the layers after the first: a number, or one
            for each of them; by default no limit.
        callback: called with a ``Report`` and the dictionary after each round or batch, also where the gap is not yet
            small enough for the history.
        checkpoint: file to which the state is written after each round, or each tenth batch; if it exists, learning
            resumes from it.

    Raises:
        TypeError: for an argument of the wrong kind.
        ValueError: for input that does not match, images that hold NaN or are all constant, more atoms than places, a
            filter larger than an image, a β so large that no atom is used, or a checkpoint of another problem.

    Warns:
        ConvergenceWarning: if the last codes do not reach the gap.
    """
    factors = factors_of(dictionary, atom_nonzeros)
    D = factors.dictionary
    filters, weights = filters_of(D), _beta_tensor(beta, D)
    if isinstance(images, str | Path):
        raise TypeError(
            f"images is {images!r}; expected a tensor (N, channels, …), a list of them, or an iterable of batches; "
            "`pursuitnet learn` reads files"
        )
    streamed = incoming.is_stream(images)
    online = streamed if online is None else online
    _check_kinds(nonnegative=nonnegative, online=online, codes=codes)
    _check_numbers(batch_size, max_iterations, tol, forget, seed)
    solver = None if isinstance(solver, str) and solver == "auto" else solver
    _check_solver(solver)
    check_budget(max_steps, gap, "gap")
    if streamed and not online:
        raise ValueError("images is a stream and online is False; expected a tensor or a list of batches for rounds")
    if online and codes:
        raise ValueError(
            "codes is True, and online no codes are kept; expected rounds over a tensor, or call solve afterwards"
        )
    if streamed and (max_iterations or 1) > 1:
        raise ValueError(f"max_iterations is {max_iterations}, and a stream is used once; expected a tensor or a list")
    batches = [] if streamed else incoming.whole(images, filters, mask)
    if batches:
        incoming.check_worth(batches, filters, weights[-sum(filters.code_channels) :])
    asked = {
        "beta": weights.tolist(), "nonnegative": nonnegative, "online": online, "seed": seed, "forget": forget,
        "dictionary": str(factors.result), "batch_size": batch_size, "atom_nonzeros": atom_nonzeros,
    }  # fmt: skip
    if checkpoint is not None:
        checkpoint = Path(checkpoint)
        check_path(checkpoint)
        asked |= {"filters": digest_of({"weight": factors.weight}), "images": _digest(batches)}
    journal = Journal(gap, callback, checkpoint, asked)
    with torch.no_grad():
        coder = Coder(weights, nonnegative, max_steps, solver)
        if online:
            learner = OnlineLearner(factors, coder, journal, forget)
            order = incoming.stream(images, filters, mask) if streamed else _shuffled(
                batches, filters, batch_size, max_iterations or 1, seed
            )  # fmt: skip
            reason = "end of stream" if streamed else "max_iterations"
            return _result(factors.result, learner.run(order), journal, reason)
        sized = [b.split(batch_size or _batch_size(b, D)) for b in batches]
        rounds = AlternatingLearner(factors, [part for parts in sized for part in parts], coder, journal)
        tally, reason = rounds.run(100 if max_iterations is None else max_iterations, tol)
        result = _result(factors.result, tally, journal, reason)
        if not codes:
            return result
        parts = iter(rounds.codes())
        whole = tuple(torch.cat([next(parts) for _ in some]) for some in sized)
        return replace(result, codes=whole if isinstance(images, list | tuple) else whole[0])


def _result(D: Dictionary, tally: CodeTotals, journal: Journal, reason: str) -> Learned:
    """Return the result, with a warning if the last codes are not certified."""
    if tally.gap > journal.gap:
        warnings.warn(
            f"the last codes have a duality gap of {tally.gap:.1e}, above {journal.gap:g}; give more max_steps, a "
            "larger gap, or compute in float64",
            ConvergenceWarning,
            stacklevel=3,
        )
    usage = torch.as_tensor(tally.usage)
    share = usage / usage.sum().clamp(min=torch.finfo(usage.dtype).tiny)
    return Learned(D.requires_grad_(True), tuple(journal.history), share, None, reason)


def _shuffled(batches: list[Batch], filters: Filters, size: int | None, rounds: int, seed: int) -> Iterator[Batch]:
    """Yield all images in random order, in small batches, ``rounds`` times."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(rounds):
        parts = []
        for batch in batches:
            order = torch.randperm(len(batch.signal), generator=generator).to(batch.signal.device)
            places = places_of(filters, batch.signal.shape)
            parts += batch.chosen(order).split(size or min(256, max(1, POSITIONS // places)))
        for i in torch.randperm(len(parts), generator=generator).tolist():
            yield parts[i]


def _digest(batches: list[Batch]) -> str:
    """Return a checksum of images and masks."""
    signals = {f"signal {i}": batch.signal for i, batch in enumerate(batches)}
    return digest_of(signals | {f"mask {i}": b.mask for i, b in enumerate(batches) if b.mask is not None})


def _batch_size(batch: Batch, D: Dictionary) -> int:
    """Return the number of images to code together in rounds."""
    one = sum(D.code_channels) * places_of(filters_of(D), batch.signal.shape)
    return max(1, ENTRIES // one)


def _beta_tensor(beta: Any, dictionary: Dictionary) -> Tensor:
    """Return β as a tensor of one number, or one for each channel."""
    if isinstance(beta, (str, bool)) or beta is None:
        raise TypeError(
            f"beta is {beta!r}; expected a number ≥ 0, or one for each of {sum(dictionary.code_channels)} channels"
        )
    weight = dictionary._reference_tensor()
    value = tensor_of("beta", beta, weight).detach().to(weight).flatten()
    if len(value) not in (1, sum(dictionary.code_channels)):
        raise ValueError(
            f"beta has shape {tuple(torch.as_tensor(beta).shape)}; expected a number ≥ 0, or "
            f"({sum(dictionary.code_channels)},)"
        )
    if not bool((value.isfinite() & (value >= 0)).all()):
        worst = float(value[~(value >= 0) | ~value.isfinite()][0])
        raise ValueError(f"beta is {worst:g}{' for a channel' if len(value) > 1 else ''}; expected finite numbers ≥ 0")
    return value


def _check_kinds(**flags: Any) -> None:
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} is {kind_of(value)}; expected True or False")


def _check_numbers(batch_size: Any, max_iterations: Any, tol: Any, forget: Any, seed: Any) -> None:
    for name, value, least in (("batch_size", batch_size, 1), ("max_iterations", max_iterations, 0), ("seed", seed, 0)):
        if value is not None and (type(value) is not int or value < least):
            raise ValueError(f"{name} is {value!r}; expected an integer ≥ {least}")
    for name, value in (("tol", tol), ("forget", forget)):
        if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= float(value) < torch.inf:
            raise ValueError(f"{name} is {value!r}; expected a number ≥ 0")


def _check_solver(solver: Any) -> None:
    if solver is not None:
        check_solver(solver)
    if isinstance(solver, OMP | IHT):
        name = type(solver).__name__
        raise ValueError(f"solver is {name}, whose codes have no certificate; expected FISTA(), ISTA() or WorkingSet()")
