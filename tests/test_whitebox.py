"""The white box against explicit matrices, scikit-learn, hooks, and networks that are taken apart by hand."""

import copy
import json
import re
from dataclasses import fields
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from makers import normal, uniform
from programs import called
from scipy.optimize import lsq_linear
from sklearn.linear_model import Lasso as ScikitLasso
from torch import nn
from torch.nn import functional as F

import pursuitnet as pn
from pursuitnet.problems.lasso import Lasso, lasso
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.trace import trace_layers
from pursuitnet.program.train import train
from pursuitnet.program.whitebox import SolverBudget
from pursuitnet.program.whitebox.interpret import interpret
from pursuitnet.program.whitebox.problem import LayerLasso, _reduced, solve_lasso
from pursuitnet.program.whitebox.torch_models import trace_torch_layers
from pursuitnet.program.whitebox.unfolding import at_steps
from pursuitnet.prox.norms import BatchNorm
from pursuitnet.prox.threshold import IdentityPenalty

EXACT = SolverBudget(images=2, further=2, steps=5000, tol=1e-9)
QUICK = SolverBudget(images=1, further=2, steps=20)
"""For what does not depend on how well a minimum is known."""


def stirred(model, seed=0):
    """A model in float64 with batch statistics, scales and shifts as training may leave them."""
    model = model.double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for name, low, high in (("running_mean", -0.3, 0.3), ("running_var", 0.2, 2.0), ("bias", -0.4, 0.2)):
                    value = getattr(module, name, None)
                    if value is not None:
                        value.uniform_(low, high, generator=generator)
                if module.weight is not None:
                    module.weight.uniform_(0.3, 1.5, generator=generator)
            if hasattr(module, "mean_square"):
                module.mean_square.uniform_(0.1, 2.0, generator=generator)
    return model


def layer_of(beta, *, identity=False, **choices):
    """A layer of one-channel filters, its c, and the explicit D for 1 × 5 × 5 signals."""
    inner = pn.ConvDictionary(normal(3, 1, 3, 3, seed=3), padding=1)
    dictionary = pn.WithIdentity(inner) if identity else inner
    layer = (
        pn.PursuitLayer(dictionary, threshold=pn.Threshold(dictionary.code_channels, beta), **choices).double().eval()
    )
    return layer, float(layer.step()[0].detach()), dictionary.matrix((1, 5, 5)).detach()


