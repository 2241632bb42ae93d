"""Evaluation against scikit-learn, SciPy, Pillow and brute force; what it chooses without labels; its command."""

import copy
import io
import json
import math
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import torch
from makers import generator
from PIL import Image
from programs import program
from scipy import ndimage
from sklearn import metrics
from torch import nn

import pursuitnet as pn
from pursuitnet import data
from pursuitnet.program import train
from pursuitnet.program.evaluation import CORRUPTIONS, Adaptation, evaluate, robustness, with_thresholds, with_unfolding
from pursuitnet.program.evaluation.adaptation import CRITERIA, errors, usage
from pursuitnet.program.evaluation.evaluate_run import EvaluationRecord, Settings, evaluate_run
from pursuitnet.program.evaluation.measures import metrics_of
from pursuitnet.program.evaluation.robustness import Robustness, Row
from pursuitnet.program.evaluation.text import lines
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.trace import trace_layers
from pursuitnet.prox.threshold import IdentityPenalty


def answers(count=400, classes=9, seed=0, levels=None):
    """Logits, with many ties if they have few levels, and labels that go with them now and then."""
    logits = torch.randn(count, classes, generator=generator(seed), dtype=torch.float64)
    if levels:
        logits = (logits * levels).round() / levels
    labels = torch.randint(classes, (count,), generator=generator(seed + 1))
    return logits + 2 * nn.functional.one_hot(labels, classes) * (torch.arange(count) % 2)[:, None], labels


def network(**choices):
    """A small network whose statistics and thresholds are as different as training leaves them."""
    return copy.deepcopy(_network(**choices))


@cache
def _network(**choices):
    torch.manual_seed(0)
    model = pn.create_model("msd_csc_3", in_chans=1, width=5, **choices).train()
    with torch.no_grad():
        for _ in range(20):
            model(torch.rand(16, 1, 8, 8))
        for layer in model.pursuits():
            for weight in (layer.threshold.atom_weight, layer.threshold.identity_weight):
                if weight is not None:
                    weight.uniform_(0.05, 0.4)
    return model.eval()


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(model, before):
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# --- measures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapt", CRITERIA)
def test_what_the_thresholds_were_chosen_by_is_what_is_said(adapt):
    logits, labels = torch.eye(4), torch.arange(4)
    row = Row("clean", (0.5,), (0.5,), (1.0,))
    five = Row("contrast", (0.5,) * 5, (0.5,) * 5, (1.0,) * 5)
    settings, found = Settings(corruptions=(), adapt=adapt), metrics_of(logits, labels, list("abcd"))
    text = "\n".join(EvaluationRecord("a network", settings, found, Robustness(4, row, (five,), 0.5, 0.5)).lines())
    assert CRITERIA[adapt].effect in text
    assert not any(other.effect in text for name, other in CRITERIA.items() if name != adapt)
    assert ("reconstructs its input" in text) == (adapt == "reconstruction")
    with pytest.raises(ValueError, match=r"unknown adaptation 'usages': .*did you mean usage\?"):
        Settings(corruptions=(), adapt="usages")


def test_the_numbers_are_those_of_scikit_learn():
    logits, labels = answers()
    found, classes = metrics_of(logits, labels, "abcdefghi"), np.arange(9)
    predicted = logits.argmax(1)
    assert found.top1 == metrics.accuracy_score(labels, predicted)
    assert found.top5 == pytest.approx(metrics.top_k_accuracy_score(labels, logits, k=5, labels=classes), abs=1e-15)
    assert found.per_class == pytest.approx(metrics.recall_score(labels, predicted, average=None), abs=1e-15)
    assert found.loss == pytest.approx(metrics.log_loss(labels, logits.softmax(1), labels=classes), rel=1e-10)
    assert np.array_equal(found.confusion, metrics.confusion_matrix(labels, predicted))
    assert found.images == 400


