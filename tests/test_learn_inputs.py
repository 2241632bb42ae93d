"""``learn``: what bad input gets, what a checkpoint is compared with, and the picture of the atoms."""

import json
import re

import pytest
import torch
from makers import normal, unit

import pursuitnet as pn
from pursuitnet.problems.learning.saved import digest_of

X = normal(6, 1, 9, 9)
D = pn.ConvDictionary(unit(3, 1, 3, 3), padding=2)
CIRCULAR = pn.CircularDictionary(unit(3, 1, 3, 3))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: pn.learn(X, D, 0.3, gap=-1.0), "gap is -1.0; expected a number ≥ 0"),
        (lambda: pn.learn(X, D, 0.3, gap="a"), "gap is 'a'; expected a number ≥ 0"),
        (lambda: pn.learn(X, D, -1.0), "beta is -1; expected finite numbers ≥ 0"),
        (lambda: pn.learn(X, D, [0.1, 0.2, -3.0]), "beta is -3 for a channel; expected finite numbers ≥ 0"),
        (lambda: pn.learn("images", D, 0.3, max_iterations=2), "images is 'images'; expected a tensor"),
        (lambda: pn.learn(torch.full_like(X, torch.nan), D, 0.3, mask="nan"), "no pixel of any image is known"),
        (lambda: pn.learn(X, D, 0.3, mask=torch.zeros_like(X)), "no pixel of any image is known"),
        (lambda: pn.learn(iter([X]), D, 1e4), "beta is 10000, with which every code of the stream is zero"),
        (lambda: pn.learn(iter([torch.zeros_like(X)]), D, 0.3), "all images are constant"),
        (lambda: pn.learn(iter([]), D, 0.3), "the stream has no images; expected one batch or more"),
        (lambda: pn.solve(X[..., :2, :2], CIRCULAR, 0.3), "expected larger signals or smaller filters"),
        (lambda: pn.solve(X[..., :2, :2], pn.ConvDictionary(D.weight), 0.3), "expected larger signals or more padding"),
        (lambda: pn.path(X, D, [1.0, -1.0]), "betas holds -1; expected finite numbers ≥ 0"),
        (lambda: pn.path(X, D, [[1.0, 2.0]]), "betas has shape (1, 2); expected (n,), or (n, 6, 1, 1, 1)"),
    ],
)
def test_bad_input_gets_one_sentence(call, said):
    with pytest.raises((TypeError, ValueError), match=re.escape(said)):
        call()


def test_sums_that_cannot_be_allocated_are_refused_before_time_is_spent():
    many = pn.ConvDictionary(torch.ones(1, 1, 40, 40).expand(200_000, 1, 40, 40))
    from pursuitnet.problems.learning.statistics import SufficientStatistics

    with pytest.raises(
        ValueError, match=r"the correlations of 200000 atoms take [\d,]+ GiB, which cannot be allocated"
    ):
        SufficientStatistics.none(many)


def test_auto_chooses_the_solver_as_none_does():
    one, other = (pn.learn(X, D, 0.3, max_iterations=2, solver=solver) for solver in (None, "auto"))
    assert torch.equal(one.dictionary.weight, other.dictionary.weight)
    with pytest.raises(TypeError, match="solver is 'fista'"):
        pn.learn(X, D, 0.3, solver="fista")


# ---------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("stop", [7, 10, 11, None], ids=["amid", "at the last batch", "at the last report", "finished"])
def test_a_stream_that_was_cut_off_anywhere_ends_as_one_that_was_not(tmp_path, stop):
    batches = list(normal(20, 1, 9, 9, seed=3).split(2))
    options = {"beta": 0.3, "checkpoint": tmp_path / "state"}
    whole = pn.learn(iter(batches), D, 0.3)
    calls = []

    def interrupt(report, _):
        calls.append(report)
        if len(calls) == stop:
            raise KeyboardInterrupt

    try:
        pn.learn(iter(batches), D, callback=interrupt, **options)
    except KeyboardInterrupt:
        assert stop is not None
    again = pn.learn(iter(batches), D, **options)
    assert torch.equal(again.dictionary.weight, whole.dictionary.weight) and torch.equal(again.usage, whole.usage)
    assert [r.objective for r in again.history] == [r.objective for r in whole.history]


@pytest.mark.parametrize("name", ["images", "mask", "filters", "type"])
def test_a_checkpoint_of_other_images_or_filters_is_refused_and_kept(tmp_path, name):
    path = tmp_path / "state"
    pn.learn(X, D, 0.5, max_iterations=1, checkpoint=path)
    before = path.read_bytes()
    mask = torch.ones_like(X)
    mask[0, 0, 0, 0] = 0
    other = {
        "images": lambda: pn.learn(X + 1, D, 0.5, checkpoint=path),
        "mask": lambda: pn.learn(X, D, 0.5, mask=mask, checkpoint=path),
        "filters": lambda: pn.learn(X, D.with_weight(unit(3, 1, 3, 3, seed=9)), 0.5, checkpoint=path),
        "type": lambda: pn.learn(X.float(), D.with_weight(D.weight.detach().float()), 0.5, checkpoint=path),
    }[name]
    said = "another initial dictionary" if name in ("filters", "type") else "other images, or another mask"
    with pytest.raises(ValueError, match=f"was started with {said}; expected the same, or another checkpoint"):
        other()
    assert path.read_bytes() == before
    assert pn.learn(X, D, 0.5, max_iterations=2, checkpoint=path).history[-1].iteration == 2


