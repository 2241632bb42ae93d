import html
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import pursuitnet as pn
from pursuitnet import data
from pursuitnet.program import report
from pursuitnet.program import runs as listing
from pursuitnet.program import trace as inside
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.report import page as finished
from pursuitnet.program.report import pictures
from pursuitnet.program.train import images_of, last_record, load_run, train
from pursuitnet.program.whitebox.inspect_run import inspect_run

SECTIONS = ("learning", "confusions", "atoms", "layers", "images", "next")
FAMILIES = {
    "msd_csc": Recipe(model="msd_csc_6"),
    "msd_csc_swept": Recipe(model="msd_csc_6", sweep="multilayer", unfolding=2, solver="fista"),
    "msdnet": Recipe(model="msdnet_3", step="free", norm="none"),
    "ml_csc": Recipe(model="ml_csc"),
    "feed_forward": Recipe(model="feed_forward", norm="batch"),
    "plain": Recipe(model="plain_8"),
    "resnet": Recipe(model="resnet_8", norm="none", lr=0.01),
    "res_csc": Recipe(model="res_csc_8"),
    "res_csc_simplified": Recipe(model="res_csc_simplified_8"),
}


TESTED = 20


class Page(HTMLParser):
    """What a test asks of a page: its sections, its references, and the text of its cells by table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.references: list[str] = []
        self.values: list[str] = []
        self.tags: set[str] = set()
        self.tables: dict[str, list[str]] = {}
        self.table = self.words = self.cell = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.add(tag)
        self.ids += [found["id"]] if tag == "section" else []
        self.references += [
            v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "srcset", "action", "poster")
        ]
        self.values += [found["value"]] if tag == "data" else []
        self.table = (found.get("class") or "").split(" ")[0] if tag == "table" else self.table
        if tag == "td":
            self.tables.setdefault(self.table, []).append("")
        self.cell = tag if tag in ("td", "th") else self.cell

    def handle_data(self, text):
        self.words += text
        if self.cell == "td" and self.table in self.tables:
            self.tables[self.table][-1] += text

    def handle_endtag(self, tag):
        self.cell = "" if tag in ("td", "th") else self.cell


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of a finished run of a family, and its page, with curves where that is "msd_csc"."""
    made: dict[str, Path] = {}

    def run(family: str) -> Path:
        if family not in made:
            folder = tmp_path_factory.mktemp("runs") / family
            tiny = {"width": 3, "epochs": 1, "train_images": 16, "test_images": TESTED, "device": "cpu"}
            torch.manual_seed(0)
            train(Recipe(**{**vars(FAMILIES[family]), **tiny}), folder)
            with pytest.MonkeyPatch.context() as patch:
                if family != "msd_csc":  # they depend on the records alone
                    patch.setattr(pictures, "curves", lambda records: "")
                made[family] = report.write(folder).parent
        return made[family]

    return run


@pytest.fixture
def without_curves(monkeypatch):
    """For what is not about them: they take the longest of a page."""
    monkeypatch.setattr(pictures, "curves", lambda records: "")


