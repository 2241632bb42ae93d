"""The simulations: their numbers again by another route, and the program that makes them."""

import json
import math
import typing
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from programs import called

import pursuitnet as pn
from pursuitnet.program import cli, simulate
from pursuitnet.program.simulate import fig1, fig4, gaussian, ill_conditioned, table1, variations
from pursuitnet.program.simulate.gaussian import TwoLayers, Variation

SMALL = Variation(width=7, iterations=4, every=2)


@pytest.fixture
def few_signals(monkeypatch):
    """For what does not depend on their number."""
    monkeypatch.setattr(gaussian, "TRAIN", 200)
    monkeypatch.setattr(gaussian, "TEST", 100)


# Fig. 1


def convolution_matrix(size, s):
    """The rows of Fˢ: [[1, 2], [3, 4]] with its taps s apart, at every place of the image."""
    rows = []
    for top in range(size - s):
        for left in range(size - s):
            image = np.zeros((size, size))
            image[top, left], image[top, left + s], image[top + s, left], image[top + s, left + s] = 1, 2, 3, 4
            rows.append(image.ravel())
    return np.array(rows)


def coherence_of(columns):
    cosines = columns @ columns.T / np.outer(norms := np.linalg.norm(columns, axis=1), norms)
    return np.abs(cosines - np.diag(np.diag(cosines))).max()


@pytest.mark.parametrize("s", [1, 2, 3])
@pytest.mark.parametrize("size", [4, 5, 6, 7, 8])
def test_fig1_is_what_the_matrices_say(size, s):
    rows = convolution_matrix(size, s)
    np.testing.assert_array_equal(fig1.dictionary(s).matrix((1, size, size)).detach().numpy().T, rows)
    assert fig1.coherence(size, s) == pytest.approx(coherence_of(rows), abs=1e-12)
    with_identity = np.concatenate([np.eye(size * size), rows])
    assert fig1.coherence_with_identity(size, s) == pytest.approx(coherence_of(with_identity), abs=1e-12)


def test_fig1_the_paper_s_0_is_that_of_a_small_image():
    mu = fig1.compute().numbers["mu"]
    assert (round(mu[1][0], 2), mu[2][0]) == (0.47, 0)
    assert set(mu[1]) == set(mu[2][1:]) == set(mu[3][3:]) == {round(14 / 30, 6)}
    assert set(fig1.compute().numbers["mu_with_identity"][2]) == {round(4 / math.sqrt(30), 6)}


# Fig. 4


def test_the_data_are_those_of_the_paper():
    training, test = gaussian.draw(Variation(noise=0.2), 0)
    assert (training[0].shape, test[0].shape) == ((10_000, 100), (2_000, 100))
    assert (training[1].bincount() == 100).all() and (test[1].bincount() == 20).all()
    means = torch.stack([training[0][training[1] == k].mean(0) for k in range(100)])
    for x, labels in (training, test):
        assert (x - means[labels]).std().item() == pytest.approx(0.2, rel=0.02)
    assert means.std().item() == pytest.approx(1, rel=0.05)
    uniform = gaussian.draw(Variation(noise=0.0, centers="uniform"), 0)[0][0]
    assert 0 <= uniform.min() < 0.01 and 0.99 < uniform.max() <= 1


def counted_by_hand(model, x, factor, beta=None, layers=1):
    """b, β and the count of Definition 1 from the weights alone, one dimension after the other."""
    codes, matrices = [x.numpy().astype(float)], []
    for layer in (model.first, model.second):
        weight = gaussian._atoms(layer).weight.detach().numpy().astype(float)
        bias = -layer.threshold.atom_weight.detach().numpy()
        if dense := isinstance(layer.dictionary, pn.WithIdentity):
            weight = np.concatenate([np.eye(weight.shape[1]), weight])
            bias = np.concatenate([-layer.threshold.identity_weight.detach().numpy(), bias])
        matrices.append(weight)
        codes.append(np.maximum(codes[-1] @ weight.T + bias, 0))
    channels = matrices[0].shape[1] if dense else 0
    b = -model.first.threshold.atom_weight.detach().numpy().mean()
    beta = factor * np.linalg.eigvalsh(matrices[0] @ matrices[0].T).max() * max(b, 0) if beta is None else beta
    again = codes[2] @ matrices[1] @ matrices[0] if layers == 2 else codes[1] @ matrices[0]
    assert channels in (0, 100)
    fails = sum(abs(a - v) > 2 * beta for row, signal in zip(again, codes[0], strict=True)
                for a, v in zip(row, signal, strict=True))  # fmt: skip
    return b, beta, fails / len(x)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(("lipschitz", "factor"), [("paper", 2), ("ours", 1)])
