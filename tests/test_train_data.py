"""Training from Python: data that are handed over, augmentation, weights to begin with, classes of unequal size."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from programs import program
from torch.utils.data import Dataset, Subset, TensorDataset

import pursuitnet as pn
from pursuitnet.program import train
from pursuitnet.program.evaluation.evaluate_run import Settings, evaluate_run
from pursuitnet.program.learn.dictionary import DICTIONARY, write_dictionary
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.sharing import weights
from pursuitnet.program.train.images import batches, images_of, loss_weights
from pursuitnet.program.train.initial import load_initial_dictionary
from pursuitnet.program.train.trainer import Trainer

NETWORK = {"model": "msd_csc_3", "unfolding": 0, "width": 2}
TINY = Recipe(**NETWORK, normalize=True, epochs=2, batch_size=8, device="cpu", shift=1, flip=True)
ONE_EPOCH = replace(TINY, epochs=1)


def made(count=20, seed=0, size=8, channels=3):
    """Dark images of class 0 and bright ones of class 1."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    images = torch.randint(100, (count, channels, size, size), generator=draw) + 150 * labels[:, None, None, None]
    return images.to(torch.uint8), labels


FOUR = (*made(), *made(8, seed=1))


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """The folder of a tiny finished run."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    pn.train(TINY, folder, data=FOUR, classes=("dark", "bright"))
    return folder


def weights_of(folder):
    return weights.unpack(folder / "model.safetensors")[0]


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


class Pictures(Dataset):
    """A torch Dataset as torchvision has them: Pillow images, classes, targets, and a random transform."""

    classes = ("dark", "bright")

    def __init__(self, images, labels, noisy=False):
        self.images, self.targets, self.noisy = images, labels.tolist(), noisy

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        pixels = self.images[index].permute(1, 2, 0).numpy()
        if self.noisy:
            pixels = pixels + torch.randint(5, pixels.shape, dtype=torch.uint8).numpy()
            pixels = pixels ^ np.random.randint(0, 2, pixels.shape, dtype=np.uint8)  # noqa: NPY002
        return Image.fromarray(pixels), self.targets[index]


class Stop(train.NoOpCallback):
    """Breaks a run off after some steps."""

    def __init__(self, epoch, step):
        self.at = (epoch, step)

    def on_step_end(self, epoch, step, steps):
        if (epoch, step) == self.at:
            raise KeyboardInterrupt


def cut_and_resumed(recipe, folder, **given):
    """Train with a break in the middle of the second epoch."""
    with pytest.raises(KeyboardInterrupt):
        pn.train(recipe, folder, Stop(2, 2), every=0.0, **given)
    pn.train(recipe, folder, resume=True, **given)
    return weights_of(folder)


# forms


def test_every_form_of_the_same_data_trains_the_same_network(tmp_path):
    images, labels, test, answers = FOUR
    forms = {
        "four": FOUR,
        "arrays": tuple(part.numpy() for part in FOUR),
        "pairs": ((images, labels), (test, answers)),
        "datasets": (Pictures(images, labels), Pictures(test, answers)),
        "tensors": (TensorDataset(images, labels), TensorDataset(test, answers)),
        "names": (images, ["b" if k else "a" for k in labels], test, ["b" if k else "a" for k in answers]),
    }
    found = {}
    for name, form in forms.items():
        pn.train(ONE_EPOCH, tmp_path / name, data=form)
        found[name] = weights_of(tmp_path / name)
        assert same(found[name], found["four"]), name
    classes = {name: pn.trained(tmp_path / name).classes for name in forms}
    assert (
        classes["four"] == ("0", "1") and classes["names"] == ("a", "b") and classes["datasets"] == ("dark", "bright")
    )
    about = pn.trained(tmp_path / "four")
    assert about.recipe.data == "given" and about.image_size == (8, 8) and about.data.train.images == 20


def test_floats_in_0_1_are_those_of_8_bits_up_to_rounding(begun, tmp_path):
    images, labels, test, answers = FOUR
    pn.train(TINY, tmp_path, data=(images / 255, labels, (test / 255).double(), answers))
    one, other = weights_of(begun), weights_of(tmp_path)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-3, atol=1e-4)
    for name in ("mean", "std"):
        said = [getattr(pn.trained(each), name) for each in (begun, tmp_path)]
        torch.testing.assert_close(*said, rtol=1e-5, atol=1e-6)


def test_of_data_alone_every_fifth_is_for_testing(tmp_path):
    images, labels, *_ = FOUR
    pn.train(ONE_EPOCH, tmp_path / "alone", data=(images[:, 0], labels), classes=("dark", "bright"))
    rest = torch.arange(20) % 5 != 0
    parts = (images[rest, :1], labels[rest], images[~rest, :1], labels[~rest])
    pn.train(ONE_EPOCH, tmp_path / "split", data=parts)
    assert same(*(weights_of(tmp_path / name) for name in ("alone", "split")))
    about = pn.trained(tmp_path / "alone")
    assert about.classes == ("dark", "bright") and len(about.mean) == 1 and about.data.test.images == 4
    pn.train(ONE_EPOCH, tmp_path / "dataset", data=Pictures(images, labels))
    assert pn.trained(tmp_path / "dataset").data.train.images == 16


IMAGES, LABELS, TEST, ANSWERS = FOUR


@pytest.mark.parametrize(
    ("data", "classes", "says"),
    [
        (3, None, "data is 3; expected (train_images, train_labels"),
        (
            (IMAGES.permute(0, 2, 3, 1), LABELS, TEST, ANSWERS),
            None,
            "channels last; expected (N, C, H, W): images",
        ),
        ((IMAGES.float() - 9, LABELS, TEST, ANSWERS), None, "floats from -9 to"),
        ((IMAGES.long(), LABELS, TEST, ANSWERS), None, "torch.int64; expected uint8, or floats in [0, 1]"),
        ((IMAGES / 0.0, LABELS, TEST, ANSWERS), None, "expected uint8, or floats in [0, 1]"),
        ((IMAGES, LABELS[1:], TEST, ANSWERS), None, "20 images to train on and 19 labels"),
        ((IMAGES, LABELS, TEST[:, :, :4], ANSWERS), None, "3 x 8 x 8, those to test on uint8 of 3 x 4 x 8"),
        ((IMAGES, LABELS, TEST, ANSWERS + 1), None, "a label is 2; expected 0 to 1"),
        ((IMAGES, LABELS / 2, TEST, ANSWERS), None, "expected whole numbers (N,)"),
        ((IMAGES, LABELS * 0, TEST, ANSWERS * 0), None, "there is 1 class; expected at least two"),
        ((IMAGES, LABELS, TEST, ANSWERS), ("a",), "a label is 1; expected 0 to 0"),
        ((IMAGES, LABELS, TEST[:0], ANSWERS[:0]), None, "no images to test on"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(tmp_path, data, classes, says):
    with pytest.raises((TypeError, ValueError)) as said:
        pn.train(TINY, tmp_path / "run", data=data, classes=classes)
    assert says in str(said.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("recipe", [{"epochs": 1}, "residual", None])
def test_a_recipe_of_another_kind_is_refused(tmp_path, recipe):
    with pytest.raises(TypeError, match=r"recipe is .*; expected a Recipe, as Recipe\(epochs=3\)"):
        pn.train(recipe, tmp_path / "run")


def test_a_denoiser_does_not_classify(tmp_path):
    with pytest.raises(ValueError, match="which denoises; expected another network to classify: msd_csc_6"):
        pn.train(Recipe(model="csc_denoiser"), tmp_path / "run", data=(IMAGES, LABELS, TEST, ANSWERS))
    assert not (tmp_path / "run").exists()


def test_the_home_in_a_run_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    pn.train(ONE_EPOCH, "~/run", data=(IMAGES, LABELS, TEST, ANSWERS))
    assert pn.trained("~/run").classes and not (tmp_path / "~").exists()


# going on, and looking at it afterwards


def test_a_dataset_with_random_transforms_goes_on_to_the_last_bit_with_any_number_of_workers(tmp_path):
    data = (Pictures(IMAGES, LABELS, noisy=True), Pictures(TEST, ANSWERS))
    before = torch.random.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    pn.train(TINY, tmp_path / "whole", data=data)
    for workers in (0, 2):
        cut = cut_and_resumed(replace(TINY, workers=workers), tmp_path / f"cut-{workers}", data=data)
        assert same(cut, weights_of(tmp_path / "whole")), workers
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # noqa: NPY002
    recipe = replace(TINY, data="given", shift=0, flip=False)
    images = images_of(recipe, torch.device("cpu"), train.given.dataset(data))
    first, again, later = (
        torch.cat([b for b, *_ in batches(recipe, e, images)]).sum((1, 2, 3)).sort()[0] for e in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.allclose(first, later, atol=0.1)  # drawn anew in every epoch


def test_a_run_does_not_go_on_with_other_data_or_without_them(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        pn.train(TINY, tmp_path, Stop(1, 2), every=0.0, data=FOUR)
    with pytest.raises(ValueError, match="is not what the run was trained on: other images to test on"):
        pn.train(TINY, tmp_path, resume=True, data=(IMAGES, LABELS, TEST ^ 1, ANSWERS))
    with pytest.raises(ValueError, match="were passed in from Python and are not stored"):
        pn.train(replace(TINY, data="given"), tmp_path, resume=True)
    pn.train(TINY, tmp_path, resume=True, data=FOUR)


def test_a_run_on_given_data_is_evaluated_on_a_folder(tmp_path):
    pn.train(replace(TINY, epochs=8), tmp_path / "run", data=FOUR, classes=("bright", "dark"))
    for split, (images, labels) in {"train": FOUR[:2], "test": made(6, seed=3)}.items():
        for k, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = tmp_path / "data" / split / ("bright", "dark")[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{k}.png")
    found = evaluate_run(tmp_path / "run", Settings(), data_dir=tmp_path / "data")
    assert found.evaluation.images == 6 and found.evaluation.top1 == 1
    with pytest.raises(ValueError, match="give a folder of images with --data-dir"):
        evaluate_run(tmp_path / "run", Settings())


# an augmentation of one's own


def noise(batch):
    return (batch + torch.randint(9, batch.shape, dtype=torch.uint8)).to(torch.uint8)


def test_an_own_augmentation_sees_every_batch_and_goes_on_to_the_last_bit(begun, tmp_path):
    seen = []

    def counted(batch):
        seen.append((batch.dtype, tuple(batch.shape)))
        return noise(batch)

    pn.train(TINY, tmp_path / "whole", data=FOUR, augment=counted)
    assert seen == [(torch.uint8, (n, 3, 8, 8)) for n in (8, 8, 4, 8, 8, 4)]
    whole = weights_of(tmp_path / "whole")
    assert not same(whole, weights_of(begun))
    assert same(cut_and_resumed(TINY, tmp_path / "cut", data=FOUR, augment=noise), whole)


def test_a_run_goes_on_with_its_own_augmentation_only(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        pn.train(TINY, tmp_path, Stop(1, 2), every=0.0, data=FOUR, augment=noise)
    with pytest.raises(ValueError, match=r"started with augment = .*noise and resumed with augment = None"):
        pn.train(TINY, tmp_path, resume=True, data=FOUR)


@pytest.mark.parametrize("wrong", [lambda b: b.float(), lambda b: b[:2], lambda b: None])
def test_an_augmentation_that_returns_something_else_is_told_so(tmp_path, wrong):
    with pytest.raises(ValueError, match=r"augment returned .*expected a batch like the one it took, torch\.uint8"):
        pn.train(TINY, tmp_path / "run", data=FOUR, augment=wrong)


# classes of unequal size


def unequal():
    images, labels = made(40)
    chosen = torch.cat([(labels == 0).nonzero()[:, 0], (labels == 1).nonzero()[:4, 0]])
    return images[chosen], labels[chosen]


def test_balanced_weights_give_every_class_the_same_share_of_the_loss():
    labels = torch.tensor([0] * 20 + [1] * 4 + [2] * 6)
    w = loss_weights(Recipe(balance="weights"), labels, 3)
    shares = torch.stack([w[k] * (labels == k).sum() for k in range(3)])
    torch.testing.assert_close(shares, torch.full((3,), 10.0))
    w = loss_weights(Recipe(class_weights=(1, 2, 4)), labels, 3)
    torch.testing.assert_close(w / w[0], torch.tensor([1.0, 2.0, 4.0]))
    assert float(w[labels].mean()) == pytest.approx(1) and loss_weights(Recipe(), labels, 3) is None
    with pytest.raises(ValueError, match="there are 2 class_weights; expected 3"):
        loss_weights(Recipe(class_weights=(1, 2)), labels, 3)


def test_the_loss_of_an_image_is_multiplied_by_the_weight_of_its_class():
    recipe = replace(TINY, class_weights=(1.0, 3.0), data="given")
    trainer = Trainer(recipe, dataset=train.given.dataset(FOUR))
    x, labels = torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 1, 0, 1, 1])
    trainer.model.eval()
    each = torch.nn.functional.cross_entropy(trainer.model(x), labels, reduction="none")
    expected = (torch.tensor([0.5, 1.5])[labels] * each).mean()
    torch.testing.assert_close(trainer._loss(trainer.model, x, labels), expected)


def test_the_balanced_sampler_draws_every_class_equally_often_and_goes_on_to_the_last_bit(tmp_path):
    recipe, data = replace(TINY, balance="sampler"), (*unequal(), TEST, ANSWERS)
    images = images_of(replace(recipe, data="given"), torch.device("cpu"), train.given.dataset(data))
    drawn = torch.cat([labels for epoch in range(1, 41) for _, labels, _ in batches(recipe, epoch, images)])
    assert len(drawn) == 40 * 24 and abs(float(drawn.double().mean()) - 0.5) < 0.05
    pn.train(recipe, tmp_path / "whole", data=data)
    assert same(cut_and_resumed(recipe, tmp_path / "cut", data=data), weights_of(tmp_path / "whole"))
    assert pn.trained(tmp_path / "whole").recipe.balance == "sampler"


def test_both_ways_of_weighing_at_once_are_refused():
    with pytest.raises(ValueError, match="both weigh the classes; expected one of them"):
        Recipe(balance="weights", class_weights=(1, 2))
    with pytest.raises(ValueError, match="expected a number > 0 for each class"):
        Recipe(class_weights=(0, 2))


# weights to begin with


def trainer_of(recipe, data=FOUR, classes=("dark", "bright")):
    return Trainer(replace(recipe, data="given"), dataset=train.given.dataset(data, classes))


def test_training_begins_with_the_weights_of_a_run_and_its_normalization(begun, tmp_path):
    images, labels, *_ = made(20, seed=5)
    trainer = trainer_of(replace(TINY, init=str(begun)), (images // 2, labels, TEST, ANSWERS))
    assert same(weights_of(begun), trainer.model.state_dict())
    assert torch.equal(trainer.images.mean, pn.trained(begun).mean)
    other = trainer_of(replace(TINY, init=str(begun)), classes=("cat", "dog"))
    theirs, ours = weights_of(begun), other.model.state_dict()
    assert {name for name in ours if not torch.equal(ours[name], theirs[name])} == {"head.weight", "head.bias"}


def test_three_classes_get_a_head_of_their_own(begun, tmp_path):
    labels = torch.arange(20) % 3
    pn.train(replace(ONE_EPOCH, init=str(begun)), tmp_path, data=(IMAGES, labels, TEST, ANSWERS), classes="abc")
    assert pn.trained(tmp_path).classes == tuple("abc") and pn.load(tmp_path).get_classifier().out_features == 3


def test_a_frozen_backbone_stays_to_the_last_bit_and_the_head_learns(begun, tmp_path):
    recipe = replace(TINY, init=str(begun), freeze_backbone=True)
    whole = pn.train(recipe, tmp_path / "whole", data=FOUR) and weights_of(tmp_path / "whole")
    theirs = weights_of(begun)
    assert {name for name in whole if not torch.equal(whole[name], theirs[name])} == {"head.weight", "head.bias"}
    assert same(cut_and_resumed(recipe, tmp_path / "cut", data=FOUR), whole)


def test_a_run_goes_on_without_the_run_that_it_began_with(begun, tmp_path):
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes((begun / "model.safetensors").read_bytes())
    recipe = replace(TINY, init=str(moved))
    with pytest.raises(KeyboardInterrupt):
        pn.train(recipe, tmp_path / "run", Stop(1, 2), every=0.0, data=FOUR)
    moved.unlink()
    pn.train(train.read_recipe(tmp_path / "run"), tmp_path / "run", resume=True, data=FOUR)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"width": 3}, r"network of --model msd_csc_3 --unfolding 0 --width 2 .*; the recipe asks for .* --width 3"),
        ({"model": "msd_csc_6"}, "asks for --model msd_csc_6"),
        ({"init": "nowhere"}, "nowhere does not exist"),
    ],
)
def test_weights_of_another_network_are_refused(begun, change, says):
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        trainer_of(replace(TINY, **{"init": str(begun), **change}))


def test_weights_for_other_channels_are_refused(begun):
    with pytest.raises(ValueError, match="takes images with 3 channels; those to train on have 1: name a run on"):
        trainer_of(replace(TINY, init=str(begun)), (IMAGES[:, 0], LABELS, TEST[:, 0], ANSWERS))


# ---------------------------------------------------------------- a learned dictionary as the first layer


def learned(folder, *shape):
    """A folder as ``pursuitnet learn`` leaves it, and its filters."""
    folder.mkdir()
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    write_dictionary(folder / DICTIONARY, [weight], torch.ones(len(weight)), {"padding": [4, 4]})
    return folder, weight


def test_training_begins_with_a_learned_dictionary_scaled_to_the_layer(tmp_path):
    folder, weight = learned(tmp_path / "atoms", 2, 3, 3, 3)
    plain = trainer_of(TINY).model.state_dict()
    for name in (folder, folder / DICTIONARY):
        model = trainer_of(replace(TINY, init_dictionary=str(name))).model
        first = model.pursuits()[0].dictionary.dictionary.weight
        ratio = first / weight
        torch.testing.assert_close(ratio, ratio.flatten()[0].expand_as(ratio))
        changed = [name for name, value in model.state_dict().items() if not torch.equal(value, plain[name])]
        assert len(changed) == 1


def test_a_run_goes_on_without_the_dictionary_that_it_began_with(tmp_path):
    folder, _ = learned(tmp_path / "atoms", 2, 3, 3, 3)
    recipe = replace(TINY, init_dictionary=str(folder))
    with pytest.raises(KeyboardInterrupt):
        pn.train(recipe, tmp_path / "run", Stop(1, 2), every=0.0, data=FOUR)
    (folder / DICTIONARY).unlink()
    pn.train(train.read_recipe(tmp_path / "run"), tmp_path / "run", resume=True, data=FOUR)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ((2, 3, 5, 5), r"has filters of shape \(2, 3, 5, 5\) .* expects \(2, 3, 3, 3\): .*--atoms 2 --size 3 --color"),
        ((2, 3), "holds no filters"),
        (None, "does not exist; name a folder that pursuitnet learn has written"),
        (b"no tensors", "holds no filters"),
    ],
)
def test_a_dictionary_that_does_not_fit_gets_one_sentence(content, says, tmp_path):
    folder = tmp_path / "atoms"
    if isinstance(content, tuple):
        learned(folder, *content)
    elif content:
        folder.mkdir()
        (folder / DICTIONARY).write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=says) as error:
        trainer_of(replace(TINY, init_dictionary=str(folder)))
    assert "\n" not in str(error.value)


def test_the_layers_of_a_learned_dictionary_start_those_of_a_network(tmp_path):
    weights = [torch.randn(4, 1, 4, 4), torch.randn(8, 4, 4, 4)]
    write_dictionary(tmp_path / DICTIONARY, weights, torch.ones(8), {"padding": [6, 6]})
    model = pn.create_model("ml_csc", in_chans=1, width=4)
    rest = model.pursuits()[2].dictionary.weight.clone()
    load_initial_dictionary(str(tmp_path), model)
    first, second, third = (layer.dictionary.weight for layer in model.pursuits()[:3])
    for found, given in zip((first, second), weights, strict=True):
        torch.testing.assert_close(found / found.norm(), given / given.norm())
    assert torch.equal(third, rest)
    with pytest.raises(ValueError, match=r"the first layers expect .* learn --atoms 5,10 --size 4,4"):
        load_initial_dictionary(str(tmp_path), pn.create_model("ml_csc", in_chans=1, width=5))
    # the second layer of [I D] sees the image too, and so is no layer on the codes of the first
    with pytest.raises(ValueError, match=r"\(4, 5, 3, 3\): pursuitnet learn --atoms 4 --size 3$"):
        load_initial_dictionary(str(tmp_path), pn.create_model("msd_csc_3", in_chans=1, width=4))


def test_a_dictionary_and_the_weights_of_a_run_are_not_both_initial():
    with pytest.raises(ValueError, match="init and init_dictionary both give"):
        replace(TINY, init="run", init_dictionary="atoms")


def test_subsets_are_datasets(tmp_path):
    whole = Pictures(IMAGES, LABELS)
    pn.train(ONE_EPOCH, tmp_path / "one", data=(Subset(whole, range(16)), Subset(whole, range(16, 20))))
    pn.train(ONE_EPOCH, tmp_path / "other", data=(IMAGES[:16], LABELS[:16], IMAGES[16:], LABELS[16:]))
    assert same(*(weights_of(tmp_path / name) for name in ("one", "other")))


def test_the_program_takes_the_network_from_the_run_that_it_begins_with(tmp_path, monkeypatch, capsys):
    tiny, one = ("--epochs", 1, "--train-images", 16, "--test-images", 4, "--device", "cpu"), tmp_path / "one"
    train.train(Recipe(**NETWORK, epochs=1, train_images=8, test_images=4, device="cpu"), one)
    more = ("--init", one, "--freeze-backbone", "--balance", "sampler")
    code, _, errors = program(monkeypatch, capsys, "train", *tiny, *more, "--out", tmp_path / "two")
    assert code == 0, errors
    recipe = train.read_recipe(tmp_path / "two")
    assert (recipe.model, recipe.width, recipe.init) == ("msd_csc_3", 2, str(one))
    for init in (one, one / "model.safetensors"):
        wrong = ("--init", init, "--width", 3, "--out", tmp_path / "three")
        code, _, errors = program(monkeypatch, capsys, "train", *tiny, *wrong)
        assert code == 2 and errors.count("\n") == 1
        assert "the recipe asks for --model msd_csc_3 --unfolding 0 --width 3" in errors
        assert not (tmp_path / "three").exists()


def test_datasets_and_transforms_of_torchvision_are_taken(tmp_path):
    datasets = pytest.importorskip("torchvision.datasets")
    from torchvision.transforms import v2

    parts = [datasets.FakeData(20, (3, 8, 8), 2, transform=v2.RandomHorizontalFlip(), random_offset=k) for k in (0, 1)]
    pn.train(TINY, tmp_path, data=tuple(parts), augment=v2.RandomErasing(p=1.0, value=0))
    assert pn.trained(tmp_path).data.train.images == 20
