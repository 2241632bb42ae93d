"""Recipes, schedules, batches and run folders."""

import io
import json
import math
from dataclasses import replace

import pytest
import torch
from compilers import real_compiler

from pursuitnet.program import train
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.train import checkpoints, trainer
from pursuitnet.program.train.images import steps_of
from pursuitnet.program.train.process_group import ProcessGroup
from pursuitnet.program.train.run import flops_per_image
from pursuitnet.program.train.stopwatch import Stopwatch

TINY = Recipe(model="msd_csc_3", width=2, epochs=1, train_images=64)


def test_schedules_at_their_corners():
    cosine = Recipe(lr=0.2, epochs=10, warmup=2)
    assert train.learning_rate(cosine, 1) == pytest.approx(0.1 * (1 + math.cos(math.pi / 10)) / 2)
    assert train.learning_rate(cosine, 5) == pytest.approx(0.1)
    assert train.learning_rate(cosine, 10) == pytest.approx(0)
    steps = Recipe(lr=0.1, epochs=200, schedule="steps", warmup=0)
    assert [train.learning_rate(steps, e) for e in (0, 99, 101, 151)] == pytest.approx([0.1, 0.1, 0.01, 0.001])


def test_filters_decay_and_thresholds_steps_and_norms_do_not():
    model = train.model_of(Recipe(model="res_csc_8", width=2))
    groups = train.optimizer_of(Recipe(weight_decay=0.5), model).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {id(p) for p in model.parameters() if p.dim() > 1}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    slow = [p for group in groups if group["scale"] < 1 for p in group["params"]]
    assert {id(p) for p in slow} == {id(layer.step.c) for layer in model.pursuits() if layer.step.c is not None}


def test_batches_hang_on_seed_and_epoch_alone_and_hold_every_image_once():
    images = train.images_of(TINY)

    def labels(seed, epoch):
        recipe = Recipe(train_images=64, batch_size=20, seed=seed)
        return torch.cat([y for _, y, _ in train.batches(recipe, epoch, images)])

    assert torch.equal(labels(0, 1), labels(0, 1))
    assert not torch.equal(labels(0, 1), labels(0, 2))
    assert not torch.equal(labels(0, 1), labels(1, 1))
    assert torch.equal(labels(0, 1).sort().values, images.train[1].sort().values)