def test_counts_are_those_of_definition_1(lipschitz, factor, layers):
    variation = replace(SMALL, lipschitz=lipschitz, layers=layers, beta="own", counted=20)
    models = [TwoLayers(variation, dense, seed=3) for dense in (False, True)]
    with torch.no_grad():
        for model in models:  # a bias that leaves some dimensions within 2β and some without
            model.first.threshold.atom_weight.copy_(torch.linspace(-0.5, 0.1, 7))
    test = gaussian.draw(variation, 0)[1]
    for found, model in zip(gaussian.measure(variation, models, test, 0), models, strict=True):
        b, beta, fails = counted_by_hand(model, test[0][:20], factor, layers=layers)
        assert found["bias"] == pytest.approx(b, rel=1e-5)
        assert found["beta"] == pytest.approx(beta, rel=1e-5)
        assert found["unsuccessful"] == pytest.approx(fails, abs=0.051) and 0 < fails < 100  # one may be on the edge
        nothing = (test[0][:20].abs() > 2 * found["beta"]).sum() / 20
        assert found["nothing"] == pytest.approx(nothing.item(), abs=1e-5)


def test_msd_csc_is_counted_with_the_beta_of_ml_csc():
    models = [TwoLayers(SMALL, dense, seed=3) for dense in (False, True)]
    with torch.no_grad():
        models[0].first.threshold.atom_weight.fill_(-0.2)
    test = gaussian.draw(SMALL, 0)[1]
    variation = replace(SMALL, beta="counted", counted=20)
    plain, dense = gaussian.measure(variation, models, test, 0)
    assert plain["beta"] == dense["beta"] > 0
    fails = counted_by_hand(models[1], test[0][:20], 2, beta=plain["beta"])[2]
    assert dense["unsuccessful"] == pytest.approx(fails, abs=0.051)


@pytest.mark.parametrize("step", ["absorbed", "bounded"])
@pytest.mark.parametrize("bias", ["added", "kept"])
def test_the_biases_of_msd_csc_are_set_to_the_same_beta(step, bias):
    variation = replace(SMALL, step=step, bias=bias)
    plain, dense = (TwoLayers(variation, d, seed=3) for d in (False, True))
    gaussian.equalize(variation, plain, dense)
    for one, other in ((plain.first, dense.first), (plain.second, dense.second)):
        thetas = [layer.threshold.penalty * layer.step()[0] for layer in (one, other)]
        betas = [t * layer.dictionary.lipschitz() for t, layer in zip(thetas, (one, other), strict=True)]
        torch.testing.assert_close(*betas)
        identity = other.threshold.identity_penalty * other.step()[0] * other.dictionary.lipschitz()
        torch.testing.assert_close(identity, betas[0].mean().expand_as(identity))
    (_, mine), (_, its) = (gaussian.penalty(variation, m.first) for m in (plain, dense))
    assert mine == pytest.approx(its, rel=1e-5)


def test_a_step_of_one_over_L_makes_b_L_the_penalty_itself():
    variation = replace(SMALL, step="bounded", bias="kept", lipschitz="ours")
    layer = TwoLayers(variation, True, seed=0).first
    layer.threshold.atom_weight.data.fill_(-0.3)
    assert gaussian.penalty(variation, layer)[1] == pytest.approx(0.3, rel=1e-5)


def test_a_negative_bias_has_no_beta_and_everything_fails():
    variation = replace(SMALL, bias="subtracted")
    models = [TwoLayers(variation, dense, seed=0) for dense in (False, True)]
    for model in models:
        model.first.threshold.atom_weight.data.fill_(-0.3)  # ReLU(z + 0.3)
    for found in gaussian.measure(variation, models, gaussian.draw(variation, 0)[1], 0):
        assert (found["bias"], found["beta"]) == (pytest.approx(-0.3), 0)
        assert found["unsuccessful"] > 99.9


