"""
Which solver when
=================

``ISTA`` is the plain step, ``FISTA`` adds momentum, ``ADMM`` solves a least-squares problem in every step, and
``WorkingSet`` solves small problems on the columns in use, at first those that ``ADMM`` has found if it is the
``initial_solver``. Which one is fastest depends on how sparse the solution is, that is, on β, and on the gap to reach;
all of them prove it. ``solver="auto"``, the default, chooses.
"""

import time
import warnings

import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_sample_image

import pursuitnet as pn

warnings.simplefilter("ignore", pn.ConvergenceWarning)  # they are stopped early on purpose

# %%
# A small detail of a photograph and random filters, as in :ref:`sphx_glr_auto_examples_coding_code_a_photograph.py`.
x = torch.from_numpy(load_sample_image("flower.jpg").copy())[100:148, 250:298].float().mean(-1)[None, None] / 255
x = x - x.mean()
filters = torch.randn(16, 1, 5, 5, generator=torch.Generator().manual_seed(0))
filters -= filters.mean((2, 3), keepdim=True)
D = pn.ConvDictionary(filters / filters.flatten(1).norm(dim=1).view(-1, 1, 1, 1), padding=2).requires_grad_(False)

# %%
# Each solver takes more and more steps; a dot is one run, from zero.
budgets = {"ISTA": (20, 100, 400), "FISTA": (20, 100, 400), "ADMM": (20, 100, 400), "WorkingSet": (1, 3, 6, 10, 14)}
budgets["ADMM, then WorkingSet"] = (12, 14, 76, 80, 90)
solvers = {"ISTA": pn.ISTA(), "FISTA": pn.FISTA(), "ADMM": pn.ADMM(), "WorkingSet": pn.WorkingSet()}
solvers["ADMM, then WorkingSet"] = pn.WorkingSet(initial_solver=pn.ADMM())
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
for axis, fraction in zip(axes, (0.3, 0.05), strict=True):
    beta = fraction * pn.beta_max(x, D)
    for name, solver in solvers.items():
        seconds, gaps = [], []
        for steps in budgets[name]:
            began = time.perf_counter()
            solution = pn.solve(x, D, beta, solver, max_steps=steps, tol=1e-5)
            seconds.append(time.perf_counter() - began)
            gaps.append(float(solution.gap))
        print(f"β = {fraction}·beta_max: {name} reaches a gap of {gaps[-1]:.0e}")
        axis.semilogy(seconds, gaps, "o-", label=name)
    print(f"auto: {pn.solve(x, D, beta, tol=1e-4).solver}")
    density = float((solution.code != 0).float().mean())
    axis.set(title=f"β = {fraction}·beta_max, {100 * density:.1f} % non-zero", xlabel="seconds")
axes[0].set_ylabel("proven relative distance from the minimum")
axes[0].legend()
plt.show()

# %%
# Few non-zeros: ``WorkingSet``. Many: ``ADMM``, and for small gaps ``WorkingSet`` after it. ``ISTA`` is for studying,
# and for layers, where one step is what a network computes. For a number of non-zeros instead of a β there is ``OMP``,
# see :ref:`sphx_glr_auto_examples_coding_matching_pursuit.py`.