@pytest.mark.parametrize("seed", range(3))
def test_among_equal_logits_the_first_counts(seed):
    logits, labels = answers(seed=seed, levels=1)
    found = metrics_of(logits, labels, "abcdefghi")
    ranks = [  # how many classes stand before the label: larger ones, and equal ones with a smaller number
        sum((z[k], -k) > (z[label], -label) for k in range(9))
        for z, label in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    assert found.top1 == sum(rank < 1 for rank in ranks) / 400 == float((logits.argmax(1) == labels).double().mean())
    assert found.top5 == sum(rank < 5 for rank in ranks) / 400
    assert len({len(set(row)) for row in logits.tolist()}) > 1  # there are ties


def test_the_calibration_error_is_that_of_its_definition():
    logits, labels = answers()
    confidence, right = logits.softmax(1).amax(1).numpy(), (logits.argmax(1) == labels).numpy()
    total = 0.0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    found = metrics_of(logits, labels, "abcdefghi")
    assert found.ece == pytest.approx(total, abs=1e-12)
    assert sum(b.count for b in found.bins) == 400 and len(found.bins) == 15
    empty = [b for b in found.bins if not b.count]
    assert empty and all(b.accuracy is b.confidence is None for b in empty)


def test_one_sure_answer_fills_the_last_bin_and_nothing_else():
    found = metrics_of(torch.tensor([[50.0, 0.0]]), torch.tensor([0]), ["cat", "dog"])
    assert [b.count for b in found.bins] == [0] * 14 + [1]
    assert (found.top1, found.top5, found.per_class, found.ece) == (1.0, None, (1.0, None), pytest.approx(0, abs=1e-12))
    assert metrics_of(torch.tensor([[0.0, 50.0]]), torch.tensor([0]), ["cat", "dog"]).ece == pytest.approx(1)


def test_batches_of_one_image_give_the_same():
    model, images = network().double(), torch.rand(7, 1, 8, 8, generator=generator(), dtype=torch.float64)
    labels = torch.arange(7)
    one, all_ = (evaluate(model, images, labels, "0123456789", size=size) for size in (1, 7))
    assert one.confusion == all_.confusion and one.loss == pytest.approx(all_.loss, rel=1e-10)
    assert one.ece == pytest.approx(all_.ece, rel=1e-10)
    doubled = evaluate(model, images / 2, labels, "0123456789", prepare=lambda part: 2 * part)
    assert doubled.loss == pytest.approx(all_.loss, rel=1e-10)


def test_confusions_come_most_frequent_first():
    labels, taken = torch.tensor([0, 0, 0, 1, 1, 2, 2]), torch.tensor([1, 1, 0, 1, 0, 2, 2])
    found = metrics_of(nn.functional.one_hot(taken, 3).double(), labels, ["cat", "dog", "eel"])
    assert found.confusions() == [("cat", "dog", 2), ("dog", "cat", 1)]
    assert found.confusions(1) == [("cat", "dog", 2)]
    text = list(lines(found))
    assert text[0] == f"accuracy {100 * 4 / 7:.2f} % ({4 / 7!r}), loss {found.loss:.4f}, 7 test images"
    assert "cat predicted as dog: 2 images, 66.67 % of cat" in text
    assert "dog predicted as cat: 1 image, 50.00 % of dog" in text
    assert not any("top-5" in line for line in text)


def test_many_classes_are_cut_to_the_weakest():
    logits, labels = answers(classes=30)
    text = next(line for line in lines(metrics_of(logits, labels, [f"c{i}" for i in range(30)])) if "weakest" in line)
    assert text.count("%") == 10


def test_what_cannot_be_evaluated_is_refused():
    logits, labels = answers()
    broken = logits.clone()
    broken[3, 2] = torch.nan
    with pytest.raises(FloatingPointError, match="1 of 400"):
        metrics_of(broken, labels, "abcdefghi")
    with pytest.raises(ValueError, match="labels from 0 to 7"):
        metrics_of(logits, labels, "abcdefgh")
    with pytest.raises(ValueError, match="at least one"):
        evaluate(nn.Identity(), logits[:0], labels[:0], "abcdefghi")
    with pytest.raises(ValueError, match="as many"):
        evaluate(nn.Identity(), logits, labels[:3], "abcdefghi")


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choices", [{}, {"norm": None}, {"norm": "features"}, {"identity": "same"}, {"unfolding": 2}])
def test_the_threshold_of_every_part_is_multiplied_and_put_back(choices):
    model, c = network(**choices), 0.3
    before, parts = state(model), [layer.threshold.eval_affine(c) for layer in model.pursuits()]
    with with_thresholds(model, 2.5):
        scaled = [layer.threshold.eval_affine(c) for layer in model.pursuits()]
        assert not same(model, before)
    for old, new in zip((a for layer in parts for a in layer), (a for layer in scaled for a in layer), strict=True):
        assert torch.equal(old.scale, new.scale) and torch.equal(old.shift, new.shift)  # the center stays
        assert torch.allclose(new.theta, 2.5 * old.theta) and float(old.theta.max()) > 0
    assert same(model, before)


def test_a_multiplied_threshold_is_what_the_formula_says():
    torch.manual_seed(0)
    dictionary = pn.LinearDictionary(torch.randn(6, 4))
    layer = pn.PursuitLayer(dictionary, threshold=pn.Threshold((6,), 0.2)).double().eval()
    x, c = torch.randn(5, 4, generator=generator(), dtype=torch.float64), layer.step()[0]
    with torch.no_grad(), with_thresholds(layer, 3.0):
        expected = (c * x @ dictionary.weight.mT - 3 * 0.2 * c).clamp(min=0)
        assert torch.allclose(layer(x), expected, atol=1e-7)


def test_thresholds_come_back_after_an_error_and_one_alone_can_be_zero():
    model = network()
    before = state(model)

    def fail():
        with with_thresholds(model, 0.0), with_unfolding(model, 5):
            assert all(not bool(layer.threshold.penalty.any()) for layer in model.pursuits())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert same(model, before) and {layer.unfolding for layer in model.pursuits()} == {1}


def test_networks_without_beta_say_so():
    model = pn.create_model("resnet_8", width=2)
    with pytest.raises(ValueError, match="no β to multiply"), with_thresholds(model, 2.0):
        pass
    with with_thresholds(pn.create_model("resnet_8", norm=None, width=2), 2.0):
        pass
    for factor in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="expected a number ≥ 0"), with_thresholds(network(), factor):
            pass


