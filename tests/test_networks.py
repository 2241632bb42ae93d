"""create_model and its networks as PyTorch modules: autocast, memory formats, compile, export, copies, errors."""

import copy
import weakref

import pytest
import torch
from compilers import real_compiler
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import pursuitnet as pn

SMALL = ["plain_8", "res_csc_8", "res_csc_simplified_8", "ml_csc", "msdnet_3", "msd_csc_3"]


def small(name, **choices):
    return pn.create_model(name, width=4, **choices)


def test_every_listed_model_exists_by_its_table():
    names = pn.list_models()
    depths = (20, 32, 44, 56, 110, 218)
    assert {f"{f}_{d}" for f in ("plain", "resnet", "res_csc", "res_csc_simplified") for d in depths} <= set(names)
    assert {"feed_forward", "ml_csc", *(f"{f}_{d}" for f in ("msdnet", "msd_csc") for d in (6, 9, 12))} <= set(names)
    assert {f"{f}_{d}" for f in ("learned", "multistep", "momentum") for d in (20, 56)} <= set(names)
    assert {"certified_6", "certified_9", "certified_12"} <= set(names)
    assert len(names) == len(set(names)) == 41


@pytest.mark.parametrize("name", SMALL)
def test_head_and_features(name):
    x = torch.rand(2, 3, 16, 16)
    model = small(name, num_classes=5).eval()
    code = model.forward_features(x)
    assert code.shape[:2] == (2, model.num_features)
    assert torch.equal(model(x), model.head(code.mean(dim=(2, 3))))
    assert model(x).shape == (2, 5)
    assert small(name, num_classes=0)(x).shape == (2, model.num_features)


def test_msd_stages_dilations_and_rows():
    model = pn.create_model("msd_csc_6", unfolding=2, solver="fista")
    layers = model.pursuits()
    assert [layer.dictionary.dictionary.dilation for layer in layers] == [(s, s) for s in (1, 2, 3, 1, 2, 3)]
    assert [layer.dictionary.code_channels for layer in layers] == [(3 + 32 * i, 32) for i in range(6)]
    assert all(layer.unfolding == 2 and isinstance(layer.solver, pn.FISTA) for layer in layers)
    sizes = []
    for layer in layers:
        layer.register_forward_hook(lambda _, inputs, code: sizes.append(code.shape[-1]))
    model(torch.rand(2, 3, 32, 32))
    assert sizes == [32, 32, 16, 16, 8, 8]


@pytest.mark.parametrize(
    ("depth", "network", "block"),
    [(6, "123123", "121212"), (9, "123123123", "123123123"), (12, "123123123123", "123112311231")],
)
def test_dilations_are_counted_through_the_network_or_in_every_block(depth, network, block):
    def found(**choices):
        layers = pn.create_model(f"msd_csc_{depth}", width=1, **choices).pursuits()
        return "".join(str(layer.dictionary.dictionary.dilation[0]) for layer in layers)

    assert found() == found(dilations="network") == network
    assert found(dilations="block") == block


@pytest.mark.parametrize(("name", "layers"), [("msd_csc_3", 3), ("msdnet_3", 3), ("ml_csc", 3)])
def test_penalties_of_either_sign_are_a_choice(name, layers):
    for penalty, kept in (("nonnegative", 0.5), ("free", -0.5)):
        thresholds = [layer.threshold for layer in small(name, penalty=penalty).pursuits()[:layers]]
        for threshold in thresholds:
            torch.nn.init.constant_(threshold.atom_weight, -0.5)
            assert (threshold.penalty == kept).all()


@pytest.mark.parametrize("unfolding", [0, 2])
def test_signed_input_is_clipped_by_no_layer(unfolding):
    model = small("msd_csc_3", signed_input=True, unfolding=unfolding)
    code = model.forward_features(torch.randn(4, 3, 16, 16) - 1)
    assert (code[:, :3] < 0).any()
    assert (code[:, -4:] >= 0).all()


