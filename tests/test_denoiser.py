"""The denoiser of convolutional sparse coding: what it computes, by other routes."""

from itertools import pairwise

import pytest
import torch

import pursuitnet as pn
from pursuitnet.networks.denoiser import cosine_atoms, estimated_noise
from pursuitnet.prox import NoiseThreshold


def denoiser(beta=0.01, **choices):
    torch.manual_seed(0)
    model = pn.create_model("csc_denoiser", **{"kernel": 4, "width": 10, **choices}).double().eval()
    with torch.no_grad():
        for layer in model.pursuits():
            layer.threshold.atom_weight.uniform_(0.5 * beta, 1.5 * beta)
    return model.eval()


def test_it_is_the_pursuit_that_its_docstring_writes():
    model, y, sigma = denoiser(layers=3), torch.rand(2, 1, 9, 8, dtype=torch.float64), torch.tensor([0.05, 0.2])
    expected = []
    for image, s in zip(y, sigma.double(), strict=True):
        x, code = image.flatten() - 0.5, None
        for layer in model.pursuits():
            D = layer.dictionary.matrix(image[None].shape)
            c, _ = layer.step()
            beta = layer.threshold.penalty + s * layer.threshold.slope
            theta = (c * beta).repeat_interleave(D.shape[1] // len(beta))
            z = c * D.T @ x if code is None else code - c * D.T @ (D @ code - x)
            code = z.sign() * (z.abs() - theta).clamp(min=0)
        expected.append((model.synthesis.matrix(image[None].shape) @ code + 0.5).view(image.shape))
    torch.testing.assert_close(model(y, sigma), torch.stack(expected), rtol=1e-10, atol=1e-12)


def jacobian(model, y, sigma):
    return torch.autograd.functional.jacobian(lambda v: model(v.view(y.shape), sigma).flatten(), y.flatten())


@pytest.mark.parametrize("stride", [1, 2])
def test_one_step_is_a_proximal_map(stride):
    """It is one if it is nonexpansive and the gradient of a convex function (Moreau, 1965)."""
    model = denoiser(layers=1, stride=stride, kernel=3, width=5)
    for sigma in (0.02, 0.1):
        J = jacobian(model, torch.rand(1, 1, 6, 5, dtype=torch.float64), sigma)
        assert (J - J.T).abs().max() < 1e-12
        spectrum = torch.linalg.eigvalsh(J)
        assert spectrum.min() > -1e-12 and spectrum.max() < 1 and spectrum.max() > 0.1


@torch.no_grad()
def test_many_steps_of_one_layer_are_a_proximal_map():
    """They solve the Lasso, and are firmly nonexpansive."""
    model = denoiser(0.2, layers=1, unfolding=400, solver="fista")
    y, other = torch.rand(2, 1, 1, 8, 8, dtype=torch.float64)
    (layer,) = model.pursuits()
    beta = layer.threshold.penalty_at(torch.tensor([0.1], dtype=torch.float64)).view(1, -1, 1, 1)
    solution = pn.solve(y - 0.5, layer.dictionary, beta, max_steps=20_000, tol=1e-10)
    expected = layer.dictionary.synthesize(solution.code, y.shape) + 0.5
    denoised = model(torch.cat([y, other]), 0.1)
    torch.testing.assert_close(denoised[:1], expected, rtol=0, atol=1e-3)
    change, moved = denoised[:1] - denoised[1:], y - other
    assert 0 < change.square().sum() <= (change * moved).sum() < moved.square().sum()


def test_several_layers_with_dictionaries_of_their_own_are_no_proximal_map():
    J = jacobian(denoiser(layers=3), torch.rand(1, 1, 6, 5, dtype=torch.float64), 0.1)
    assert (J - J.T).abs().max() > 1e-4


def test_shifts_are_averaged():
    """Moving the image by the stride moves the result; averaged over the shifts, moving it by one pixel does."""
    torch.manual_seed(0)
    for average, moved in ((False, False), (True, True)):
        model = denoiser(layers=2, stride=2, average_shifts=average)
        y = torch.rand(1, 1, 40, 40, dtype=torch.float64)
        inside = slice(15, 25)
        result, later = model(y, 0.1), model(y[..., 1:, 1:], 0.1)
        same = torch.allclose(result[..., inside, inside], later[..., 14:24, 14:24], atol=1e-12)
        assert same is moved
        result, later = result[..., inside, inside], model(y[..., 2:, 2:], 0.1)[..., 13:23, 13:23]
        torch.testing.assert_close(result, later, rtol=0, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 3])
def test_sigma_is_a_number_or_one_for_each_image_and_channels_are_taken_one_by_one(stride):
    model, y = denoiser(layers=2, stride=stride), torch.rand(2, 3, 9, 10, dtype=torch.float64)
    one = model(y, 0.1)
    assert one.shape == y.shape
    for same in (torch.tensor(0.1), torch.tensor([0.1, 0.1]), torch.full((2, 1, 1, 1), 0.1)):
        torch.testing.assert_close(model(y, same), one, rtol=0, atol=1e-7)
    torch.testing.assert_close(one[:, 1:2], model(y[:, 1:2], 0.1), rtol=0, atol=1e-12)
    both = model(y, torch.tensor([0.0, 0.3]))
    torch.testing.assert_close(both[:1], model(y[:1], 0.0), rtol=0, atol=1e-12)
    torch.testing.assert_close(both[1:], model(y[1:], 0.3), rtol=0, atol=1e-7)
    assert model(y, 0.3).std() < one.std() < y.std()


