"""Networks of solved layers in the program: recipe, training, evaluation, inspection, and what is refused."""

import json

import pytest
import torch
from makers import normal
from programs import called

import pursuitnet as pn
from pursuitnet.program.evaluation.adaptation import usage
from pursuitnet.program.evaluation.evaluate_run import Settings, evaluate_run
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.train.trainer import Trainer
from pursuitnet.program.whitebox.inspect_run import inspect_run

TINY = {"model": "msd_csc_3", "width": 2, "unfolding": "solved", "epochs": 1, "train_images": 24, "test_images": 8}


def test_a_recipe_says_solved_in_every_form(tmp_path):
    recipe = Recipe(**TINY)
    assert recipe.choices() == {"unfolding": "solved", "norm": None, "width": 2}
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    (tmp_path / "solved.toml").write_text('unfolding = "solved"\n', encoding="utf-8")
    assert Recipe.named(tmp_path / "solved.toml").unfolding == "solved"
    assert Recipe(unfolding=2).choices() == {"unfolding": 2}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"unfolding": "exact"}, "unfolding = 'exact'; expected a whole number or solved"),
        ({"unfolding": 1.5}, "unfolding = 1.5; expected a whole number or solved"),
        ({"unfolding": -1}, "unfolding is -1; expected at least 0"),
        ({"norm": "batch"}, "norm is batch and .* but a Lasso has no batch statistics: leave out norm"),
        ({"sweep": "multilayer"}, "each layer is solved by itself: leave out sweep"),
        ({"step": "free"}, "an optimum has no step c to learn"),
        ({"solver": "ista"}, "an optimum is the same by every solver"),
        ({"penalty": "free"}, "a Lasso has no negative β"),
        ({"normalize": True}, "the identity part would be signed"),
        ({"compile": True}, "the number of steps depends on the images"),
        ({"model": "res_csc_8"}, "res_csc_8 cannot be .an optimum does not depend on where its steps start"),
        ({"model": "certified_6"}, "which certified_6 cannot be; expected a model such as msd_csc_6"),
    ],
)
def test_recipes_that_cannot_be_solved_are_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        Recipe(**{"unfolding": "solved", **fields})


def test_a_solved_run_is_trained_loaded_evaluated_inspected_and_listed(tmp_path):
    run = tmp_path / "run"
    options = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    assert "accuracy" in called("train", *options, "--out", run)
    assert json.loads((run / "recipe.json").read_text(encoding="utf-8"))["unfolding"] == "solved"
    assert "every layer is solved to its optimum" in (run / "report.html").read_text(encoding="utf-8")
    model = pn.load(run)
    assert [layer.unfolding for layer in model.pursuits()] == ["solved"] * 3
    assert evaluate_run(run, Settings()).evaluation.images == 8
    fewer = evaluate_run(run, Settings(unfolding=0))
    assert "unfolding 0, trained with solved" in fewer.notes
    inspection = inspect_run(run, images=2, unfolding=0, test_images=8)
    assert all(layer.proximal and layer.solving.gap[0] < 2e-4 for layer in inspection.layers)
    assert all("elastic net" in " ".join(layer.notes) for layer in inspection.layers)
    assert inspection.steps[0].gap > 1e-2  # one step is not the optimum
    called("runs", tmp_path, "--out", tmp_path / "runs.html")
    assert "<td>solved</td>" in (tmp_path / "runs.html").read_text(encoding="utf-8")
    message = called("export", run, code=2)
    assert message.startswith("pursuitnet: the layers are solved, by a number of steps that depends on the image")
    assert message.count("\n") == 1
    message = called("train", "--unfolding", "solvd", code=2)
    assert message == "pursuitnet: --unfolding is 'solvd'; expected a whole number or solved\n"


def test_solved_networks_learn():
    """With one β for both parts the identity would explain everything, and no atom would ever have a gradient."""
    choices = {**TINY, "width": 4, "epochs": 5, "train_images": 16, "batch_size": 16, "optimizer": "adam", "lr": 0.05}
    trainer = Trainer(Recipe(**choices, warmup=0.0))
    pixels, labels = trainer.images.train
    torch.nn.functional.cross_entropy(trainer.model(trainer.images.prepared(pixels)), labels).backward()
    assert all(layer.dictionary.dictionary.weight.grad.abs().max() > 0 for layer in trainer.model.pursuits())
    before = trainer.loss_and_accuracy(trainer.images.train)[0]
    for epoch in range(1, 6):
        trainer.epoch(epoch)
    assert trainer.loss_and_accuracy(trainer.images.train)[0] < before - 0.03


def test_weights_that_are_not_finite_stop_the_training_with_the_layer():
    trainer = Trainer(Recipe(**TINY))
    with torch.no_grad():
        trainer.model.pursuits()[1].dictionary.dictionary.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match=r"weights are no longer finite.*features\.2\.0"):
        trainer.epoch(1)


def test_usage_of_atoms_is_that_of_the_optimum():
    model = pn.create_model("msd_csc_3", 4, 1, width=2, unfolding="solved", norm=None).eval()
    images = torch.rand(3, 1, 6, 6)
    code = model.forward_features(images)[:, -2:]
    found = usage(model, images, lambda x: x)
    assert found.shape == (2,) and 0 < found.max() <= 1
    torch.testing.assert_close(found, (code != 0).double().transpose(0, 1).flatten(1).mean(dim=1))


@pytest.mark.parametrize("steps", [500, "solved"])
def test_a_ridge_makes_a_layer_a_step_on_an_elastic_net(steps):
    """Its steps end at the solution of the augmented Lasso, ½‖(x, 0) − (D, √ρ·I)Γ‖² + Σβ|Γ|."""
    weight, x = normal(5, 8), normal(3, 8, seed=1)
    threshold = pn.Threshold((5,), 0.3, ridge=0.2)
    choices = {"tol": 1e-12} if steps == "solved" else {"step": pn.BoundedStep(1.0, learned=False)}
    layer = pn.PursuitLayer(pn.LinearDictionary(weight), unfolding=steps, threshold=threshold, **choices).double()
    augmented = pn.LinearDictionary(torch.cat([weight, 0.2**0.5 * torch.eye(5, dtype=torch.float64)], dim=1))
    signal = torch.cat([x, x.new_zeros(3, 5)], dim=1)
    expected = pn.solve(signal, augmented, 0.3, nonnegative=True, tol=1e-12).code
    assert (expected > 0).any()
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", [{"ridge": -0.1}, {"ridge": 0.1, "norm": pn.BatchNorm()}])
def test_ridges_that_cannot_be_are_refused(options):
    with pytest.raises(ValueError, match=r"ridge is .*; expected ridge ≥ 0, and 0 with a norm"):
        pn.Threshold((3,), **options)


def test_gradients_through_atoms_that_depend_on_each_other_are_finite():
    """Two equal atoms share a coefficient; how, no gradient can say, but their sum has one."""
    weight = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    x = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64, requires_grad=True)
    code = pn.solve(x, pn.LinearDictionary(weight), 0.1).code
    of_sum = torch.autograd.grad(code[0, :2].sum(), x, retain_graph=True)[0]
    torch.testing.assert_close(of_sum, torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64))
    assert torch.autograd.grad(code[0, 0] + code[0, 2], x)[0].isfinite().all()