def test_the_checksum_of_a_checkpoint_covers_its_state(tmp_path):
    path = tmp_path / "state"
    pn.learn(X, D, 0.3, max_iterations=2, checkpoint=path)
    content = path.read_bytes()
    changed = content.replace(b'\\"reseeded\\": 0', b'\\"reseeded\\": 1')
    assert changed != content and len(changed) == len(content)
    path.write_bytes(changed)
    with pytest.raises(ValueError, match="is damaged, or not a checkpoint of learning"):
        pn.learn(X, D, 0.3, max_iterations=3, checkpoint=path)
    assert digest_of({"a": X}) != digest_of({"a": X}, {"b": json.dumps(1)}) != digest_of({"a": X}, {"b": json.dumps(2)})


def test_a_checkpoint_makes_its_folder_and_impossible_paths_are_refused_first(tmp_path):
    pn.learn(X, D, 0.3, max_iterations=1, checkpoint=tmp_path / "new" / "folder" / "state")
    assert (tmp_path / "new" / "folder" / "state").is_file()
    calls = []
    with pytest.raises(ValueError, match="which is a folder; expected a file"):
        pn.learn(X, D, 0.3, checkpoint=tmp_path, callback=lambda *report: calls.append(report))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; expected a file in a folder"):
        pn.learn(X, D, 0.3, checkpoint=tmp_path / "file" / "state", callback=lambda *report: calls.append(report))
    assert not calls


# ---------------------------------------------------------------- the picture, and networks with given dictionaries


def test_the_picture_shows_the_atoms_in_the_order_of_their_use():
    learned = pn.learn(X, D, 0.3, max_iterations=1)
    axes = learned.plot()
    (image,) = axes.get_images()
    canvas = torch.as_tensor(image.get_array())
    assert canvas.shape == (7, 7) and axes.get_title() == "3 of 3 atoms, the most used first"  # 2 by 2 tiles of 3 × 3
    first = learned.dictionary.weight[int(learned.usage.argmax()), 0].detach()
    torch.testing.assert_close(canvas[:3, :3], ((first / first.abs().max() + 1) / 2).to(canvas.dtype))
    assert learned.plot(most=1).get_title().startswith("1 of 3")
    signals = pn.learn(normal(20, 6), pn.LinearDictionary(unit(4, 6)), 0.3, max_iterations=1)
    assert len(signals.plot().lines) == 4
    with pytest.raises(ValueError, match="expected images of 1 or 3 channels, or signals"):
        pn.learn(normal(2, 2, 6, 6), pn.ConvDictionary(unit(3, 2, 3, 3)), 0.3, max_iterations=1).plot()
    with pytest.raises(ValueError, match="most is 0"):
        learned.plot(most=0)


def test_a_network_begins_with_one_dictionary_or_the_layers_of_a_composed_one():
    network = pn.create_model("ml_csc", in_chans=1)
    shapes = [layer.dictionary.weight.shape for layer in network.pursuits()[:2]]
    layers = [pn.ConvDictionary(unit(*shape, seed=i).float()) for i, shape in enumerate(shapes)]
    for given, count in ((layers[0], 1), (layers, 2), (tuple(layers), 2)):
        begun = pn.create_model("ml_csc", in_chans=1, dictionaries=given).pursuits()
        for layer, own in list(zip(layers, begun, strict=False))[:count]:
            ratio = own.dictionary.weight / layer.weight
            torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-4, atol=1e-4)
    composed = pn.ComposedDictionary([pn.ConvDictionary(unit(*shapes[0]).float()), layers[1]])
    begun = pn.create_model("ml_csc", in_chans=1, dictionaries=composed).pursuits()
    assert begun[1].dictionary.weight.flatten() @ layers[1].weight.flatten() > 0.99 * (
        begun[1].dictionary.weight.norm() * layers[1].weight.norm()
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("abcd", "dictionaries is 'abcd'; expected a list of them"),
        (["abcd"], r"dictionaries[0] is 'abcd'; expected a Dictionary, such as learn(…).dictionary"),
        ([torch.nan], "dictionaries[0] has filters that are all zero or not finite"),
        ([0.0], "dictionaries[0] has filters that are all zero or not finite"),
    ],
)
def test_dictionaries_that_no_network_can_begin_with_are_refused(given, said):
    shape = pn.create_model("ml_csc", in_chans=1).pursuits()[0].dictionary.weight.shape
    if isinstance(given, list) and isinstance(given[0], float):
        given = [pn.ConvDictionary(torch.full(shape, given[0]))]
    with pytest.raises((TypeError, ValueError), match=re.escape(said)):
        pn.create_model("ml_csc", in_chans=1, dictionaries=given)