@pytest.mark.parametrize("sweep", ["layer", "multilayer"])
def test_another_unfolding_is_the_network_that_was_made_with_it(sweep):
    model = network(norm=None, sweep=sweep)
    other = pn.create_model("msd_csc_3", in_chans=1, width=5, norm=None, sweep=sweep, unfolding=4).eval()
    other.load_state_dict(model.state_dict())
    x = torch.rand(3, 1, 8, 8, generator=generator())
    with torch.no_grad():
        as_trained = model(x)
        with with_unfolding(model, 4):
            assert torch.equal(model(x), other(x))
        assert torch.equal(model(x), as_trained) and not torch.equal(as_trained, other(x))
    for bad, message in ((model, "unfolding is -1"), (nn.Linear(2, 2), "no pursuits")):
        with pytest.raises(ValueError, match=message), with_unfolding(bad, -1 if bad is model else 1):
            pass


# --- corruptions -----------------------------------------------------------------------------------------------------


def pictures(kind):
    if kind == "digits":
        return data.load("digits", split="test")[0][:60]
    size = {"gray": (8, 1, 20, 28), "color": (8, 3, 32, 32), "bands": (8, 2, 9, 9)}[kind]
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=size), (0, 0, 2, 2))
    return torch.from_numpy(255 * (smooth - smooth.min()) / np.ptp(smooth)).to(torch.uint8)


@pytest.mark.parametrize("kind", ["digits", "gray", "color", "bands"])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_keeps_the_kind_of_images_and_grows_with_its_severity(name, kind):
    images, corruption = pictures(kind), CORRUPTIONS[name]
    kept, off = images.clone(), [0.0]
    for severity in range(1, 6):
        spoilt = corruption.seeded(images, severity, 7)
        assert spoilt.dtype == torch.uint8 and spoilt.shape == images.shape
        assert torch.equal(spoilt, corruption.seeded(images, severity, 7))
        off.append(float((spoilt.double() - images.double()).square().mean()))
    assert off == sorted(set(off))
    assert torch.equal(images, kept)
    assert corruption(images[:0], 1, generator()).shape == images[:0].shape