def page_of(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def relative_error_of_the_first_layer(folder: Path) -> float:
    """D₁Γ₁ by a transposed convolution written out here, from the code that the layer itself returns."""
    recipe, model = load_run(folder)
    images = images_of(recipe)
    x = images.prepared(images.test[0][:64])  # as many as the page measures, or all
    layer = model.pursuits()[0]
    inner = getattr(layer.dictionary, "dictionary", layer.dictionary)
    with torch.no_grad():
        code = layer(x)
        rest = code.shape[1] - inner.weight.shape[0]
        model_x = F.conv_transpose2d(
            code[:, rest:], inner.weight, None, inner.stride, inner.padding, 0, 1, inner.dilation
        )
        model_x = model_x + code[:, :rest] if rest else model_x
    return float(((x - model_x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)).mean())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_page_has_every_section_and_asks_for_nothing_from_elsewhere(runs, family):
    path = runs(family) / "report.html"
    page = page_of(path.parent)
    assert page.ids == list(SECTIONS)
    assert page.references
    assert all(r.startswith(("data:image/png;base64,", "#")) for r in page.references)
    assert not page.tags & {"script", "link", "iframe", "object"}
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", path.read_text(encoding="utf-8"))
    assert path.stat().st_size < 3_000_000


@pytest.mark.parametrize("family", FAMILIES)
def test_the_accuracy_is_the_last_epochs_to_the_last_digit(runs, family):
    accuracy = last_record(runs(family))["test_accuracy"]
    page = page_of(runs(family))
    assert page.values[0] == str(accuracy)
    assert f"{100 * accuracy:.2f} %" in page.words


@pytest.mark.parametrize("family", FAMILIES)
def test_the_confusions_count_every_test_image_once(runs, family):
    folder = runs(family)
    counts = [int(text) if text else 0 for text in page_of(folder).tables["confusion"]]
    labels = data.load("digits", split="test")[1][:TESTED]
    assert len(counts) == 100
    assert [sum(counts[i : i + 10]) for i in range(0, 100, 10)] == labels.bincount(minlength=10).tolist()
    assert sum(counts[::11]) == round(last_record(folder)["test_accuracy"] * len(labels))


# In a sweep the first code hangs on the deeper layers, so its error is not that of the layer by itself.
@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in ("msd_csc_swept", "ml_csc")])
def test_the_first_layers_error_agrees_with_a_transposed_convolution(runs, family):
    page = page_of(runs(family))
    assert float(page.values[1]) == pytest.approx(relative_error_of_the_first_layer(runs(family)), rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_has_its_line_and_every_code_is_the_networks_own(runs, family):
    recipe, model = load_run(runs(family))
    images = images_of(recipe)
    x = images.prepared(images.test[0][:5])
    traces = inside.trace_layers(model, x)
    assert [at.layer for at in traces] == model.pursuits()
    assert len(page_of(runs(family)).values) == 1 + len(traces)
    with torch.no_grad():
        features = model.forward_features(x)
    assert not any(hooks for m in model.modules() if (hooks := m._forward_hooks))
    last = traces[-1].codes[-1]
    assert torch.equal(features, last if last.shape == features.shape else F.max_pool2d(last, 2, ceil_mode=True))


@pytest.mark.parametrize("family", ["msd_csc", "ml_csc", "res_csc"])
def test_an_effective_atom_is_the_networks_linear_part_at_one_entry(runs, family):
    """D₁D₂ e_j by the gradient of ⟨Dᵀ₂Dᵀ₁x, e_j⟩ with respect to x."""
    recipe, model = load_run(runs(family))
    images = images_of(recipe)
    traces = inside.trace_layers(model, images.prepared(images.test[0][:5]))
    assert traces[1].input_layer == 0
    x = torch.zeros(1, 1, 8, 8, requires_grad=True)
    code = traces[1].layer.dictionary.analyze(traces[0].layer.dictionary.analyze(x))
    row = inside.most_used(traces[1], 2)[1] + traces[1].identity_channels
    (expected,) = torch.autograd.grad(code[0, row, code.shape[2] // 2, code.shape[3] // 2], x)
    atom = inside.effective_atoms(traces, 1, 2, 1)[1]
    rows, columns = expected[0, 0].nonzero().unbind(1)
    torch.testing.assert_close(atom[0], expected[0, 0, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])


def test_nothing_is_carried_through_a_pooling(runs):
    recipe, model = load_run(runs("msd_csc"))
    images = images_of(recipe)
    traces = inside.trace_layers(model, images.prepared(images.test[0][:2]))
    assert [at.input_layer for at in traces] == [None, 0, None, 2, None, 4]
    down, base = inside.synthesize_down(traces, 3, traces[3].codes[-1])
    assert base == 2
    assert down.shape == traces[2].signals[0].shape == (2, 1 + 2 * 3, 4, 4)


def test_a_dictionary_is_put_into_words():
    conv = pn.ConvDictionary(torch.zeros(4, 2, 3, 5), padding=(2, 4), dilation=2)
    assert inside.describe_dictionary(conv) == "D, 4 atoms 3 × 5, dilation 2"
    assert inside.describe_dictionary(pn.WithIdentity(conv)) == "[I D], 4 atoms 3 × 5, dilation 2"
    assert inside.describe_dictionary(pn.LinearDictionary(torch.zeros(7, 6))) == "D, 7 atoms in 6"


def test_the_best_scale_is_best():
    x, model = torch.randn(2, 4, 1, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a = inside.best_scale(x, model)
    best = inside.relative_error(x, a * model)
    assert (a >= 0).all()
    assert (a > 0).any()
    for other in ((a - 1e-3).clamp(min=0), a + 1e-3):
        assert (inside.relative_error(x, other * model) >= best).all()


def test_the_images_are_the_first_recognized_of_three_classes_and_the_first_two_mistaken():
    labels = torch.tensor([3, 3, 1, 1, 0, 2, 2, 5])
    predicted = torch.tensor([3, 3, 0, 1, 9, 2, 2, 0])
    assert finished.chosen_images(labels, predicted) == [0, 3, 5, 2, 4]
    assert finished.confusion(labels, predicted, 10)[3, 3] == 2


def test_a_page_is_the_same_when_it_is_written_again(runs):
    path = runs("msd_csc") / "report.html"
    before = path.read_bytes()
    assert report.write(runs("msd_csc")) == path
    assert path.read_bytes() == before


def test_a_hundred_classes_are_shaded_without_numbers(monkeypatch, without_curves, tmp_path):
    names = tuple(f"class <i{i}>" for i in range(100))
    monkeypatch.setitem(data.DATASETS, "digits", data.Dataset(names, 1, (8, 8), data.DATASETS["digits"].read))
    tiny = {"width": 2, "epochs": 1, "train_images": 16, "test_images": 10, "device": "cpu"}
    train(Recipe(model="ml_csc", **tiny), tmp_path / "run")
    page = page_of(report.write(tmp_path / "run").parent)
    assert len(page.tables["confusion"]) == 100**2
    assert not "".join(page.tables["confusion"]).strip()
    assert "class <i" in page.words  # and not an element


@pytest.fixture
def copy(runs, tmp_path):
    return Path(shutil.copytree(runs("ml_csc"), tmp_path / "copy"))


@pytest.mark.parametrize("name", ["recipe.json", "metrics.jsonl", "model.safetensors", "record.json"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(name)):
        report.write(copy)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"{}\n", b"[1]\n", b"[" * 100_000])
@pytest.mark.parametrize("name", ["metrics.jsonl", "record.json"])
def test_a_damaged_file_is_named(copy, name, content):
    (copy / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(name)):
        report.write(copy)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("record.json", "parameters", "many"),
        ("record.json", "images", [1]),
        ("record.json", "commit", True),
        ("metrics.jsonl", "lr", "high"),
        ("metrics.jsonl", "test_loss", None),
        ("metrics.jsonl", "peak_memory_mb", []),
    ],
)
def test_a_record_of_another_type_is_named(copy, name, key, value):
    lines = (copy / name).read_text().strip() if name == "record.json" else (copy / name).read_text().splitlines()[0]
    (copy / name).write_text(json.dumps({**json.loads(lines), key: value}))
    with pytest.raises(ValueError, match=rf"{re.escape(name)}.* is damaged: {key} is"):
        report.write(copy)


def test_damaged_weights_and_recipes_are_named(copy):
    (copy / "model.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        report.write(copy)
    (copy / "recipe.json").write_text(json.dumps({"model": "ml_csc"})[:-3])
    with pytest.raises(ValueError, match=r"recipe\.json"):
        report.write(copy)


def test_a_folder_that_is_not_there_is_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist; name a run folder"):
        report.write(tmp_path / "nowhere")


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="neither chromium nor google-chrome is on PATH")


def in_browser(path, folder):
    """Open a page in a browser without a window; return the document as it then is, and what its console says."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom"]
    command += ["--enable-logging=stderr", f"--user-data-dir={folder}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "</html>" in done.stdout, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


COUNT = """for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, words = page.body.textContent.includes("accuracy");
    document.body.append(`[${page.querySelectorAll("svg").length} svg, accuracy ${words}]`);
}"""
"""What a page of pages adds to itself of each."""


def framed(paths, folder):
    """A page that shows pages side by side, so that a browser is started once for all of them."""
    frames = "".join(f'<iframe srcdoc="{html.escape(path.read_text(encoding="utf-8"))}"></iframe>' for path in paths)
    page = folder / "framed.html"
    page.write_text(f"<!doctype html><html><body onload='{COUNT}'>{frames}</body></html>", encoding="utf-8")
    return page


@in_a_browser
def test_a_browser_shows_the_pages_without_an_error(runs, tmp_path):
    """One page more has an error, which shows that errors are heard."""
    pages = {
        "finished": runs("msd_csc") / "report.html",
        "training": report.write_progress(tmp_path, about(), RECORDS),
        "inspected": inspect_run(runs("msd_csc"), 1, 1, 20).save(tmp_path),
        "several": report.write_comparison(tmp_path / "runs.html", [listing.read(runs("msd_csc"))]),
    }
    wrong = tmp_path / "wrong.html"
    wrong.write_text("<!doctype html><html><body><script>throw new Error('gone wrong')</script></body></html>")
    document, console = in_browser(framed([*pages.values(), wrong], tmp_path), tmp_path / "profile")
    assert len(console) == 1
    assert "gone wrong" in console[0]
    assert len(re.findall(r"\[[1-9]\d* svg, accuracy true\]", document)) == len(pages)


RECORDS = [
    {"epoch": e, "train_loss": 2 / e, "test_loss": 2.1 / e, "test_accuracy": 0.1 * e, "seconds": 90.0} for e in (1, 2)
]


def about(**more):
    recipe = {"model": "msd_csc_6", "data": "digits", "epochs": 5, "lr": 0.05, "width": None}
    return {"recipe": recipe, "folder": "runs/a b", "parameters": 4321, "device": "cpu", "images": [1437, 360], **more}


def progress(folder, records, **more):
    return report.write_progress(folder, about(), records, **more).read_text(encoding="utf-8")


def test_a_run_that_goes_on_says_how_far_it_has_come_and_its_page_reloads_itself(tmp_path):
    text = progress(tmp_path, RECORDS)
    page = page_of(tmp_path)
    assert "Still training, epoch 2 of 5" in text
    assert re.search(r'<meta http-equiv="refresh" content="\d+">', text)
    assert page.values == ["0.2"]
    assert "4 min 30 s" in page.words  # 3 epochs at 90 s each
    assert page.tables["epochs"] == [
        "2",
        "1.0000",
        "1.0500",
        "20.00 %",
        "90.0",
        "1",
        "2.0000",
        "2.1000",
        "10.00 %",
        "90.0",
    ]
    assert page.ids == ["learning", "epochs"]
    assert not page.tags & {"script", "link", "iframe", "object"}


def test_before_the_first_epoch_there_is_a_page_and_no_number(tmp_path):
    text = progress(tmp_path, [])
    assert "Still training, epoch 0 of 5" in text
    assert "4,321" in text
    assert page_of(tmp_path).values == page_of(tmp_path).ids == []


@pytest.mark.parametrize(("done", "says"), [(2, "Stopped after epoch 2 of 5."), (5, "Trained, epoch 5 of 5.")])
def test_a_run_that_has_ended_does_not_reload_its_page(tmp_path, without_curves, done, says):
    text = progress(tmp_path, [{**RECORDS[0], "epoch": e} for e in range(1, done + 1)], training=False)
    assert says in text
    assert "refresh" not in text
    assert ("--resume" in text) == (done < 5)


def test_what_the_epochs_hold_is_shown_and_what_they_lack_is_not(tmp_path):
    bare = progress(tmp_path, RECORDS)
    assert not any(
        word in bare for word in ("validation", "images per second", "memory", "time of a step", "learning rate")
    )
    more = {"val_loss": 2.0, "val_accuracy": 0.5, "images_per_second": 1234.5, "peak_memory_mb": 2345.6, "lr": 0.1}
    full = progress(tmp_path, [RECORDS[0], {**RECORDS[1], **more, "data": 0.25, "forward": 0.5}])
    assert "validation" in full
    assert "2,346 MB" in full
    assert "data 25 %, forward 50 %" in full
    cells = page_of(tmp_path).tables["epochs"]
    assert cells[:8] == ["2", "1.0000", "1.0500", "50.00 %", "20.00 %", "0.1", "1,234", "90.0"]
    assert cells[11:15] == ["", "10.00 %", "", ""]  # epoch 1 has none


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_does_not_stop_the_page(tmp_path, loss):
    text = progress(tmp_path, [RECORDS[0], {**RECORDS[1], "test_loss": loss}])
    assert "<svg" in text
    assert "logarithmic" not in text


def test_a_page_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch, without_curves):
    before = progress(tmp_path, RECORDS[:1])

    def full(descriptor):
        os.truncate(descriptor, 100)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        progress(tmp_path, RECORDS)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before


def test_the_page_of_a_run_with_validation_has_its_curves(tmp_path):
    folder = tmp_path / "run"
    tiny = {"width": 2, "epochs": 1, "train_images": 16, "val_images": 10, "test_images": 10, "device": "cpu"}
    train(Recipe(model="ml_csc", **tiny), folder)
    words = page_of(report.write(folder).parent).words
    assert "validation" in words
    assert "images per second" in words