class Plain(nn.Module):
    """A model with modules and functions, things that can be read and things that cannot."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 6, 3, stride=2, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(6)
        self.same = nn.Conv2d(6, 6, (3, 1), padding="same", dilation=2)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout()
        self.grouped = nn.Conv2d(6, 6, 3, groups=2)
        self.mirrored = nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect")
        self.raised = nn.ConvTranspose2d(6, 4, 2)
        self.smooth = nn.Conv2d(4, 4, 1)
        self.hidden = nn.Linear(4, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        h = F.relu(self.norm(self.first(x)))
        h = self.relu(self.drop(self.second_norm(self.second(h))))
        h = torch.relu(self.same(h))
        h = h + 1
        h = self.relu(self.mirrored(self.relu(self.grouped(h))))
        h = F.gelu(self.smooth(F.relu(self.raised(h))))
        return self.head(F.relu(self.hidden(h.mean((2, 3)))))


READ = ["first", "second", "same", "grouped", "mirrored", "hidden"]


# --- the Lasso of a layer ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("unfolding", [0, 1, 2])
@pytest.mark.parametrize("norm", ["batch", "features", "whole", None])
def test_the_last_step_is_a_proximal_step_on_the_lasso_that_is_read(norm, unfolding):
    torch.manual_seed(0)
    model = stirred(pn.create_model("msd_csc_3", width=3, norm=norm, unfolding=unfolding))
    layer = model.pursuits()[0]
    x = uniform(0, 1, 2, 3, 6, 5, seed=1)
    found = interpret(trace_layers(model, x)[0], "first")
    probe = trace_layers(model, x)[0].codes[-2] if unfolding else None
    D, c = layer.dictionary.matrix(x.shape).detach(), float(layer.step()[0].detach())
    at = torch.zeros(2, D.shape[1]).double() if probe is None else probe.flatten(1)
    z = at - c * (at @ D.T - x.flatten(1)) @ D
    theta = (c * found.raw_beta).repeat_interleave(30)
    assert found.proximal and found.step == pytest.approx(c)
    assert found.code.flatten(1) == pytest.approx((z - theta).clamp(min=0).numpy(), abs=1e-12)


def test_in_evaluation_a_threshold_is_the_affine_map_that_it_says():
    z = (normal(2, 3, 4, seed=1), normal(2, 5, 4, seed=2))
    for identity in IdentityPenalty:
        for place in ("none", "scale", "batch"):
            norm = BatchNorm(affine=True, identity=place)
            threshold = stirred(pn.Threshold((3, 5), 0.1, identity, norm=norm, steps=2))
            parts = threshold.eval_affine(0.5, 1)
            for part, said, got in zip(z, parts, threshold(None, z, 0.5, 1), strict=True):
                value = said.scale.view(-1, 1) * part + said.shift.view(-1, 1)
                expected = value if said.theta is None else F.relu(value - said.theta.view(-1, 1))
                assert torch.equal(expected.detach(), got.detach()) or torch.allclose(expected, got, atol=1e-14)


@pytest.mark.parametrize("identity", [False, True])
def test_objective_minimum_and_gap_are_scikit_learns(identity):
    layer, _, D = layer_of(0.5, identity=identity, unfolding=1)
    x = uniform(0, 1, 2, 1, 5, 5, seed=5)
    found = pn.inspect(nn.Sequential(layer), x, budget=EXACT).layers[0].solving
    code, f, minimum = layer(x).detach().flatten(1), [], []
    for one, signal in zip(code, x.flatten(1), strict=True):
        fit = ScikitLasso(0.5 / len(D), fit_intercept=False, positive=True, tol=1e-14, max_iter=100_000)
        best = torch.from_numpy(fit.fit(D.numpy(), signal.numpy()).coef_)
        cost = [0.5 * (signal - D @ v).square().sum() + 0.5 * v.sum() for v in (one, best)]
        nothing = 0.5 * signal.square().sum()
        f.append(float(cost[0] / nothing)), minimum.append(float(cost[1] / nothing))
    assert found.objective == pytest.approx(np.mean(f), rel=1e-12)
    assert found.minimum == pytest.approx([np.mean(minimum)] * 2, rel=1e-7)
    assert found.gap[0] == pytest.approx(np.mean([1 - m / v for m, v in zip(minimum, f, strict=True)]), rel=1e-6)
    assert found.gap_at_least[0] == pytest.approx(found.gap[0], rel=1e-6)
    assert found.gap[0] > found.gap[1] > found.gap[2] > 0


def test_further_steps_are_the_layers_own_without_normalization():
    layer, _, _ = layer_of(0.5, unfolding=0)
    x = uniform(0, 1, 2, 1, 5, 5, seed=6)
    found = pn.inspect(nn.Sequential(layer), x, budget=EXACT).layers[0].solving
    problem = lasso(x, layer.dictionary, 0.5, nonnegative=True)
    code, minimum = layer(x), found_minimum(problem, x)
    for k in range(3):
        objective = problem.certificate((code,)).objective / (0.5 * x.flatten(1).square().sum(1))
        assert found.gap[k] == pytest.approx(float((1 - minimum / objective).mean()), rel=1e-5)
        (code,) = layer.update_at(1, (code,), x)


def plain_lasso(x, dictionary, beta):
    """(P1) with Γ ≥ 0 and the certificate that knows nothing of β = 0."""
    found = lasso(x, dictionary, beta, True)
    return Lasso(*(getattr(found, field.name) for field in fields(Lasso)))


def found_minimum(problem, x):
    solution = pn.solve(x, problem.dictionary, 0.5, nonnegative=True, max_steps=5000, tol=1e-10)
    return solution.objective / (0.5 * x.flatten(1).square().sum(1))


@pytest.mark.parametrize("identity", [False, True])
def test_a_zero_penalty_leaves_a_proven_bound_where_the_plain_certificate_has_none(identity):
    inner = pn.ConvDictionary(normal(4, 6, 3, 3, seed=2), padding=1).double()
    dictionary = pn.WithIdentity(inner) if identity else inner
    beta = torch.tensor([0.3] * (6 * identity) + [0.0, 0.4, 0.0, 0.8]).double()
    x = uniform(0, 1, 2, 6, 4, 4, seed=3)
    plain = plain_lasso(x, dictionary, beta)
    problem = LayerLasso(*vars(plain).values(), dictionary.lipschitz_bound().item())
    found = solve_lasso(problem.with_slack(), 3000, 1e-8)
    # the same minimum by another route: ½‖x − DΓ‖² + βᵀΓ is a bounded least-squares problem where D has full rank
    D, b = dictionary.matrix(x.shape).detach().numpy(), beta.repeat_interleave(16).numpy()
    for i, signal in enumerate(x.flatten(1).numpy()):
        shifted = signal - np.linalg.lstsq(D.T, b, rcond=None)[0] if not identity else None
        if shifted is not None:  # DᵀS = b has a solution S: ½‖x − S − DΓ‖² has the same minimizer
            gamma = lsq_linear(D, shifted, (0, np.inf), tol=1e-14).x
            least = 0.5 * np.sum((signal - D @ gamma) ** 2) + b @ gamma
            assert found.objective[i] == pytest.approx(least, rel=1e-6)
            assert found.bound[i] <= least * (1 + 1e-9)
    assert (found.bound <= found.objective * (1 + 1e-12)).all()
    assert (found.bound >= found.objective * (1 - 1e-4)).all()
    if not identity:
        assert (plain.certificate(found.code).gap > 0.5).all()


def test_where_free_atoms_can_cancel_each_other_the_bound_stays_zero():
    weight = normal(1, 1, 3, 3, seed=4)
    dictionary = pn.ConvDictionary(torch.cat([weight, -weight]), padding=1).double()
    x = uniform(0, 1, 1, 1, 4, 4)
    problem = LayerLasso(*vars(plain_lasso(x, dictionary, 0.0)).values(), dictionary.lipschitz_bound().item())
    assert problem.with_slack().slack is None
    assert float(solve_lasso(problem.with_slack(), 50, 1e-9).bound) == 0


def test_a_signed_identity_part_makes_the_minimum_zero_and_says_so():
    torch.manual_seed(0)
    model = pn.create_model("msd_csc_3", width=3, signed_input=True).double()
    found = pn.inspect(model, normal(4, 3, 6, 6, seed=1), unfolding=1, budget=QUICK)
    assert found.layers[0].solving.minimum == (0.0, 0.0) and found.layers[0].solving.gap[0] == 1.0
    assert all(any("no cost" in note for note in layer.notes) for layer in found.layers)
    other = pn.inspect(
        pn.create_model("msd_csc_3", width=3).double(), uniform(0, 1, 4, 3, 6, 6), unfolding=1, budget=QUICK
    )
    assert not any("no cost" in note for layer in other.layers for note in layer.notes)


def test_without_penalty_and_sign_nothing_below_zero_is_excluded_from_the_bound():
    x = -uniform(0, 1, 1, 1, 4, 4)
    dictionary = pn.WithIdentity(pn.ConvDictionary(normal(1, 1, 3, 3), padding=1)).double()
    plain = lasso(x, dictionary, torch.tensor([0.0, 9.0]), nonnegative=True)
    zero = (torch.zeros(1, 1, 4, 4).double(),) * 2
    free = LayerLasso(*vars(plain).values(), 9.0, trivial=True)
    assert plain.certificate(zero).gap < 0.5  # right for Γ ≥ 0 alone
    assert free.certificate(zero).gap == 1.0
    (identity, atoms), step = free(zero), float(plain.step)
    assert torch.allclose(identity, step * x) and not atoms.any()


@pytest.mark.parametrize("identity", [False, True])
def test_the_step_of_the_solver_is_never_too_long(identity):
    inner = pn.ConvDictionary(normal(4, 2, 3, 3, seed=2), padding=1).double()
    dictionary = pn.WithIdentity(inner) if identity else inner
    problem = LayerLasso(
        *vars(lasso(uniform(0, 1, 1, 2, 9, 9), dictionary, 0.1, True)).values(), dictionary.lipschitz_bound().item()
    )
    c = float(_reduced(problem).step)
    assert 0.5 < c * inner.lipschitz((1, 2, 9, 9)) <= 1


def test_starts_at_the_blocks_input_are_not_called_proximal_steps():
    torch.manual_seed(0)
    model = stirred(pn.create_model("res_csc_8", width=2))
    found = pn.inspect(model, normal(2, 3, 8, 8), unfolding=0, budget=QUICK)
    assert [layer.proximal for layer in found.layers] == [True] + [True, False] * 3
    assert all(layer.step_times_lipschitz == pytest.approx(1) for layer in found.layers)


# --- what is measured --------------------------------------------------------------------------------------------


def test_coherence_lipschitz_errors_and_sparsity_by_explicit_matrices():
    layer, c, D = layer_of(0.125, identity=True, unfolding=4)
    with torch.no_grad():
        layer.threshold.identity_weight.fill_(0.1875)
    x = uniform(0, 1, 3, 1, 5, 5, seed=7)
    found = pn.inspect(nn.Sequential(layer), x, budget=QUICK).layers[0]
    code = layer(x).detach().flatten(1)
    largest = float(torch.linalg.eigvalsh(D.T @ D)[-1])
    assert found.lipschitz[0] <= largest * (1 + 1e-9) and largest <= found.lipschitz[1] * (1 + 1e-9)
    assert found.step_times_lipschitz == pytest.approx(c * found.lipschitz[1])

    wide = pn.ConvDictionary(layer.dictionary.dictionary.weight.detach(), padding=1).matrix((1, 9, 9)).detach()
    inside = wide.view(81, 3, 9, 9)[:, :, 2:7, 2:7].flatten(1)
    unit = inside / inside.norm(dim=0)
    gram = (unit.T @ unit).abs().fill_diagonal_(0)
    assert found.coherence == pytest.approx(float(gram.max()), abs=1e-12)
    assert found.coherence_with_identity == pytest.approx(max(float(gram.max()), float(unit.abs().max())), abs=1e-12)

    off = x.flatten(1) - code @ D.T
    assert found.error == pytest.approx(float((off.norm(dim=1) / x.flatten(1).norm(dim=1)).median()), rel=1e-12)
    assert found.error == found.error_handed_on
    assert found.density == float((code[:, 25:] != 0).double().mean())
    assert found.identity_density == float((code[:, :25] != 0).double().mean())
    assert found.lemma1.value.median == float((code != 0).sum(1).double().median())
    assert found.lemma1.bound == pytest.approx(0.5 * (1 + 1 / found.coherence_with_identity))
    assert found.lemma1.ratio == pytest.approx(found.lemma1.value.median / found.lemma1.bound)
    assert found.lemma1.share == 0.0

    whole = sum(abs(float(v)) > 2 * 0.1875 for v in off.flatten())
    atoms = sum(abs(float(v)) > 2 * 0.1875 for v in (x.flatten(1) - code[:, 25:] @ D[:, 25:].T).flatten())
    assert whole != atoms
    assert (found.unsuccessful, found.unsuccessful_atoms) == pytest.approx((whole / 75, atoms / 75))


def test_a_layer_to_which_the_lemmas_apply_gets_their_verdict_and_their_bound():
    corners = torch.zeros(2, 1, 2, 2).double()
    corners[0, 0, 0, 0] = corners[1, 0, 1, 1] = 1
    corners[1, 0, 0, 0] = 0.5
    dictionary = pn.ConvDictionary(corners, stride=2)
    threshold = pn.Threshold(dictionary.code_channels, 0.05)
    x = torch.zeros(1, 1, 4, 4).double()
    x[0, 0, 1, 1] = 1.0  # one atom alone answers, by 1/√1.25
    found = pn.inspect(nn.Sequential(pn.PursuitLayer(dictionary, threshold=threshold).double()), x)
    mu = 0.5 / 1.25**0.5
    layer = found.layers[0]
    assert layer.coherence == pytest.approx(mu) and layer.coherence_with_identity is None
    assert layer.lemma1.value.most == 1 and layer.lemma1.share == layer.lemma2.share == 1.0
    assert layer.lemma1.ratio < 1
    assert found.error_bounds == (pytest.approx(4 / (1 - mu)),)


def test_at_the_bound_itself_lemma_2_applies_and_lemma_1_does_not():
    same = torch.zeros(2, 1, 2, 2).double()
    same[:, 0, 0, 0] = 1
    threshold = pn.Threshold((2,), 0.25).double()
    with torch.no_grad():
        threshold.atom_weight[1] = 9.0
    x = torch.zeros(1, 1, 4, 4).double()
    x[0, 0, 0, 0] = 1.0
    layer = pn.PursuitLayer(pn.ConvDictionary(same, stride=2), threshold=threshold).double()
    found = pn.inspect(nn.Sequential(layer), x).layers[0]
    assert (found.coherence, found.lemma1.bound, found.lemma1.value.most) == (1.0, 1.0, 1.0)
    assert (found.lemma1.share, found.lemma2.share) == (0.0, 1.0)


@pytest.mark.parametrize("name", ["msd_csc_3", "res_csc_8"])
def test_the_gap_at_other_steps_is_that_of_a_network_that_has_them(name):
    torch.manual_seed(0)
    model, x = stirred(pn.create_model(name, width=1)), uniform(0, 1, 1, 3, 4, 4, seed=4)
    budget = SolverBudget(images=1, steps=2000, tol=1e-3)
    for at in pn.inspect(model, x, unfolding=1, budget=budget).steps:
        other = copy.deepcopy(model)
        for layer in other.pursuits():
            layer.unfolding = at.unfolding
        gaps = [layer.solving.gap[0] for layer in pn.inspect(other, x, unfolding=0, budget=budget).layers]
        assert list(at.gaps) == pytest.approx(gaps, abs=2e-3)


def test_other_numbers_of_steps_are_tried_and_taken_back():
    model = pn.create_model("msd_csc_3", width=3, unfolding=2).eval()
    assert len(list(at_steps(model, torch.rand(2, 3, 8, 8), None, 1, SolverBudget(), {}))) == 2
    assert [layer.unfolding for layer in model.pursuits()] == [2, 2, 2]


def test_more_steps_give_the_accuracy_of_a_network_that_has_them():
    torch.manual_seed(0)
    model = stirred(pn.create_model("msd_csc_3", width=3, unfolding=1))
    images, labels = (
        uniform(0, 1, 40, 3, 8, 8, seed=2),
        torch.randint(10, (40,), generator=torch.Generator().manual_seed(1)),
    )
    found = pn.inspect(model, images[:4], (images, labels), unfolding=2, budget=QUICK)
    assert [at.unfolding for at in found.steps] == [0, 1, 2]
    assert [at.trained for at in found.steps] == [False, True, False]
    for at in found.steps:
        other = copy.deepcopy(model)
        for layer in other.pursuits():
            layer.unfolding = at.unfolding
        assert at.accuracy == float((other(images).argmax(1) == labels).double().mean())
    gaps = [layer.solving.gap[0] for layer in found.layers]
    assert list(found.steps[1].gaps) == gaps and None not in found.steps[2].gaps
    assert found.steps[1].gap == pytest.approx(float(np.median(gaps)), rel=1e-6)


def test_sweeps_over_several_layers_are_unfolded_as_sweeps():
    torch.manual_seed(0)
    model = stirred(pn.create_model("msd_csc_3", width=3, unfolding=2, sweep="multilayer", solver="fista"))
    found = pn.inspect(model, uniform(0, 1, 2, 3, 6, 6), unfolding=3, budget=QUICK)
    assert [at.trained for at in found.steps] == [False, False, True, False]
    assert len({at.gap for at in found.steps}) == 4


@pytest.mark.parametrize(("name", "trained"), [("ml_csc", 1), ("feed_forward", 0)])
def test_layers_beside_a_sweep_keep_their_single_step(name, trained):
    torch.manual_seed(0)
    model, x = stirred(pn.create_model(name, width=1)), uniform(0, 1, 3, 3, 8, 8)
    steps = pn.inspect(model, x, (x, torch.zeros(3, dtype=torch.long)), unfolding=2, budget=QUICK).steps
    assert [at.trained for at in steps] == [k == trained for k in range(3)]
    model.features[0].unfolding = 2
    assert steps[2].accuracy == float((model(x).argmax(1) == 0).double().mean())


def test_an_overflow_is_no_number_and_never_an_accuracy():
    torch.manual_seed(0)
    model = pn.create_model("msd_csc_3", width=3, norm=None, step="free")
    with torch.no_grad():
        for layer in model.pursuits():
            layer.step.c.fill_(1e4)
    images = uniform(0, 1, 4, 3, 8, 8).float()
    found = pn.inspect(model, images, (images, torch.zeros(4, dtype=torch.long)), unfolding=4, budget=QUICK)
    assert found.steps[4].accuracy is None and found.steps[4].gaps[-1] is None
    assert any("above 1/L" in note for note in found.layers[0].notes)
    json.dumps(found.to_json(), allow_nan=False)


# --- plain PyTorch models ----------------------------------------------------------------------------------------


def test_a_plain_models_layers_read_to_its_own_activations():
    torch.manual_seed(0)
    model = stirred(Plain())
    with torch.no_grad():
        model.norm.weight[0] = -0.7  # a scale of either sign goes into the atom
    x = normal(3, 3, 12, 11, seed=1)
    with torch.no_grad():
        first = F.relu(model.norm(model.first(x)))
        second = F.relu(model.second_norm(model.second(first)))
        same = F.relu(model.same(second))
    layers, unread, *_ = trace_torch_layers(model, x)
    assert [name for name, _ in layers] == READ
    for (_, at), activation in zip(layers, (first, second, same), strict=False):
        assert at.layer(at.signals[0]).detach().numpy() == pytest.approx(activation.numpy(), abs=1e-10)
        assert torch.equal(at.codes[0], activation)
    assert [at.input_layer for _, at in layers] == [None, 0, 1, None, None, None]
    reasons = dict(unread)
    assert set(reasons) == {"raised", "smooth", "head"}
    assert "gelu" in reasons["smooth"] and "read up to there" in reasons["smooth"]
    assert "transposed" in reasons["raised"] and "no ReLU" in reasons["head"]


def test_a_plain_model_and_the_same_network_of_this_library_are_read_alike():
    torch.manual_seed(0)
    ours = stirred(pn.create_model("plain_8", width=2))
    modules = []
    for layer in ours.pursuits():
        D, norm = layer.dictionary, next(iter(layer.threshold.norms[0].children()))
        conv = nn.Conv2d(D.channels, D.code_channels[0], 3, D.stride, D.padding, bias=False)
        batch = nn.BatchNorm2d(D.code_channels[0]).double()
        conv.weight.data = D.weight.data.clone()
        batch.load_state_dict(norm.state_dict())
        modules += [conv, batch, nn.ReLU()]
    theirs = nn.Sequential(*modules).double().train()
    x = normal(2, 3, 8, 8, seed=2)
    one, other = (pn.inspect(model, x, unfolding=1, budget=QUICK) for model in (ours, theirs))
    assert len(one.layers) == len(other.layers) == 7
    for a, b in zip(one.layers, other.layers, strict=True):
        for name in ("coherence", "step", "error", "unsuccessful", "density", "lipschitz"):
            assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-9)
        assert a.solving.gap == pytest.approx(b.solving.gap, rel=1e-6)
        assert a.solving.objective == pytest.approx(b.solving.objective, rel=1e-9)
        assert (a.thresholds_below_zero, a.notes) == (b.thresholds_below_zero, b.notes)
    assert other.steps == () and len(one.steps) == 2


def test_of_a_plain_layer_the_penalty_is_the_bias_times_l():
    conv = nn.Conv1d(2, 3, 3, padding=1).double()
    with torch.no_grad():
        conv.bias.copy_(torch.tensor([-0.2, -0.1, 0.3]))
    x = normal(4, 2, 16, seed=1)
    at = interpret(trace_torch_layers(nn.Sequential(conv, nn.ReLU()), x)[0][0][1], "0")
    largest = pn.ConvDictionary(conv.weight.detach(), padding=1).lipschitz_bound().item()
    L = 1 / largest  # of D, the filters divided by their own λmax
    assert at.dictionary.lipschitz_bound().item() == pytest.approx(L)
    assert at.raw_beta.numpy() == pytest.approx([0.2 * L, 0.1 * L, -0.3 * L])
    assert [float(b) for b in at.problem.beta[0].flatten()] == pytest.approx([0.2 * L, 0.1 * L, 0.0])
    step = F.relu(at.dictionary.analyze(x) / L - torch.tensor([0.2, 0.1, -0.3]).view(-1, 1))
    assert at.code.detach().numpy() == pytest.approx(step.detach().numpy(), abs=1e-12)
    assert any("1 of 3 atoms" in note for note in at.notes)


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 4), nn.ReLU()), normal(7, 6)),
        (nn.Sequential(nn.Conv1d(2, 5, 3), nn.ReLU(), nn.Conv1d(5, 3, 5, dilation=2), nn.ReLU()), normal(3, 2, 20)),
        (nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU()), normal(2, 1, 5, 6, 4)),
        (
            nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU()),
            normal(2, 2, 9, 9),
        ),
    ],
)
def test_matrices_and_convolutions_of_any_dimension_are_read_and_drawn_or_not(model, x, tmp_path):
    torch.manual_seed(0)
    found = pn.inspect(stirred(model), x, unfolding=1, budget=QUICK)
    assert len(found.layers) == sum(isinstance(m, nn.ReLU) for m in model)
    assert all(layer.proximal for layer in found.layers)
    (tmp_path / "inspect.html").write_text("of another model")
    assert "of another model" not in found.save(tmp_path).read_text(encoding="utf-8")


def test_a_layer_used_twice_is_read_twice_and_a_dead_filter_does_no_harm():
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 2, 3, padding=1)
    with torch.no_grad():
        conv.weight[1] = 0
    found = pn.inspect(nn.Sequential(conv, nn.ReLU(), conv, nn.ReLU()).double(), uniform(0, 1, 2, 2, 6, 6))
    assert [layer.name for layer in found.layers] == ["0 (1)", "0 (2)"]
    assert all(layer.coherence is not None for layer in found.layers)


class Once(nn.Module):
    """Batch statistics in evaluation, an addition before the ReLU, and a ReLU on one branch of two."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(2, 2, 3, padding=1)
        self.b = nn.Conv2d(2, 2, 3, padding=1)
        self.c = nn.Conv2d(2, 2, 3, padding=1)
        self.moving = nn.BatchNorm2d(2, track_running_stats=False)
        self.norm = nn.BatchNorm2d(2)

    def forward(self, x):
        h = F.relu(self.moving(self.a(x)))
        h = F.relu(self.b(h) + x)
        g = self.c(h)
        return self.norm(g) + F.relu(g)