def test_curves_depend_on_the_seed_alone(few_signals):
    state = torch.get_rng_state()
    one, again, other = (gaussian.curves(SMALL, seed) for seed in (0, 0, 1))
    assert one == again != other
    assert torch.equal(state, torch.get_rng_state())
    assert one["ML-CSC"]["iteration"] == [0, 2, 4]
    denser = gaussian.curves(replace(SMALL, every=1), 0)
    assert all(denser[m]["unsuccessful"][::2] == one[m]["unsuccessful"] for m in one)  # counting changes nothing


def test_both_models_begin_with_the_same_filters_and_a_twin_keeps_them():
    plain, dense, other = (TwoLayers(SMALL, d, seed) for d, seed in ((False, 5), (True, 5), (False, 6)))
    mine, its = plain.first.dictionary.weight, dense.first.dictionary.dictionary.weight
    assert torch.equal(mine, its) and not torch.equal(mine, other.first.dictionary.weight)
    mine.data.mul_(2)
    gaussian.equalize(SMALL, plain, dense)
    assert not torch.equal(mine, its)
    gaussian.equalize(replace(SMALL, beta="twin"), plain, dense)
    assert torch.equal(mine, its)


def test_the_published_shape_by_default():
    found = gaussian.curves(replace(variations.DEFAULT, iterations=80, every=40), 0)
    assert variations.verdict([found]) == "yes"
    assert found["ML-CSC"]["accuracy"][-1] > 0.99
    assert found["ML-CSC"]["nothing"][-1] < found["ML-CSC"]["unsuccessful"][-1]  # β has grown past the signals


def test_at_the_optimum_no_dimension_of_msd_csc_fails():
    variation = replace(variations.variations()["optimum of the Lasso"], iterations=10, every=10, counted=30)
    found = gaussian.curves(variation, 0)
    assert found["MSD-CSC"]["unsuccessful"] == [0, 0]  # by optimality |x − ξ| ≤ β
    assert min(found["ML-CSC"]["unsuccessful"]) > 10
    model = TwoLayers(variation, True, 0)
    x = gaussian.draw(variation, 0)[1][0][:30]
    again = gaussian.reconstruction(variation, model, x, 0.2)
    assert (again - x).abs().max() <= 0.2 * 1.05


@pytest.mark.parametrize(
    ("plain", "dense", "expected"),
    [
        ((90, 3), (90, 0.1), "yes"),
        ((90, 0.2), (90, 0), "both at 0"),
        ((90, 20), (90, 5), "order"),
        ((90, 80), (0, 0), "order"),
        ((90, 20), (90, 15), "no"),
        ((90, 100), (90, 99), "no"),
    ],
)
def test_verdict(plain, dense, expected):
    run = {"ML-CSC": {"unsuccessful": list(plain)}, "MSD-CSC": {"unsuccessful": list(dense)}}
    assert variations.verdict([run]) == expected


def test_every_reading_is_run_and_drawn_and_departs_from_the_first(monkeypatch, few_signals):
    tiny = {t: replace(r, iterations=1, every=1, counted=5) for t, r in variations.variations(1).items()}
    monkeypatch.setattr(fig4, "variations", lambda iterations: tiny)
    seen = []
    result = fig4.compute_variations(seen.append, seeds=1, iterations=1)
    assert len(seen) == len(tiny) >= 20
    full = variations.variations()
    assert full["the default"] == replace(variations.DEFAULT, every=5)
    assert len(set(full.values())) == len(full)
    assert all(f"| {title} |" in result.text for title in tiny)
    json.dumps(result.numbers)


