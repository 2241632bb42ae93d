"""Parameters of the MSDNet of Pelt and Sethian: the same outputs as its forward pass, which is written out here."""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch

import pursuitnet as pn


def parameters(depth=4, nin=1, nout=2, scaled=True, seed=0):
    """What ``network.to_dict()`` returns, with large values so that every channel matters."""
    draws = np.random.default_rng(seed)

    def normal(*shape):
        return draws.normal(size=shape).astype(np.float32)

    given = {"d": depth, "nin": nin, "nout": nout, "dl": np.arange(depth, dtype=np.int32) % 3 + 1}
    given |= {"w": normal(nout, nin + depth), "o": normal(depth), "oo": normal(nout)}
    given["f"] = {f"{i:05d}": normal(nin + i, 3, 3) / np.float32(3 * (nin + i) ** 0.5) for i in range(depth)}
    if scaled:
        given |= {"gam_in": normal(nin), "off_in": normal(nin), "gam_out": normal(nout), "off_out": normal(nout)}
    return given


def reflected(index, size):
    index = abs(index)
    return 2 * size - 2 - index if index >= size else index


def forward(given, image):
    """(nin, H, W) → (nout, H, W), tap by tap in NumPy."""
    rows, columns = image.shape[1:]
    channels = [c.astype(np.float64) for c in image]
    if "gam_in" in given:
        channels = [c * g + b for c, g, b in zip(channels, given["gam_in"], given["off_in"], strict=True)]
    for i, dilation in enumerate(given["dl"]):
        new = np.full((rows, columns), float(given["o"][i]))
        for channel, taps in zip(channels, given["f"][f"{i:05d}"], strict=True):
            for a in range(3):
                for b in range(3):
                    down = [reflected(p + (a - 1) * dilation, rows) for p in range(rows)]
                    right = [reflected(p + (b - 1) * dilation, columns) for p in range(columns)]
                    new += taps[a, b] * channel[np.ix_(down, right)]
        channels.append(np.maximum(new, 0))
    output = np.stack(
        [np.tensordot(w, np.stack(channels), 1) + o for w, o in zip(given["w"], given["oo"], strict=True)]
    )
    if "gam_out" in given:
        output = output * given["gam_out"][:, None, None] + given["off_out"][:, None, None]
    return output


@pytest.mark.parametrize("size", [(12, 9), (4, 5)])
@pytest.mark.parametrize("given", [{}, {"nin": 3, "nout": 1}, {"scaled": False}, {"depth": 7, "nin": 2}])
def test_outputs_are_those_of_the_other_network_at_the_border_too(given, size):
    given = parameters(**given)
    image = np.random.default_rng(1).normal(size=(given["nin"], *size))
    model = pn.load_msdnet(given).double()
    assert not model.training and model.out_chans == given["nout"] and len(model.pursuits()) == given["d"]
    expected = forward(given, image)
    assert expected.std() > 0.1
    found = model(torch.from_numpy(image)[None])[0].detach()
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-5, atol=1e-5)
    padded = pn.create_model(
        f"msdnet_{given['d']}",
        task="image",
        in_chans=given["nin"],
        out_chans=given["nout"],
        dilations=given["dl"].tolist(),
        norm=None,
        step="free",
        penalty="free",
        signed_input=True,
    ).double()
    padded.load_state_dict(model.state_dict())  # the same weights with zeros around the image
    assert (padded(torch.from_numpy(image)[None])[0] - found).abs().max() > 1e-2