def test_a_color_denoiser_looks_at_all_channels():
    model = denoiser(layers=2, in_chans=3)
    y = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    other = y.clone()
    other[:, 0] = 1 - other[:, 0]
    assert not torch.allclose(model(y, 0.05)[:, 1], model(other, 0.05)[:, 1])
    with pytest.raises(ValueError, match=r"y has shape \(1, 2, 8, 8\); expected \(B, 3"):
        model(y[:, :2], 0.05)


def test_shared_dictionaries_have_fewer_parameters_and_one_synthesis():
    shared, own = denoiser(layers=3, shared_dictionary=True), denoiser(layers=3)
    assert len({id(layer.dictionary) for layer in shared.pursuits()} | {id(shared.synthesis)}) == 1
    assert len({id(layer.dictionary) for layer in own.pursuits()} | {id(own.synthesis)}) == 4
    counts = [sum(p.numel() for p in model.parameters()) for model in (shared, own)]
    assert counts[1] - counts[0] == 3 * 10 * 16
    y = torch.rand(1, 1, 8, 8, dtype=torch.float64)
    assert shared(y, 0.1).shape == y.shape


def test_the_noise_is_estimated_where_it_is_not_given():
    torch.manual_seed(0)
    ramp = torch.linspace(0, 1, 64).view(1, 1, 1, -1).expand(3, 2, 64, 64)
    sigma = torch.tensor([0.02, 0.1, 0.2])
    y = (ramp + sigma.view(-1, 1, 1, 1) * torch.randn(3, 2, 64, 64)).double()
    found = estimated_noise(y)
    torch.testing.assert_close(found.float(), sigma, rtol=0.05, atol=0)
    model = denoiser(layers=2)
    assert torch.equal(model(y), model(y, found))
    assert torch.equal(pn.apply(model, y, tile=20), pn.apply(model, y, tile=20, sigma=found))
    for dims in (1, 3):
        noise = 0.1 * torch.randn(1, 1, *(20 ** (3 // dims),) * dims)
        assert float(estimated_noise(noise)) == pytest.approx(0.1, rel=0.1)


def test_untrained_it_denoises_already():
    """The cosine basis in all shifted windows is a denoiser of old."""
    torch.manual_seed(0)
    rows, columns = torch.meshgrid(torch.linspace(0, 6, 96), torch.linspace(0, 6, 96), indexing="ij")
    clean = (0.5 + 0.4 * torch.sin(rows + columns.square() / 3))[None, None]
    noisy = clean + 0.1 * torch.randn_like(clean)
    model = pn.create_model("csc_denoiser", layers=4).eval()
    assert (model(noisy, 0.1) - clean).square().mean() < 0.2 * 0.1**2


def test_the_atoms_begin_orthonormal_and_beyond_that_random():
    atoms = cosine_atoms(12, 1, 3).flatten(1).double()
    torch.testing.assert_close(atoms[:9] @ atoms[:9].T, torch.eye(9, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(atoms.norm(dim=1), torch.ones(12, dtype=torch.float64))
    assert cosine_atoms(5, 3, 2, dims=3).shape == (5, 3, 2, 2, 2)
    assert cosine_atoms(1, 3, 5).std() < 1e-6  # the constant comes first


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m, y: m(y, -0.1), "expected numbers ≥ 0"),
        (lambda m, y: m(y, float("nan")), "expected numbers ≥ 0"),
        (lambda m, y: m(y, torch.ones(3)), "sigma has 3 values"),
        (lambda m, y: m(y[0], 0.1), r"y has shape \(1, 8, 8\)"),
        (lambda m, y: m(y[..., :2]), "too small to estimate its noise"),
        (lambda m, y: m(y.float(), 0.1), "convert one"),
        (lambda m, y: m.pursuits()[0](y), r"expected its standard deviation in each signal"),
        (lambda m, y: pn.PursuitLayer(m.synthesis)(y, noise=torch.ones(1)), "expected a NoiseThreshold"),
        (lambda m, y: NoiseThreshold((1, 2)), "expected one part"),
    ],
)
def test_what_cannot_be_is_said(call, said):
    with pytest.raises(ValueError, match=said):
        call(denoiser(layers=2), torch.rand(1, 1, 8, 8, dtype=torch.float64))


def test_checkpointing_gives_the_same_gradients():
    grads = []
    for again in (False, True):
        model = denoiser(layers=2, unfolding=1, kernel=3, width=4).train()
        model.set_grad_checkpointing(again)
        torch.manual_seed(0)
        y = torch.rand(1, 1, 9, 9, dtype=torch.float64)
        model(y, 0.1).square().sum().backward()
        grads.append([p.grad for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_plug_and_play_iterations_with_one_layer_converge():
    """Steps of gradient descent between proximal maps are averaged: the moves never grow, and end in rounding."""
    prior = denoiser(layers=1)
    blur = pn.ConvDictionary(torch.full((1, 1, 5, 5), 1 / 25, dtype=torch.float64), padding=2)
    blurred = blur.analyze(torch.rand(1, 1, 16, 16, dtype=torch.float64))
    x, moved = blurred, []
    for _ in range(150):
        x, before = prior(x - blur.synthesize(blur.analyze(x) - blurred, x.shape), 0.02), x
        moved.append(float((x - before).norm()))
    rounding = 1e-14 * float(x.norm())
    assert all(b <= a * (1 + 1e-9) + rounding for a, b in pairwise(moved))
    assert moved[-1] <= rounding < 1e-12 * moved[0]


def test_inference_in_place_gives_the_same_numbers():
    model, y = denoiser(layers=3, unfolding=1), torch.rand(1, 1, 12, 11, dtype=torch.float64)
    with_gradients = model(y, 0.1)
    with torch.inference_mode():
        assert torch.equal(model(y, 0.1), with_gradients)
    assert with_gradients.requires_grad