@pytest.mark.parametrize("wrong", [{"iterations": 0}, {"every": 0}, {"counted": 0}, {"width": 0}])
def test_readings_that_cannot_be_run_are_named(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is 0"):
        gaussian.curves(replace(SMALL, **wrong), 0)


# The example of Section V-B, and Table I


def test_the_ill_conditioned_example_by_hand():
    numbers = ill_conditioned.compute().numbers
    rows, third = numbers["codes"], 1 / 3
    lost, best = rows["D, optimum"], rows["[I D], optimum"]
    assert (lost["code"], lost["unsuccessful"], lost["objective"]) == ([0, 0, 0], 2, 1)
    np.testing.assert_allclose(best["code"], [2 * third, 2 * third, 0, 0, 0], atol=1e-5)
    assert best["objective"] == pytest.approx(5 / 9, abs=1e-5)
    assert numbers["drop_of_theorem_1"]["proof"] == pytest.approx(2 * (0.5 - third))
    assert numbers["drop_of_theorem_1"]["best"] == pytest.approx(2 * (1 - third) ** 2 / 2)
    L = 1 + 0.11  # DDᵀ = [[.06, .05], [.05, .06]]
    for title, factor, fails in (("[I D], one step, L = λmax", 1, 0), ("[I D], one step, L = 2λmax", 2, 2)):
        assert rows[title]["reconstruction"][0] == pytest.approx(2 * third / (factor * L), abs=1e-6)
        assert rows[title]["unsuccessful"] == fails


def test_every_row_of_table_1_holds_where_it_says_so():
    rows = table1.compute().numbers["rows"]
    assert len({row["cnn"] for row in rows}) == 7  # the six of the paper, and Res-CSC
    *equal, signed = rows
    assert all(row["difference"] < 1e-12 for row in equal)
    assert signed["difference"] > 1 and "not equal" in signed["condition"]


# The program


def test_the_program_knows_every_figure():
    names = typing.get_args(typing.get_type_hints(cli.simulate)["figure"])
    assert names == simulate.FIGURES and {*simulate.SMALL, "fig4"} == set(names)


def test_fig4_leaves_numbers_and_picture_and_nothing_is_overwritten(tmp_path, few_signals):
    printed = called("simulate", "fig4", "--seeds", "2", "--iterations", "3", "--out", "a", cwd=tmp_path)
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"fig4.json", "fig4.png"}
    numbers = json.loads((tmp_path / "a" / "fig4.json").read_text())
    assert numbers["choices"] == json.loads(json.dumps(asdict(replace(variations.DEFAULT, iterations=3))))
    assert [len(curve) for curve in numbers["curves"]["MSD-CSC"]["unsuccessful"]] == [4, 4]
    assert numbers["versions"]["torch"] == torch.__version__
    assert "n = 2" in printed
    expected = gaussian.curves(replace(variations.DEFAULT, iterations=3), 1)["ML-CSC"]["unsuccessful"]
    assert numbers["curves"]["ML-CSC"]["unsuccessful"][1] == pytest.approx(expected, rel=1e-3)
    before = {path: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    said = called("simulate", "fig4", "--out", "a", cwd=tmp_path, code=2)
    assert said.count("\n") == 1 and "a exists" in said
    assert before == {path: path.read_bytes() for path in (tmp_path / "a").iterdir()}


@pytest.mark.parametrize("figure", ["fig1", "ill-conditioned", "table1"])
def test_small_figures_leave_numbers_and_picture(figure, tmp_path):
    result, paths = simulate.run(figure, tmp_path / "b")
    assert [path.name for path in paths] == [f"{figure}.json", f"{figure}.png"]
    assert paths[1].read_bytes().startswith(b"\x89PNG")
    assert json.loads(paths[0].read_text())["figure"] == figure
    assert result.text.startswith("| ")


def test_the_default_folder_is_named_after_the_figure(tmp_path):
    assert "runs/table1/table1.png" in called("simulate", "table1", cwd=tmp_path)
    assert (tmp_path / "runs" / "table1" / "table1.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fig9"], "fig1"),
        ([], "figure"),
        (["fig1", "--seeds", "3"], "fig1 has no --seeds"),
    ],
)
def test_what_a_user_gets_wrong_ends_in_one_line_and_code_2(arguments, says, tmp_path):
    said = called("simulate", *arguments, cwd=tmp_path, code=2)
    assert said.startswith("pursuitnet: ") and said.count("\n") == 1
    assert says in said.lower() or says in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("figure", "choices", "says"),
    [
        ("fig9", {}, "unknown figure 'fig9'; expected one of fig1, fig4"),
        ("table1", {"variations": True}, "table1 has no --variations; only fig4"),
        ("fig4", {"seeds": 0}, "seeds is 0"),
        ("fig4", {"seeds": 0, "variations": True}, "seeds is 0"),
        ("fig4", {"iterations": 0}, "iterations is 0"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_no_folder(figure, choices, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        simulate.run(figure, tmp_path / "c", **choices)
    assert not list(tmp_path.iterdir())