def test_tiles_of_a_reflecting_network_equal_the_whole():
    model = pn.load_msdnet(parameters(depth=5)).double()
    assert model.halo == 1 + 2 + 3 + 1 + 2
    for tile, size in ((1, (25, 4)), (8, (37, 22)), (30, (37, 22))):
        x = torch.randn(1, 1, *size, dtype=torch.float64)
        torch.testing.assert_close(pn.apply(model, x, tile=tile), pn.apply(model, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sweep", ["layer", "multilayer"])
def test_a_network_with_a_reflecting_boundary_unfolds_learns_and_has_tiles(sweep):
    model = pn.create_model(
        "msd_csc_3", task="image", in_chans=1, width=2, dilations=[1, 2], boundary="reflect", sweep=sweep
    )
    x = torch.rand(2, 1, 30, 21)
    model(x).square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    torch.testing.assert_close(pn.apply(model, x, tile=7), pn.apply(model, x), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"boundary is 'mirror'; expected one of 'zeros', 'reflect'"):
        pn.create_model("msd_csc_3", task="image", boundary="mirror")


def test_a_reflecting_dictionary_is_read_solved_and_measured_as_itself():
    """Nowhere is it taken for one with zeros around the signal."""
    D = pn.ReflectingDictionary(torch.randn(3, 1, 3, 3, dtype=torch.float64)).requires_grad_(False)
    x = torch.randn(2, 1, 6, 5, dtype=torch.float64)
    atoms = pn.LinearDictionary(D.matrix(x.shape).T.contiguous()).requires_grad_(False)
    for solver in (pn.FISTA(), pn.WorkingSet()):
        found = pn.solve(x, D, 2.0, solver, tol=1e-8, max_steps=5_000)
        expected = pn.solve(x.flatten(1), atoms, 2.0, tol=1e-8, max_steps=5_000)
        torch.testing.assert_close(found.objective, expected.objective, rtol=1e-7, atol=1e-7)
    greedy, flat = (pn.solve(s, d, solver=pn.OMP(5)).code for s, d in ((x, D), (x.flatten(1), atoms)))
    torch.testing.assert_close(greedy.flatten(1), flat)
    assert pn.theory.mutual_coherence(D, (1, 6, 5)) == pytest.approx(pn.theory.mutual_coherence(atoms), abs=1e-12)
    zeros = pn.ConvDictionary(D.weight.detach(), padding=1)
    assert pn.theory.mutual_coherence(D) == pytest.approx(pn.theory.mutual_coherence(zeros), abs=1e-12)
    with pytest.raises(TypeError, match="ReflectingDictionary, which cannot be learned"):
        pn.learn(x, D, 0.1)


class Node(dict):
    """A group or a file of h5py: a mapping with attributes."""

    def __init__(self, *others, **more):
        super().__init__(*others, **more)
        self.attrs = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def test_a_file_is_read_where_h5py_is_installed(tmp_path, monkeypatch):
    given, path = parameters(), tmp_path / "network.h5"
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"network\.h5 needs h5py: pip install h5py, or give the dict"):
        pn.load_msdnet(path)
    stub = ModuleType("h5py")
    inner = Node({name: value for name, value in given.items() if name not in ("d", "nin", "nout")})
    stub.File = lambda path, mode: Node(network=inner)
    monkeypatch.setitem(sys.modules, "h5py", stub)
    with pytest.raises(FileNotFoundError, match=r"network\.h5 is missing"):
        pn.load_msdnet(path)
    path.touch()
    x = torch.rand(1, 1, 9, 9)
    draws = torch.get_rng_state()
    for way in (path, str(path), {"network": given}):
        assert torch.equal(pn.load_msdnet(way)(x), pn.load_msdnet(given)(x))
    assert torch.equal(torch.get_rng_state(), draws)

    def damaged(path, mode):
        raise OSError("file signature not found")

    stub.File = damaged
    with pytest.raises(ValueError, match=r"network\.h5 cannot be read as HDF5 \(file signature not found\)"):
        pn.load_msdnet(path)


@pytest.mark.skipif("not __import__('importlib').util.find_spec('h5py')", reason="needs h5py")
def test_a_file_of_h5py_itself_is_read(tmp_path):
    h5py = pytest.importorskip("h5py")
    given = parameters()
    with h5py.File(tmp_path / "network.h5", "w") as file:
        group = file.create_group("network")
        for name, value in given.items():
            if name == "f":
                for layer, filters in value.items():
                    group.create_dataset(f"f/{layer}", data=filters)
            elif isinstance(value, int):
                group.attrs[name] = value
            else:
                group.create_dataset(name, data=value)
    x = torch.rand(1, 1, 9, 9)
    assert torch.equal(pn.load_msdnet(tmp_path / "network.h5")(x), pn.load_msdnet(given)(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.pop("oo"), r"have no oo, but d, nin, nout, dl, w; expected the dict of network\.to_dict\(\)"),
        (lambda p: p.clear(), r"have no dl, but nothing"),
        (lambda p: p.update(w=np.zeros((2, 4))), r"w has shape \(2, 4\); expected \(2, 5\), for 4 layers"),
        (lambda p: p.update(o="four"), r"o is 'four'; expected an array of numbers"),
        (lambda p: p.update(gam_in=np.zeros(2)), r"gam_in has shape \(2,\); expected \(1,\)"),
        (lambda p: p.update(dl=np.ones(3)), r"dl has shape \(3,\); expected \(4,\)"),
        (lambda p: p.update(dl=np.zeros(4)), r"dilations is \[0, 0, 0, 0\]; expected integers ≥ 1"),
        (lambda p: p.update(f={}), r"f is a dict; expected a dict of the filters of each layer"),
        (lambda p: p["f"].pop("00002"), r"f has no 00002, but 00000, 00001, 00003"),
        (
            lambda p: p["f"].update({"00001": np.zeros((1, 3, 3))}),
            r"f\['00001'\] has shape \(1, 3, 3\); .* \(2, 3, 3\)",
        ),
        (lambda p: p["f"].update({"00000": np.zeros(3)}), r"f\['00000'\] has shape \(3,\); expected \(nin, 3, 3\)"),
    ],
)
def test_other_parameters_are_answered_with_one_sentence(change, message):
    given = parameters()
    change(given)
    with pytest.raises(ValueError, match=message) as caught:
        pn.load_msdnet(given)
    assert "\n" not in str(caught.value)
