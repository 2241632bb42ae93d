"""
Orthogonal matching pursuit
===========================

``OMP`` answers another question than the Lasso: what are the best few atoms? It selects one atom after the other and
fits all selected ones again. Here signals are synthesized from random codes, and both ``OMP`` and the Lasso recover
the atoms: how often do they succeed, and what does Lemma 1 guarantee?
"""

import torch
from matplotlib import pyplot as plt

import pursuitnet as pn

generator = torch.Generator().manual_seed(0)

# %%
# 50 random unit atoms in 30 dimensions, and 100 signals for each number of non-zeros.
atoms = torch.randn(50, 30, generator=generator, dtype=torch.float64)
D = pn.LinearDictionary(atoms / atoms.norm(dim=1, keepdim=True)).requires_grad_(False)
mu = pn.theory.mutual_coherence(D)
bound = pn.theory.uniqueness_bound(mu)
print(f"μ = {mu:.3f}: Lemma 1 applies to codes with fewer than {bound:.2f} non-zeros")


def random_codes(nonzeros, count=100):
    """Return codes (count, 50) with ``nonzeros`` non-zeros, each of size 1 to 2 and of either sign."""
    places = torch.rand(count, 50, generator=generator).argsort(1)[:, :nonzeros]
    sizes = 1 + torch.rand(count, nonzeros, generator=generator, dtype=torch.float64)
    signs = torch.randint(0, 2, (count, nonzeros), generator=generator) * 2 - 1
    return torch.zeros(count, 50, dtype=torch.float64).scatter(1, places, sizes * signs)


# %%
# The Lasso shrinks its coefficients, so its support is taken as that of the largest ones.
numbers, rates = range(1, 16), {"OMP": [], "Lasso": []}
for nonzeros in numbers:
    truth = random_codes(nonzeros)
    x = D.synthesize(truth)
    greedy = pn.solve(x, D, solver=pn.OMP(nonzeros)).code
    lasso = pn.solve(x, D, 0.01 * pn.beta_max(x, D), max_steps=1000, tol=1e-3).code
    for name, code in (("OMP", greedy), ("Lasso", lasso)):
        largest = torch.zeros_like(code).scatter(1, code.abs().topk(nonzeros).indices, 1.0)
        rates[name].append(float((largest.bool() == (truth != 0)).all(1).double().mean()))

figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
for name, values in rates.items():
    axis.plot(numbers, values, "o-", label=name)
axis.axvspan(0.5, bound, color="tab:green", alpha=0.15, label="guaranteed by Lemma 1")
axis.set(xlabel="non-zeros", ylabel="rate of exact recovery", ylim=(-0.05, 1.05), xlim=(0.5, 15.5))
axis.legend()
plt.show()

# %%
# Both recover the support far beyond what the lemma guarantees: it is for the worst case.