def test_the_seed_decides_the_weights_and_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    one, same, other = (train.model_of(Recipe(model="msd_csc_3", width=2, seed=s)) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    weights = [m.pursuits()[0].dictionary.dictionary.weight for m in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_standardized_images_have_mean_0_and_deviation_1_and_reach_msd_networks_unclipped():
    recipe = Recipe(model="msd_csc_3", width=2, normalize=True)
    images = train.images_of(recipe)
    pixels = images.prepared(images.train[0])
    assert pixels.mean().item() == pytest.approx(0, abs=1e-4)
    assert pixels.std().item() == pytest.approx(1, abs=1e-3)
    assert all(layer.threshold.identity == "signed" for layer in train.model_of(recipe).pursuits())


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_layer(tmp_path, monkeypatch):
    made = train.model_of

    def broken(*given):
        model = made(*given)
        with torch.no_grad():
            model.pursuits()[1].step.logit.fill_(float("nan"))
        return model

    monkeypatch.setattr("pursuitnet.program.train.trainer.model_of", broken)
    with pytest.raises(FloatingPointError, match=r"loss is nan in epoch 1, step 1; .*features\.2\.0"):
        train.train(TINY, tmp_path / "run")
    assert checkpoints.load(tmp_path / "run", torch.device("cpu"))[0]["epoch"] == 0


def test_the_kept_weights_are_those_that_were_evaluated(tmp_path):
    record = train.train(TINY, tmp_path / "run")
    recipe, model = train.load_run(tmp_path / "run")
    images = train.images_of(recipe)
    assert train.evaluate_split(model, images, images.test)[:2] == (record["test_loss"], record["test_accuracy"])
    assert recipe == TINY


@pytest.mark.parametrize("content", ["[]", "{", '{"color": "red"}', '{"epochs": 0}'])
def test_a_damaged_recipe_gets_a_sentence(tmp_path, content):
    (tmp_path / "recipe.json").write_text(content)
    with pytest.raises(ValueError, match=r"recipe|epochs"):
        train.read_recipe(tmp_path)


def test_recipes_survive_json():
    recipe = Recipe(data="cifar10", data_dir="data", unfolding=2, norm="none")
    again = Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    assert again.choices() == recipe.choices() == {"unfolding": 2, "norm": None}
    assert str(again.data_dir) == "data"


def test_the_validation_images_are_drawn_by_the_seed_and_never_trained_on():
    whole = train.images_of(TINY)
    recipe = replace(TINY, val_images=20)
    images, again, other = (train.images_of(r) for r in (recipe, recipe, replace(recipe, seed=1)))
    assert torch.equal(images.val[0], again.val[0])
    assert not torch.equal(images.val[0], other.val[0])
    assert [len(part[1]) for part in (images.train, images.val, images.test)] == [44, 20, 360]
    together = torch.cat([images.train[0], images.val[0]]).flatten(1).tolist()
    assert sorted(together) == sorted(whole.train[0].flatten(1).tolist())
    assert not {tuple(i) for i in images.train[0].flatten(1).tolist()} & {
        tuple(i) for i in images.val[0].flatten(1).tolist()
    }
    with pytest.raises(ValueError, match="val_images is 63; expected at most 62"):
        train.images_of(replace(TINY, val_images=63))


def test_a_record_tells_the_validation_accuracy_and_where_the_time_went(tmp_path):
    record = train.train(replace(TINY, val_images=20), tmp_path / "run")
    assert 0 <= record["val_accuracy"] <= 1 and record["val_loss"] > 0
    assert sum(record[name] for name in ("data", "forward", "backward", "optimizer")) == pytest.approx(1, abs=1e-3)
    assert record["images_per_second"] > 0 and record["peak_memory_mb"] > 50
    about = json.loads((tmp_path / "run" / "record.json").read_text())
    assert about["images"] == [44, 360] and about["precision"] == "float32" and about["processes"] == 1


def test_flops_are_those_of_the_convolutions_counted_by_hand():
    """MSDNet of three layers on 8 × 8: pooling in between leaves 8, 4 and 2; two operations a product."""
    recipe = replace(TINY, model="msdnet_3", width=2)
    images, model = train.images_of(recipe), train.model_of(recipe)
    channels, sizes = (1, 3, 5), (8, 4, 2)
    by_hand = sum(2 * 9 * c * 2 * size**2 for c, size in zip(channels, sizes, strict=True)) + 2 * 7 * 10
    assert flops_per_image(model, images.prepared(images.test[0][:2])) == by_hand


def test_what_explodes_is_stopped_before_it_is_kept(tmp_path):
    recipe = replace(TINY, model="msdnet_3", norm="none", step="free", lr=1e4, epochs=3, batch_size=8)
    with pytest.raises(FloatingPointError, match=r"the loss is .* in epoch 1, step \d+; .*The last good checkpoint is"):
        train.train(recipe, tmp_path / "run", every=0)
    state, damaged = checkpoints.load(tmp_path / "run", torch.device("cpu"))
    assert not damaged and all(value.isfinite().all() for value in state["model"].values())


@pytest.fixture
def seldom(monkeypatch):
    """Look at the loss as seldom as on an accelerator, where each look waits for the device."""
    monkeypatch.setitem(trainer.CHECK_EVERY, "cpu", 50)


@pytest.mark.parametrize("count", [63, 64, 65, 66, 97])
@pytest.mark.parametrize("group", [ProcessGroup(), ProcessGroup(1, 3, 1)])
def test_an_epoch_has_as_many_batches_as_are_yielded(count, group):
    recipe = replace(TINY, train_images=count, batch_size=32)
    images = train.images_of(recipe)
    yielded = sum(1 for _ in train.batches(recipe, 1, images, group=group))
    assert steps_of(images, recipe, group) == yielded == 2 + (count == 97) + (count == 66 and group.size == 1)


def test_the_last_steps_of_an_epoch_are_looked_at_where_the_last_batch_is_dropped(tmp_path, seldom):
    recipe = replace(TINY, train_images=97, batch_size=32, lr=1e30, epochs=3)
    with pytest.raises(FloatingPointError, match=r"epoch 1.*after 0 epochs"):
        train.train(recipe, tmp_path / "run")
    assert_finite(tmp_path / "run")


@pytest.mark.parametrize("every", [0.0, 60.0])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_weights_that_the_last_step_has_broken_are_not_kept(tmp_path, monkeypatch, seldom, step, every):
    """The loss of a step is that of the weights before it."""
    inner = train.Trainer._set_rate

    def broken(self, epochs):
        inner(self, epochs)
        if epochs * 3 == pytest.approx(step):
            for group in self.optimizer.param_groups:
                group["lr"] = float("nan")

    monkeypatch.setattr(train.Trainer, "_set_rate", broken)
    with pytest.raises(FloatingPointError, match="The last good checkpoint is"):
        train.train(replace(TINY, train_images=97, batch_size=32), tmp_path / "run", every=every)
    assert_finite(tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_loss_that_explodes_between_two_looks_is_not_kept(tmp_path, monkeypatch, seldom):
    """The weights are still finite, so that nothing else tells."""
    inner, losses = train.Trainer._gradients, []

    def exploding(self, *given):
        losses.append(inner(self, *given))
        return losses[-1] * (1e9 if len(losses) == 2 else 1)

    monkeypatch.setattr(train.Trainer, "_gradients", exploding)
    with pytest.raises(FloatingPointError, match=r"in epoch 1, step 2; .*after 0 epochs and 1 steps"):
        train.train(replace(TINY, train_images=97, batch_size=32), tmp_path / "run", every=0.0)


def test_a_test_loss_that_is_no_number_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(train.Trainer, "loss_and_accuracy", lambda self, split: (float("nan"), 0.1))
    with pytest.raises(FloatingPointError, match=r"the loss on the test images is nan.*after 0 epochs"):
        train.train(TINY, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_weights_that_are_no_numbers_are_not_kept_though_the_losses_are(tmp_path, monkeypatch):
    """As a threshold of infinity, which makes a code of zeros."""
    epoch = train.Trainer.epoch

    def spoiling(self, *given):
        found = epoch(self, *given)
        self.model.head.bias.data[0] = torch.inf
        return found

    monkeypatch.setattr(train.Trainer, "epoch", spoiling)
    monkeypatch.setattr(train.Trainer, "loss_and_accuracy", lambda self, split: (1.0, 0.5))
    with pytest.raises(FloatingPointError, match=r"weights are no longer finite after epoch 1.*after 0 epochs"):
        train.train(replace(TINY, train_images=64), tmp_path / "run")
    assert_finite(tmp_path / "run")


def assert_finite(folder):
    """Assert that every checkpoint in a folder, the one before too, holds finite weights."""
    for path in folder.glob("checkpoint*"):
        content = path.read_bytes().partition(b"\n")[2]
        weights = torch.load(io.BytesIO(content), weights_only=True)["model"].values()
        assert all(value.isfinite().all() for value in weights), path


def test_too_few_images_for_the_processes_are_refused():
    with pytest.raises(ValueError, match="3 training images are too few for 4 processes"):
        train.Trainer(replace(TINY, train_images=3), ProcessGroup(0, 4, 0))


def test_label_smoothing_and_decay_of_all_are_the_recipes():
    made = train.Trainer(replace(TINY, label_smoothing=0.2, decay_all=True, weight_decay=0.3))
    assert {group["weight_decay"] for group in made.optimizer.param_groups} == {0.3}
    pixels, labels, count = next(iter(train.batches(made.recipe, 1, made.images)))
    loss = made._gradients(made.model.train(), pixels, labels, count, Stopwatch(made.device))
    logits = made.model(pixels).log_softmax(1)
    target = torch.full_like(logits, 0.02).scatter_(1, labels[:, None], 0.82)
    assert loss.item() == pytest.approx(-(target * logits).sum(1).mean().item(), rel=1e-5)


def test_half_precision_trains_near_full_precision(tmp_path):
    recipe = Recipe(model="msd_csc_3", width=4, epochs=2, train_images=150, test_images=20, device="cpu")
    full = train.train(recipe, tmp_path / "full")
    for precision in ("bfloat16", "float16"):
        half = train.train(replace(recipe, precision=precision), tmp_path / precision)
        assert half["train_loss"] == pytest.approx(full["train_loss"], rel=0.1)
        assert half["train_loss"] != full["train_loss"]
        _, model = train.load_run(tmp_path / precision)
        assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_svhn_is_shifted_but_not_mirrored_and_digits_are_neither():
    assert (Recipe().shifted, Recipe().flipped) == (0, False)
    assert (Recipe(data="svhn").shifted, Recipe(data="svhn").flipped) == (4, False)
    assert (Recipe(data="cifar10").shifted, Recipe(data="cifar10").flipped) == (4, True)
    assert (Recipe(shift=1, flip=True).shifted, Recipe(shift=1, flip=True).flipped) == (1, True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "options",
    [
        {"precision": "float32"},
        {"precision": "bfloat16"},
        {"precision": "float16"},
        {"grad_checkpointing": True},
        {"compile": True, "cuda_graphs": True},
        {"compile": True},
        {"cuda_graphs": True},
        {"cuda_graphs": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("model", ["res_csc_8", "msd_csc_3"])
@pytest.mark.filterwarnings("default")  # PyTorch's compiler warns of its own insides
def test_a_cuda_device_trains_as_the_cpu_does(tmp_path, model, options):
    recipe = Recipe(model=model, width=8, epochs=3, train_images=640, device="cpu")
    here = train.train(recipe, tmp_path / "cpu")
    there = train.train(replace(recipe, device="cuda", **options), tmp_path / "cuda")
    assert there["train_loss"] == pytest.approx(here["train_loss"], rel=0.15)
    assert json.loads((tmp_path / "cuda" / "record.json").read_text())["device"] == "cuda:0"
    _, network = train.load_run(tmp_path / "cuda")
    assert all(value.isfinite().all() for value in network.state_dict().values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_run_on_a_cuda_device_goes_on_from_its_checkpoint(tmp_path):
    recipe = replace(TINY, epochs=4, device="cuda", train_images=640)
    whole = train.train(recipe, tmp_path / "whole")

    class Stop(train.NoOpCallback):
        def on_epoch_end(self, record):
            if record["epoch"] == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train.train(recipe, tmp_path / "cut", Stop(), every=0)
    cut = train.train(recipe, tmp_path / "cut", resume=True)
    assert cut["train_loss"] == pytest.approx(whole["train_loss"], rel=1e-2)


@real_compiler
def test_a_compiled_network_trains_as_a_plain_one():
    plain, compiled = (train.Trainer(replace(TINY, compile=compile)) for compile in (False, True))
    assert compiled.epoch(1)["train_loss"] == pytest.approx(plain.epoch(1)["train_loss"], rel=1e-5)
    assert compiled.loss_and_accuracy(compiled.images.test) == pytest.approx(
        plain.loss_and_accuracy(plain.images.test), rel=1e-4
    )
    assert compiled.state()["model"].keys() == plain.state()["model"].keys()