def test_what_is_not_a_fixed_affine_map_up_to_the_relu_is_refused_by_name():
    torch.manual_seed(0)
    found = pn.inspect(stirred(Once()), normal(3, 2, 6, 6))
    assert [(layer.name, layer.block) for layer in found.layers] == [("b", "resnet"), ("c", "plain")]
    reasons = {each.name: each.reason for each in found.unread}
    assert "running statistics" in reasons["a"]


# --- what must not happen ----------------------------------------------------------------------------------------


def test_the_model_comes_back_unchanged():
    torch.manual_seed(0)
    for model in (pn.create_model("msd_csc_3", width=3), pn.create_model("ml_csc", width=2), Plain()):
        model.train()
        next(iter(model.children())).eval()
        state, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
        steps = [getattr(m, "unfolding", None) for m in model.modules()]
        gradients = [p.requires_grad for p in model.parameters()]
        hooks = [(list(m._forward_hooks), list(m._forward_pre_hooks)) for m in model.modules()]
        pn.inspect(model, torch.rand(1, 3, 8, 8), unfolding=1, budget=QUICK)
        assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
        assert modes == [m.training for m in model.modules()]
        assert steps == [getattr(m, "unfolding", None) for m in model.modules()]
        assert gradients == [p.requires_grad for p in model.parameters()]
        assert hooks == [(list(m._forward_hooks), list(m._forward_pre_hooks)) for m in model.modules()]