def test_noise_is_what_its_level_says():
    gray = torch.full((1, 1, 400, 400), 128, dtype=torch.uint8)

    def deviation(name, severity):
        spoilt = CORRUPTIONS[name](gray, severity, generator())
        return spoilt, float(spoilt.double().div(255).std())

    assert deviation("gaussian_noise", 3)[1] == pytest.approx(0.08, rel=0.01)
    assert deviation("shot_noise", 4)[1] == pytest.approx((128 / 255 / 75) ** 0.5, rel=0.01)
    spoilt = deviation("impulse_noise", 5)[0]
    assert float((spoilt == 0).double().mean()) == pytest.approx(0.035, rel=0.05)
    assert float((spoilt == 255).double().mean()) == pytest.approx(0.035, rel=0.05)
    assert bool(((spoilt == 0) | (spoilt == 128) | (spoilt == 255)).all())
    other = CORRUPTIONS["gaussian_noise"].seeded(gray, 3, 1)
    assert not torch.equal(other, CORRUPTIONS["gaussian_noise"].seeded(gray, 3, 2))


@pytest.mark.parametrize(("severity", "sigma"), [*enumerate([0.4, 0.6, 0.7, 0.8, 1.0], 1)])
def test_gaussian_blur_is_that_of_scipy(severity, sigma):
    images = pictures("color")
    expected = ndimage.gaussian_filter(images.double().numpy(), (0, 0, sigma, sigma), mode="nearest")
    found = CORRUPTIONS["gaussian_blur"](images, severity, generator()).double().numpy()
    assert np.abs(found - expected).max() <= 0.5 + 1e-3


def test_defocus_blur_is_a_smoothed_disk():
    point = torch.zeros(1, 1, 15, 15, dtype=torch.uint8)
    point[..., 7, 7] = 255
    disk = np.pad([[0, 1, 0], [1, 1, 1], [0, 1, 0]], 6) / 5  # the grid points within radius 1
    line = np.exp(-0.5 * (np.arange(-1, 2) / 0.2) ** 2)
    expected = 255 * ndimage.convolve(disk, np.outer(line, line) / line.sum() ** 2)
    assert np.abs(CORRUPTIONS["defocus_blur"](point, 4, generator())[0, 0].numpy() - expected).max() <= 0.5 + 1e-3


def test_contrast_shrinks_each_channel_to_its_mean():
    x = pictures("color").double()
    mean = x.mean((2, 3), keepdim=True)
    found = CORRUPTIONS["contrast"](pictures("color"), 5, generator()).double()
    assert float((found - (mean + 0.15 * (x - mean))).abs().max()) <= 0.5 + 1e-3


@pytest.mark.parametrize(("kind", "mode"), [("gray", "L"), ("color", "RGB")])
def test_jpeg_is_that_of_pillow(kind, mode):
    images = pictures(kind)[:3]
    for image, found in zip(images, CORRUPTIONS["jpeg"](images, 5, generator()), strict=True):
        file = io.BytesIO()
        pixels = image.movedim(0, -1).squeeze(-1).numpy()
        Image.fromarray(pixels).save(file, "jpeg", quality=40)
        opened = Image.open(file)
        assert opened.mode == mode and np.array_equal(np.array(opened), found.movedim(0, -1).squeeze(-1).numpy())


def test_what_cannot_be_corrupted_is_refused():
    corruption, images = CORRUPTIONS["contrast"], pictures("digits")
    for severity in (0, 6):
        with pytest.raises(ValueError, match="expected 1, 2, 3, 4 or 5"):
            corruption(images, severity, generator())
    for bad in (images.float(), images[0]):
        with pytest.raises(ValueError, match="expected uint8"):
            corruption(bad, 1, generator())


# --- adaptation ------------------------------------------------------------------------------------------------------


def prepare(images):
    return data.to_unit(images)


@pytest.mark.parametrize("choices", [{"unfolding": 2}, {"sweep": "multilayer", "identity": "same"}])
def test_the_usage_is_the_non_zero_share_of_each_atom_in_the_last_code(choices):
    model, images = network(**choices), pictures("digits")[:50]
    expected = (trace_layers(model, prepare(images))[-1].atom_codes != 0).double().mean((0, 2, 3)).tolist()
    assert usage(model, images, prepare, size=16).tolist() == pytest.approx(expected, abs=5e-3)  # float32, at the cut
    assert len(expected) == 5 and min(expected) < max(expected)