@pytest.mark.parametrize("name", SMALL)
def test_channels_last_gives_the_same(name):
    model, x = small(name).eval(), torch.rand(2, 3, 16, 16)
    expected = model(x)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    torch.testing.assert_close(last(x.to(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_autocast_is_near_and_trains(name):
    model, x = small(name), torch.rand(4, 3, 16, 16)
    expected = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(x)
        loss = F.cross_entropy(logits, torch.arange(4))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert (logits.float() - expected).norm() < 0.1 * expected.norm()


@real_compiler
@pytest.mark.parametrize("name", ["res_csc_8", "ml_csc", "msd_csc_3"])
def test_compile_keeps_names_values_and_gradients(name):
    model, x = small(name), torch.rand(4, 3, 8, 8)
    compiled = copy.deepcopy(model)
    compiled.compile(fullgraph=True)
    for one, other in ((model(x), compiled(x)), (model.eval()(x), compiled.eval()(x))):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert list(compiled.state_dict()) == list(model.state_dict())
    for one in (model, compiled):
        one.train()(x).square().sum().backward()
    for one, other in zip(model.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_export_with_a_dynamic_batch(name):
    choices = {"unfolding": 2, "solver": "fista"} if name in ("msd_csc_3", "ml_csc") else {}
    model = small(name, **choices).eval()
    shapes = {"x": {0: torch.export.Dim("batch", min=1, max=64)}}
    program = torch.export.export(model, (torch.rand(2, 3, 16, 16),), dynamic_shapes=shapes, strict=False)
    x = torch.rand(5, 3, 16, 16)
    torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.parametrize("name", SMALL)
def test_a_deep_copy_is_the_same_and_apart(name):
    model, x = small(name).eval(), torch.rand(2, 3, 16, 16)
    other = copy.deepcopy(model)
    assert torch.equal(model(x), other(x))
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(0.5)
    assert not torch.equal(model(x), other(x))


@pytest.mark.parametrize(
    ("unfolding", "solver", "sweep"),
    [(0, "ista", "layer"), (1, "ista", "multilayer"), (2, "fista", "layer"), (2, "fista", "multilayer")],
)
def test_msd_csc_learns_from_its_default_initialization(unfolding, solver, sweep):
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(16, 1, 8, 8, generator=generator), torch.arange(16) % 4
    x[torch.arange(16), 0, y, y] += 1
    model = pn.create_model(
        "msd_csc_6", num_classes=4, in_chans=1, width=8, unfolding=unfolding, solver=solver, sweep=sweep
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_gradients_reach_the_first_layer_of_residual_networks_of_hundreds_of_layers_in_proportion():
    ratios = {}
    for family, depth in (("plain", 110), ("resnet", 218), ("res_csc", 218)):
        model = pn.create_model(f"{family}_{depth}", width=2)
        F.cross_entropy(model(torch.randn(16, 3, 8, 8)), torch.arange(16) % 10).backward()
        norms = [float(layer.dictionary.weight.grad.norm()) for layer in model.pursuits()]
        ratios[family] = norms[1] / norms[-1]
    assert 0.1 < ratios["resnet"] < 10
    assert 0.1 < ratios["res_csc"] < 10
    assert ratios["plain"] > 100 * ratios["resnet"]  # batch normalization makes gradients explode towards the image


@pytest.mark.parametrize(
    ("name", "choices", "says"),
    [
        ("msd_csc_7", {}, "multiple of 3"),
        ("resnet_21", {}, "6n\\+2"),
        ("resnet", {}, "resnet_20"),
        ("res_ccs_20", {}, "did you mean"),
        ("alexnet", {}, "msd_csc_12"),
        ("msd_csc_6", {"depth": 3}, "unfolding"),
        ("msdnet_6", {"unfolding": 1}, "no choice 'unfolding'"),
        ("msd_csc_6", {"solver": "adam"}, "'ista', 'fista'"),
        ("msd_csc_6", {"unfolding": -1}, "integer ≥ 0"),
        ("msd_csc_6", {"norm": "layer"}, "'batch'"),
        ("msd_csc_6", {"penalty": "signed"}, "'nonnegative', 'free'"),
        ("ml_csc", {"penalty": "none"}, "'nonnegative', 'free'"),
        ("resnet_20", {"penalty": "free"}, "no choice 'penalty'"),
        ("msd_csc_6", {"dilations": "stage"}, "'network', 'block'"),
        ("msd_csc_6", {"identity": "same", "signed_input": True}, "expected one of the two"),
        ("resnet_20", {"num_classes": -1}, "0 leaves the head out"),
        ("msd_csc_6", {"width": 0}, "width is 0"),
    ],
)
def test_bad_names_and_choices_get_a_sentence_that_lists_the_known(name, choices, says):
    with pytest.raises(ValueError, match=says):
        pn.create_model(name, **choices)


def test_a_wrong_number_of_channels_or_a_tiny_image_gets_a_sentence():
    with pytest.raises(ValueError, match="expects"):
        pn.create_model("msd_csc_3", in_chans=1)(torch.rand(2, 3, 8, 8))
    with pytest.raises(ValueError, match="too small"):
        pn.create_model("ml_csc", width=4)(torch.rand(2, 3, 4, 4))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", SMALL)
def test_gpu_gives_what_the_cpu_gives(name):
    model, x = small(name).double(), torch.rand(4, 3, 16, 16, dtype=torch.float64)
    other = copy.deepcopy(model).cuda()
    torch.testing.assert_close(other(x.cuda()).cpu(), model(x))


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("res_csc_8", {}),
        ("ml_csc", {"unfolding": 3}),
        *(("msd_csc_3", {"unfolding": u, "solver": s}) for u in (0, 1, 2, 5) for s in ("ista", "fista")),
        ("msd_csc_6", {"unfolding": 3, "sweep": "multilayer", "solver": "fista"}),
    ],
)
def test_checkpointed_gradients_and_statistics_are_the_same(name, choices):
    images = torch.rand(4, 3, 8, 8, dtype=torch.float64)
    found = []
    for again, recursive in ((False, False), (True, False), (True, True)):
        torch.manual_seed(0)
        model = pn.create_model(name, width=4, **choices).double().train()
        model.set_grad_checkpointing(again, recursive=recursive)
        model(images).square().sum().backward()
        found.append(({n: p.grad for n, p in model.named_parameters()}, dict(model.named_buffers())))
    for others in found[1:]:
        for mine, other in zip(found[0], others, strict=True):
            assert mine.keys() == other.keys()
            for n, value in mine.items():
                torch.testing.assert_close(other[n], value, rtol=1e-12, atol=1e-14)


class Live(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive, and the most at any time, while it is on."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.known = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor) and (key := tensor.untyped_storage()._cdata) not in self.known:
                self.known.add(key)
                size = tensor.untyped_storage().nbytes()
                self.now += size
                self.most = max(self.most, self.now)
                weakref.finalize(tensor.untyped_storage(), self._gone, key, size)
        return result

    def _gone(self, key, size):
        self.known.discard(key)
        self.now -= size


def bytes_of(x, name="msd_csc_6", recursive=False, **choices):
    """The bytes that a forward pass with checkpointing leaves for the backward one, and the most of both."""
    model = pn.create_model(name, width=4, norm=None, **choices).train()
    model.set_grad_checkpointing(True, recursive=recursive)
    with Live() as live:
        loss = model(x).sum()
        left = live.now
        loss.backward()
    return left, live.most


def bytes_left(x, name, again, **choices):
    """The bytes that a forward pass alone leaves, with checkpointing or without it."""
    model = pn.create_model(name, width=4, norm=None, **choices).train()
    model.set_grad_checkpointing(again)
    with Live() as live:
        loss = model(x)
    return live.now if loss.requires_grad else 0


@pytest.mark.parametrize(("solver", "recursive"), [("ista", True), ("fista", False)])
def test_checkpointed_memory_grows_with_the_logarithm_of_the_unfolding(solver, recursive):
    x = torch.rand(8, 3, 16, 16)
    of = {u: bytes_of(x, "msd_csc_3", recursive, solver=solver, unfolding=u) for u in (4, 16)}
    code = 4 * 8 * 11 * 16 * 16  # the largest one
    state = (2 if solver == "ista" else 3) * code
    assert of[16][1] - of[4][1] < 2 * 1.2 * state, of  # two bisections more
    assert of[16][0] - of[4][0] < (2 * 1.2 * state if recursive else 0.1 * code), of
    assert bytes_left(x, "msd_csc_3", False, solver=solver, unfolding=16) > 3 * of[16][1]


@pytest.mark.parametrize("solver", ["ista", "fista"])
def test_memory_of_inference_does_not_grow_with_the_unfolding(solver):
    x, most = torch.rand(8, 3, 16, 16), []
    for unfolding in (2, 3, 6):
        model = pn.create_model("msd_csc_3", width=4, unfolding=unfolding, solver=solver).eval()
        with Live() as live, torch.no_grad():
            model(x)
        most.append(live.most)
    assert most[1] <= 1.01 * most[0] and most[2] <= 1.01 * most[0]


@pytest.mark.skipif(torch.__version__.startswith("2.6."), reason="PyTorch 2.6 keeps a tensor longer than it is used")
def test_inference_takes_one_code_and_one_residual():
    layer = pn.create_model("msd_csc_12", width=4, norm=None, unfolding=3).features[0][3].eval()
    x = torch.rand(8, layer.dictionary.channels, 16, 16)
    atoms = x.nbytes // x.shape[1] * 4
    with Live() as live, torch.no_grad():
        layer.forward_parts(x)
    assert live.most < 1.1 * (2 * x.nbytes + 3 * atoms)  # identity parts of code and residual, atoms of the update


def test_recursive_checkpointing_keeps_the_codes_of_few_layers():
    x = torch.rand(4, 3, 24, 24)
    of = {(d, r): bytes_of(x, f"msdnet_{d}", recursive=r)[1] for d in (18, 36) for r in (False, True)}
    assert of[36, False] / of[18, False] > 3  # codes grow with depth, and so does their number
    assert of[36, True] / of[18, True] < 2.7  # n log n
    assert of[36, True] < of[36, False] / 2


def test_checkpointing_keeps_less_for_the_backward_pass():
    kept = [bytes_left(torch.rand(2, 3, 16, 16), "res_csc_20", again) for again in (False, True)]
    assert kept[1] < kept[0] / 3