@pytest.mark.parametrize(
    ("model", "images", "choices", "says"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sigmoid()), torch.rand(2, 3, 8, 8), {}, "sigmoid follows it"),
        (nn.Flatten(), torch.rand(2, 3, 8, 8), {}, "no layer of this Flatten"),
        ("resnet", torch.rand(2, 3, 8, 8), {}, "expected a torch.nn.Module"),
        (Plain(), torch.full((2, 3, 8, 8), torch.nan), {}, "2 of 2 images hold NaN"),
        (Plain(), torch.rand(2, 1, 8, 8), {}, r"does not take images of shape \(2, 1, 8, 8\)"),
        (Plain(), torch.rand(0, 3, 8, 8), {}, "one image or more"),
        (Plain(), torch.zeros(2, 3, 8, 8, dtype=torch.uint8), {}, "uint8"),
        (Plain(), torch.rand(2, 3, 8, 8).double(), {}, "convert one"),
        (Plain(), torch.rand(2, 3, 12, 12), {"unfolding": -1}, "unfolding is -1"),
        (Plain(), torch.rand(2, 3, 12, 12), {"labeled": (torch.rand(2, 3, 12, 12), torch.zeros(3))}, "one per image"),
    ],
)
def test_bad_input_gets_a_sentence(model, images, choices, says):
    with pytest.raises(ValueError, match=says):
        pn.inspect(model, images, **choices)