def test_a_code_that_overflows_is_never_chosen():
    model, images = network(), pictures("digits")[:4]
    adaptation = Adaptation.to(images, model, lambda part: prepare(part) * torch.nan)
    assert adaptation.clean.isnan().all()
    assert Adaptation(model, prepare, adaptation.clean).distance(images, 1.0) == math.inf


def test_the_errors_are_those_of_the_reconstruction_of_each_layer():
    model, images = network(), pictures("digits")[:50]
    expected = []
    for at in trace_layers(model, prepare(images)):
        D, x = at.dictionary, at.signals[-1]
        lost = x - D.synthesize(at.codes[-1], x.shape)
        expected.append((lost.flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)).mean().item())
    assert errors(model, images, prepare, size=16).tolist() == pytest.approx(expected, rel=1e-4)
    assert len(expected) == len(model.pursuits())


@pytest.mark.parametrize(("wanted", "statistic"), [(0.25, usage), (0.5, errors), (1.0, usage), (2.0, errors)])
def test_the_factor_that_gives_the_clean_codes_is_found(wanted, statistic):
    model, images = network(), pictures("digits")[:20]
    before = state(model)
    with with_thresholds(model, wanted):
        clean = statistic(model, images, prepare)
    assert Adaptation(model, prepare, clean, statistic=statistic).factor(images) == wanted
    assert same(model, before)


@pytest.mark.parametrize("by", CRITERIA)
def test_clean_images_keep_the_thresholds(by):
    model, images = network(), pictures("digits")[:20]
    assert Adaptation.to(images, model, prepare, by).factor(images) == 1


def test_where_nothing_hangs_on_the_thresholds_they_stay():
    model, images = network(), pictures("digits")[:20]
    with with_thresholds(model, 0.0):
        assert Adaptation.to(images, model, prepare).factor(images) == 1


def test_noise_asks_for_higher_thresholds_than_blur():
    model, images = network(), pictures("color")[:8, :1]
    adaptation = Adaptation.to(images, model, prepare)
    noisy, blurred = (CORRUPTIONS[name].seeded(images, 5, 0) for name in ("impulse_noise", "defocus_blur"))
    assert adaptation.factor(noisy) > adaptation.factor(blurred)


def test_labels_have_no_part_in_the_choice():
    model, (images, labels) = network(), (part[:30] for part in data.load("digits", split="test"))
    labels = labels.contiguous()
    with with_thresholds(model, 0.5):
        adaptation = replace(Adaptation.to(images, model, prepare), factors=(0.5, 1.0, 2.0))
    some = [CORRUPTIONS["gaussian_noise"]]
    shuffled = labels[torch.randperm(30, generator=generator())]
    told = []
    one = robustness(model, images, labels, some, prepare, adaptation=adaptation, on_row=told.append)
    two = robustness(model, images, shuffled, some, prepare, adaptation=adaptation)
    assert [row.factors for row in one.rows] == [row.factors for row in two.rows]
    assert one.clean.factors == two.clean.factors and any(S != 1 for row in one.rows for S in row.factors)
    assert [row.accuracy for row in one.rows] != [row.accuracy for row in two.rows]
    assert told == [one.clean, *one.rows]


def test_the_table_is_made_of_single_evaluations():
    model, (images, labels) = network(), (part[:30] for part in data.load("digits", split="test"))
    blur, before = CORRUPTIONS["defocus_blur"], state(model)
    adaptation = replace(Adaptation.to(images[:20], model, prepare), factors=(0.5, 1.0, 2.0))
    found = robustness(model, images, labels, [blur], prepare, adaptation=adaptation, seed=3)
    accuracy = partial(evaluate, labels=labels, classes="0123456789", prepare=prepare)
    assert found.clean.accuracy == (accuracy(model, images).top1,)
    row = found.rows[0]
    for severity in range(1, 6):
        spoilt = blur.seeded(images, severity, 3)
        assert row.accuracy[severity - 1] == accuracy(model, spoilt).top1
        assert row.factors[severity - 1] == adaptation.factor(spoilt)
        with with_thresholds(model, row.factors[severity - 1]):
            assert row.adapted[severity - 1] == accuracy(model, spoilt).top1
    assert found.mean == row.mean == pytest.approx(sum(row.accuracy) / 5)
    assert found.adapted_mean == pytest.approx(sum(row.adapted) / 5)
    assert same(model, before)
    assert robustness(model, images, labels, [blur], prepare).rows[0].adapted is None


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "one"
    train.train(
        Recipe(model="msd_csc_3", width=2, epochs=1, train_images=64, test_images=100, lr=0.1, device="cpu"), folder
    )
    return folder


