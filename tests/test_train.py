"""Recipes, schedules, batches and run folders."""

import json
import math

import pytest
import torch

from pursuitnet import train
from pursuitnet.recipe import Recipe
from pursuitnet.train import checkpoints

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
    groups = train.optimiser_of(Recipe(weight_decay=0.5), model).param_groups
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


def test_standardised_images_have_mean_0_and_deviation_1_and_reach_msd_networks_unclipped():
    recipe = Recipe(model="msd_csc_3", width=2, standardise=True)
    images = train.images_of(recipe)
    pixels = images.prepared(images.train[0])
    assert pixels.mean().item() == pytest.approx(0, abs=1e-4)
    assert pixels.std().item() == pytest.approx(1, abs=1e-3)
    assert train.model_of(recipe).pursuits()[0].threshold.identity == "signed"


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_layer(tmp_path, monkeypatch):
    made = train.model_of

    def broken(*given):
        model = made(*given)
        with torch.no_grad():
            model.pursuits()[1].step.logit.fill_(float("nan"))
        return model

    monkeypatch.setattr("pursuitnet.train.trainer.model_of", broken)
    with pytest.raises(FloatingPointError, match=r"loss is nan in epoch 1, step 1; .*features\.2\.0"):
        train.train(TINY, tmp_path / "run")
    assert checkpoints.load(tmp_path / "run", torch.device("cpu"))[0]["epoch"] == 0


def test_the_kept_weights_are_those_that_were_evaluated(tmp_path):
    record = train.train(TINY, tmp_path / "run")
    recipe, model = train.load_run(tmp_path / "run")
    images = train.images_of(recipe)
    assert train.evaluate(model, images, images.test)[:2] == (record["test_loss"], record["test_accuracy"])
    assert recipe == TINY


@pytest.mark.parametrize("content", ["[]", "{", '{"colour": "red"}', '{"epochs": 0}'])
def test_a_damaged_recipe_gets_a_sentence(tmp_path, content):
    (tmp_path / "recipe.json").write_text(content)
    with pytest.raises(ValueError, match=r"recipe|epochs"):
        train.read_recipe(tmp_path)


def test_recipes_survive_json():
    recipe = Recipe(data="cifar10", data_dir="data", unfolding=2, norm="none")
    again = Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    assert again.choices() == recipe.choices() == {"unfolding": 2, "norm": None}
    assert str(again.data_dir) == "data"
