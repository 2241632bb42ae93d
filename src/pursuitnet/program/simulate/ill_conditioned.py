"""The ill-conditioned example of Section V-B: D alone loses the whole signal, [I D] recovers it."""

from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pursuitnet.dictionaries import Dictionary, LinearDictionary, WithIdentity
from pursuitnet.problems import solve
from pursuitnet.program.simulate.record import DENSE, PLAIN, Result, caption, hide_spines
from pursuitnet.prox.threshold import soft_threshold
from pursuitnet.theory import better_code, unsuccessful

MATRIX, BETA = ((0.1, 0.1, 0.2), (0.1, 0.2, 0.1)), 1 / 3


def compute() -> Result:
    """Code x = (1, 1) over D and over [I D] in the paper's ways, and compare with Theorem 1."""
    x = torch.ones(1, 2, dtype=torch.float64)
    D = LinearDictionary(torch.tensor(MATRIX, dtype=torch.float64).T.contiguous())
    rows = {title: _row(x, dictionary, code) for title, (dictionary, code) in codes(x, D).items()}
    alone = solve(x, D, BETA).code
    drops = {
        name: float(better_code(x, alone, D, BETA, shrink=shrink).drop)
        for name, shrink in (("proof", False), ("best", True))
    }
    numbers: dict[str, Any] = {"figure": "ill-conditioned", "D": MATRIX, "beta": BETA, "x": [1, 1], "codes": rows}
    numbers["drop_of_theorem_1"] = drops
    return Result("ill-conditioned", numbers, {"ill-conditioned": picture(rows)}, table(rows, drops))


def codes(x: Tensor, D: Dictionary) -> dict[str, tuple[Dictionary, Tensor]]:
    """Return the codes by name, each with its dictionary."""
    dense = WithIdentity(D)
    alone = solve(x, D, BETA).code
    return {
        "D, optimum": (D, alone),
        "[I D], one step, L = 2λmax": (dense, one_step(x, dense, 2 * dense.lipschitz())),
        "[I D], one step, L = λmax": (dense, one_step(x, dense, dense.lipschitz())),
        "[I D], η of Theorem 1's proof": (dense, better_code(x, alone, D, BETA).code),
        "[I D], optimum": (dense, solve(x, dense, BETA, tol=1e-12, max_steps=10_000).code),
    }


def one_step(x: Tensor, dictionary: Dictionary, lipschitz: float) -> Tensor:
    """Return S_{β/L}(Dᵀx/L), Eq. 3."""
    return soft_threshold(dictionary.analyze(x) / lipschitz, BETA / lipschitz)


def _row(x: Tensor, dictionary: Dictionary, code: Tensor) -> dict[str, Any]:
    """Return code, reconstruction, objective and the number of unsuccessful dimensions."""
    code = code.detach()
    reconstruction = dictionary.synthesize(code, x.shape).detach()
    return {
        "code": [round(v, 6) for v in code[0].tolist()],
        "reconstruction": [round(v, 6) for v in reconstruction[0].tolist()],
        "objective": round(float((x - reconstruction).square().sum() / 2 + BETA * code.abs().sum()), 6),
        "unsuccessful": int(unsuccessful(x, reconstruction, BETA).sum()),
    }


def table(rows: dict[str, dict[str, Any]], drops: dict[str, float]) -> str:
    """Return the numbers as Markdown."""
    lines = ["| code | Γ | ξ | objective | unsuccessful |", "|---|---|---|---|---|"]
    for title, row in rows.items():
        code, reconstruction = (", ".join(f"{v:.3g}" for v in row[key]) for key in ("code", "reconstruction"))
        lines.append(f"| {title} | {code} | {reconstruction} | {row['objective']:.4f} | {row['unsuccessful']} of 2 |")
    drop = f"Theorem 1's drop: {drops['proof']:.4f}; with the best identity part for the same Γ: {drops['best']:.4f}"
    return "\n".join([*lines, "", drop])


def picture(rows: dict[str, dict[str, Any]]) -> Figure:
    """Plot the reconstruction of each code, and its objective."""
    figure = Figure(figsize=(11, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    _bars(left, rows, [row["reconstruction"][0] for row in rows.values()])
    _bars(right, rows, [row["objective"] for row in rows.values()])
    left.axvspan(1 - 2 * BETA, 1, color="#047857", alpha=0.12, lw=0, zorder=0)
    left.axvline(1, color="#047857", lw=1.2)
    left.text(0.99, -0.72, "x = (1, 1); success within 2β", ha="right", fontsize=9, color="#047857")
    left.set_xlabel("ξ = DΓ, the same in both dimensions")
    right.set_xlabel("½‖x − DΓ‖² + β‖Γ‖₁")
    left.set(xlim=(0, 1.08), ylim=(len(rows) - 0.4, -1))
    right.set_xlim(0, 1.15)
    caption(figure, "D = [[0.1, 0.1, 0.2], [0.1, 0.2, 0.1]], β = 1/3 for every atom, soft threshold S.")
    return figure


def _bars(axis: Axes, rows: dict[str, dict[str, Any]], values: list[float]) -> None:
    """Plot one bar per code, with its value."""
    colors = [PLAIN if title.startswith("D,") else DENSE for title in rows]
    axis.barh(list(rows), values, color=colors, height=0.6, zorder=2)
    for place, value in enumerate(values):
        axis.text(value + 0.01, place, f"{value:.3f}", va="center", fontsize=9)
    hide_spines(axis)
