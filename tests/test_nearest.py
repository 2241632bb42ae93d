"""Did you mean: what is said of names that do not exist, by the library and on the command line."""

import re

import pytest

import pursuitnet as pn
from pursuitnet import data
from pursuitnet.program import cli, hints
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.train import device_of
from pursuitnet.utils.nearest import ELSEWHERE, did_you_mean, nearest


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("modle", ["model", "norm"], "model"),
        ("MODEL", ["model", "norm"], "model"),
        ("--batch_size", ["--batch-size"], "--batch-size"),
        ("learning_rate", ["lr", "momentum"], "lr"),
        ("lerning-rate", ["--lr"], "--lr"),
        ("gpu", ["cpu", "cuda"], "cuda"),
        ("gpu", ["lr"], None),
        ("xyz", ["model"], None),
        (3, ["model"], None),
    ],
)
def test_the_nearest_name_is_found_by_spelling_and_by_what_others_call_it(name, known, meant):
    assert nearest(name, known) == meant
    assert did_you_mean(name, known, "!") == ("!" if meant is None else f"; did you mean {meant}?")


def test_every_other_name_leads_to_ours_even_beside_all_fields():
    fields = vars(Recipe())
    for ours, others in ELSEWHERE.items():
        for other in others.split(", "):
            if ours in fields and other not in fields:
                assert ELSEWHERE.get(nearest(other, [ours])) == ELSEWHERE[ours]
    found = {other: nearest(other, fields) for other in ("bs", "wd", "dataset", "arch", "learning_rate", "hflip")}
    assert found == {
        "bs": "batch_size", "wd": "weight_decay", "dataset": "data", "arch": "model", "learning_rate": "lr",
        "hflip": "flip",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Recipe.from_json({"learning_rate": 0.1}), "unknown field 'learning_rate'; did you mean lr?"),
        (lambda: Recipe.named("Residual_"), "Residual_ is no recipe; did you mean residual?"),
        (lambda: pn.create_model("res_ccs_20"), "did you mean res_csc_20?"),
        (lambda: pn.create_model("msd_csc_3", n_iter=2), "no choice 'n_iter'; did you mean unfolding?"),
        (lambda: pn.create_model("msd_csc_3", solver="fist"), "did you mean fista?"),
        (lambda: data.load("cifar-10"), "did you mean cifar10?"),
        (lambda: device_of(Recipe(device="gpu")), "device is 'gpu', which is not available here; did you mean cuda?"),
        (lambda: device_of(Recipe(device="meta")), "device is 'meta', which holds no numbers"),
    ],
)
def test_the_library_says_what_is_meant(call, says):
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(says)):
        call()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("-v", "unknown option -v; did you mean --version?"),
        ("trian", "unknown command trian; did you mean train?"),
        ("eval run", "unknown command eval; did you mean evaluate?"),
        ("train ./photos", "unexpected argument './photos'; did you mean --data-dir ./photos?"),
        ("train residual", "did you mean --recipe residual?"),
        ("train mine.toml", "did you mean --recipe mine.toml?"),
        ("train cifar10", "did you mean --data cifar10?"),
        ("train resnet_20", "did you mean --model resnet_20?"),
        ("train what", "unexpected argument 'what'; pursuitnet train --help lists"),
        ("evaluate one two", "unexpected argument 'two'; pursuitnet evaluate --help lists"),
        ("evaluate one residual", "unexpected argument 'residual'; pursuitnet evaluate --help lists"),
        ("train --learning-rate 0.1", "unknown option --learning-rate; did you mean --lr?"),
        ("train --bs=3", "unknown option --bs; did you mean --batch-size?"),
        ("train --xyz", "unknown option --xyz; pursuitnet train --help lists"),
        ("train --drops 0.5", "unknown option --drops; did you mean --milestones?"),
        ("train --fill reflect", "unknown option --fill; did you mean --padding-mode?"),
        ("train --standardise", "unknown option --standardise; did you mean --normalize?"),
        ("train --no-standardise", "unknown option --no-standardise; did you mean --no-normalize?"),
        ("train --valid-images 5", "unknown option --valid-images; did you mean --val-images?"),
        ("train --balanced", "unknown option --balanced; did you mean --balance?"),
        ("evaluate one --tested 5", "unknown option --tested; did you mean --test-images?"),
        ("inspect one --tested 5", "unknown option --tested; did you mean --test-images?"),
        ("evaluate one --pictures", "unknown option --pictures; did you mean --plot?"),
        ("reproduce table3 --only msd", "unknown option --only; did you mean --filter?"),
        ("learn a.png --out b --epochs 3", "unknown option --epochs; did you mean --iterations?"),
        ("learn a.png --out b --n-components 3", "unknown option --n-components; did you mean --atoms?"),
        ("learn a.png --out b --kernel-size 3", "unknown option --kernel-size; did you mean --size?"),
        ("runs --output a.png", "unknown option --output; did you mean --out?"),
    ],
)
def test_the_program_says_what_is_meant(line, says):
    with pytest.raises(cli.CycloptsError) as caught:
        cli.app(line.split(), exit_on_error=False, print_error=False)
    assert says in hints.error_line(caught.value)