def test_images_of_the_wrong_shape_are_refused_by_a_network_of_this_library_too():
    model = pn.create_model("msd_csc_3", width=3)
    with pytest.raises(ValueError, match=r"does not take images of shape \(2, 1, 8, 8\): .*expects \(B, 3"):
        pn.inspect(model, torch.rand(2, 1, 8, 8))


def test_infinite_codes_are_an_error():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    with torch.no_grad():
        model[0].weight.fill_(1e38)
    with pytest.raises(ValueError, match="infinite or undefined"):
        pn.inspect(model, torch.full((1, 1, 5, 5), 1e10))


# --- the page and the program ------------------------------------------------------------------------------------


class Page(HTMLParser):
    """The references, tags, sections and words of a page."""

    def __init__(self, text):
        super().__init__()
        self.references, self.tags, self.ids, self.words = [], set(), [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.references += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "srcset", "action")]
        self.ids += [dict(attrs)["id"]] if tag == "section" else []

    def handle_data(self, text):
        self.words += text


def check_page(path, layers):
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    elsewhere = [r for r in page.references if not r.startswith(("data:image/png;base64,", "#"))]
    assert set(elsewhere) <= {"report.html"}  # the run's own page, beside this one
    assert not page.tags & {"script", "link", "iframe", "object"}
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", text)
    assert "nan" not in re.sub(r"[^a-z]", " ", page.words.lower()).split()
    for layer in layers:
        assert page.words.count(layer) >= 3
    return page


