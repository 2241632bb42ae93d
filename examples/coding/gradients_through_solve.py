"""
Gradients through ``solve``
===========================

The solution of a Lasso is a function of the image, of the dictionary and of β, and ``solve`` is differentiable in all
three: by implicit differentiation, whose memory does not grow with the number of steps. Here it trains a filter.
"""

import torch
from matplotlib import pyplot as plt

import pursuitnet as pn

torch.manual_seed(0)

# %%
# Signals that are sums of a few shifted copies of one pulse, with noise.
pulse = torch.tensor([0.0, 0.2, 1.0, 0.5, -0.6, -0.3, 0.0])[None, None]
pulse /= pulse.norm()
spikes = torch.rand(8, 1, 120).gt(0.96) * (1 + torch.rand(8, 1, 120))
x = pn.ConvDictionary(pulse, padding=3).synthesize(spikes, (8, 1, 120)).detach() + 0.02 * torch.randn(8, 1, 120)

# %%
# The gradient first: implicit against finite differences, in float64, with respect to β.
guess = torch.nn.functional.normalize(torch.randn(1, 1, 7), dim=2)
D = pn.ConvDictionary(guess.double(), padding=3)


def energy(beta):
    """Return ‖Γ‖² of the solution."""
    return pn.solve(x.double(), D, beta, tol=1e-12, max_steps=5000).code.square().sum()


beta = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
(implicit,) = torch.autograd.grad(energy(beta), beta)
with torch.no_grad():
    difference = (energy(beta + 1e-5) - energy(beta - 1e-5)) / 2e-5
print(f"implicit {float(implicit):.6f}, finite differences {float(difference):.6f}")

# %%
# Now the filter is learned, from a random one: up to a shift, which the signals do not determine.
D = pn.ConvDictionary(guess.clone(), padding=3)
optimizer, losses = torch.optim.Adam(D.parameters(), lr=0.05), []
for _ in range(50):
    code = pn.solve(x, D, 0.1, gradient="implicit").code
    loss = (x - D.synthesize(code, x.shape)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    D.weight.data /= D.weight.data.norm()  # unit norm, so that the penalty has the same effect throughout
    losses.append(loss.item())

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
left.semilogy(losses)
left.set(xlabel="step of the optimizer", ylabel="mean squared error")
for name, weight in (("made the signals", pulse), ("at the start", guess), ("learned", D.weight.data)):
    right.plot(weight[0, 0], "o-", label=name)
right.legend(title="the filter")
plt.show()