def test_evaluate_prints_and_writes_everything(run, capsys, monkeypatch, tmp_path):
    options = (
        "--corruptions",
        "contrast",
        "jpeg",
        "--adapt",
        "reconstruction",
        "--test-images",
        20,
        "--plot",
        "--out",
        tmp_path / "o",
    )
    code, printed, said = program(monkeypatch, capsys, "evaluate", run, *options)
    assert (code, said) == (0, "")
    found = json.loads((tmp_path / "o" / "evaluation.json").read_text())
    top1 = found["evaluation"]["top1"]
    assert printed.splitlines()[0].startswith(f"accuracy {100 * top1:.2f} % ({top1!r}), loss ")
    for word in ("top-5", "by class: 0 ", "ECE", "predicted as", "contrast", "jpeg", "adapted", "evaluation.png"):
        assert word in printed
    assert CRITERIA["reconstruction"].effect in printed and CRITERIA["usage"].effect not in printed
    assert found["settings"]["test_images"] == 20 == found["evaluation"]["images"] == found["robustness"]["images"]
    assert [row["name"] for row in found["robustness"]["rows"]] == ["contrast", "jpeg"]
    assert (tmp_path / "o" / "evaluation.png").read_bytes().startswith(b"\x89PNG")
    assert not (run / "evaluation.json").exists()


def test_evaluate_gives_the_accuracy_of_the_last_epoch(run, capsys, monkeypatch):
    code, printed, _ = program(monkeypatch, capsys, "evaluate", run)
    assert code == 0 and f"({train.last_record(run)['test_accuracy']!r})" in printed.splitlines()[0]
    assert json.loads((run / "evaluation.json").read_text())["robustness"] is None


def test_other_steps_and_thresholds_reach_the_evaluation(run):
    recipe, model = train.load_run(run)
    images = train.images_of(recipe)
    found = evaluate_run(run, Settings(unfolding=3, threshold=2.0, test_images=50))
    assert found.notes == ("unfolding 3, trained with 1", "thresholds × 2 in 3 of 3 layers")
    assert list(found.lines())[1:3] == list(found.notes)
    by_hand = copy.deepcopy(model)
    for layer in by_hand.pursuits():
        layer.unfolding = 3
        layer.threshold.atom_weight.data *= 2
        assert layer.threshold.identity is IdentityPenalty.OWN
        layer.threshold.identity_weight.data *= 2
    pixels, labels = (part[:50] for part in images.test)
    expected = evaluate(by_hand, pixels, labels, "0123456789", prepare=images.prepared)
    assert found.evaluation.loss == expected.loss
    assert expected.loss != evaluate(model, pixels, labels, "0123456789", prepare=images.prepared).loss


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--unfolding", "-1"], "unfolding is -1"),
        (["--threshold", "-0.5"], "threshold is -0.5"),
        (["--threshold", "nan"], "threshold is nan"),
        (["--test-images", "0"], "test_images is 0"),
        (["--corruptions", "contrast", "fog"], "unknown corruption 'fog': known are gaussian_noise, "),
        (["--adapt", "usage"], "add --corruptions"),
        (["--corruptions", "jpeg", "--adapt", "reconstruction", "--threshold", "2"], "leave out --threshold"),
    ],
)
def test_bad_input_ends_in_one_line_and_code_2(options, says, run, capsys, monkeypatch, tmp_path):
    code, printed, said = program(monkeypatch, capsys, "evaluate", run, *options, "--out", tmp_path / "o")
    assert (code, printed, said.count("\n")) == (2, "", 1)
    assert said.startswith("pursuitnet: ") and says in said
    assert not (tmp_path / "o").exists()


def test_a_run_that_has_not_finished_is_named(run, capsys, monkeypatch, tmp_path):
    (tmp_path / "recipe.json").write_bytes((run / "recipe.json").read_bytes())
    code, _, said = program(monkeypatch, capsys, "evaluate", tmp_path, "--corruptions")
    assert code == 2 and said.count("\n") == 1 and "has not finished" in said