def test_the_page_of_a_plain_model_stands_alone_and_lists_what_was_not_read(tmp_path):
    torch.manual_seed(0)
    found = pn.inspect(stirred(Plain()), normal(3, 3, 12, 12), title="a <plain> model", budget=QUICK)
    page = check_page(found.save(tmp_path / "new" / "folder"), READ)
    assert "a <plain> model, layer by layer" in page.words
    assert all(each.name in page.words and each.reason in page.words for each in found.unread)
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == {"inspect.html", "inspect.json"}


def test_deep_networks_are_drawn_without_underflow(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(*(m for _ in range(12) for m in (nn.Conv2d(1, 1, 3, padding=1), nn.ReLU())))
    with torch.no_grad():
        for conv in model[::2]:
            conv.weight.copy_(1e3 * torch.rand(1, 1, 3, 3))
            conv.bias.zero_()
    for conv in model[2::2]:
        conv.weight.data *= 1e-8
    found = pn.inspect(model, torch.rand(1, 1, 8, 8), budget=QUICK)
    check_page(found.save(tmp_path), ["22"])


def test_the_program_inspects_a_trained_run(tmp_path):
    tiny = {"width": 2, "epochs": 1, "train_images": 50, "test_images": 30, "device": "cpu"}
    train(Recipe(model="msd_csc_3", **tiny), tmp_path / "one")
    before = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    printed = called("inspect", "one", "--images", "3", "--unfolding", "2", cwd=tmp_path)
    after = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert set(after) - set(before) == {"inspect.json", "inspect.html"}
    assert all(after[name] == content for name, content in before.items())
    numbers = json.loads(after["inspect.json"], parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    accuracy = json.loads(before["metrics.jsonl"].decode().splitlines()[-1])["test_accuracy"]
    assert numbers["images"] == 3 and numbers["labeled"] == 30
    assert [at["accuracy"] for at in numbers["steps"] if at["trained"]] == [pytest.approx(accuracy, abs=1e-9)]
    check_page(tmp_path / "one" / "inspect.html", [layer["name"] for layer in numbers["layers"]])
    assert b"pursuitnet inspect one --images 3 --unfolding 2 --test-images 1000" in after["inspect.html"]
    assert len(printed.splitlines()) == 1 + 3 + 3 + 1 + 1 + 3 + 1
    assert "3 of 3 convolutions read; layers: 3 dense" in printed and "not read: head" in printed
    assert all(layer["name"] in printed for layer in numbers["layers"])
    called("inspect", "one", "--out", "two", "--images", "2", "--unfolding", "0", cwd=tmp_path)
    assert json.loads((tmp_path / "two" / "inspect.json").read_text())["images"] == 2
    assert {path.name for path in (tmp_path / "two").iterdir()} == {"inspect.json", "inspect.html"}
    assert "nowhere does not exist; name a run folder" in called("inspect", "nowhere", cwd=tmp_path, code=2)
    assert "images is 0" in called("inspect", "one", "--images", "0", cwd=tmp_path, code=2)
    assert "unfolding is -1" in called("inspect", "one", "--unfolding", "-1", cwd=tmp_path, code=2)
