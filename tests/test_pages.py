"""The pages of runs lead to each other, and say how a run is repeated and what comes next."""

import re
import shlex
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest

import pursuitnet as pn
from pursuitnet.program import report
from pursuitnet.program import runs as listing
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.report import compare, pictures
from pursuitnet.program.whitebox import plots
from pursuitnet.program.whitebox.inspect_run import inspect_run

RECIPE = Recipe(
    model="msd_csc_3", width=2, unfolding=2, lr=0.03, seed=7, epochs=1, train_images=64, test_images=20, device="cpu"
)


@pytest.fixture(scope="module", autouse=True)
def _without_curves():
    """No test here is about them, and they take the longest of a page."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (pictures, compare, plots):
            patch.setattr(module, "panels", lambda *given: "")
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two runs, one of them with a report and a name that an address has to quote."""
    place = tmp_path_factory.mktemp("place")
    pn.train(RECIPE, place / "all" / "one & only")
    report.write(place / "all" / "one & only")
    pn.train(RECIPE, place / "all" / "bare")
    return place


def commands(page):
    return [unescape(found) for found in re.findall(r"<code>(.*?)</code>", page, re.DOTALL)]


def test_the_table_of_runs_leads_to_each_report_from_wherever_it_is(place, tmp_path):
    for page in (place / "runs.html", place / "all" / "runs.html", tmp_path / "runs.html"):
        text = report.write_comparison(page, listing.find_runs(place / "all")).read_text()
        links = [unquote(unescape(found)) for found in re.findall(r'<a[^>]* href="([^"]*)"', text)]
        assert [(page.parent / link).resolve() for link in links] == [place / "all" / "one & only" / "report.html"]


def test_the_table_of_runs_says_what_tells_them_apart(place):
    text = report.write_comparison(place / "runs.html", listing.find_runs(place / "all")).read_text()
    titles = re.findall(r'<th scope="col">(.*?)</th>', text)
    cells = [re.sub("<.*?>", "", cell) for cell in re.findall(r"<td>(.*?)</td>", text, re.DOTALL)]
    row = dict(zip(titles, cells, strict=False))
    assert {name: row[name] for name in ("unfolding", "width", "seed", "rate")} == {
        "unfolding": "2", "width": "2", "seed": "7", "rate": "0.03",
    }  # fmt: skip
    assert row["run"] == "bare" and re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", row["ended"])
    assert shlex.split(unescape(row["next"])) == ["pursuitnet", "inspect", str(place / "all" / "bare")]


def test_the_report_says_how_the_run_is_repeated_and_what_comes_next(place):
    folder = place / "all" / "one & only"
    said = [shlex.split(command) for command in commands((folder / "report.html").read_text())]
    repeat = next(words for words in said if words[1] == "train")
    assert Recipe.named(repeat[repeat.index("--recipe") + 1]) == RECIPE
    assert not Path(repeat[repeat.index("--out") + 1]).exists()
    assert {words[1] for words in said} == {"train", "inspect", "evaluate", "predict", "export"}
    assert all(str(folder) in words[2] for words in said if words[1] != "train")


def test_report_and_inspection_lead_to_each_other_where_both_are(place, tmp_path):
    folder = place / "all" / "one & only"
    found = inspect_run(folder, 2, 0, 8)
    assert '<a href="report.html">' in found.save(folder).read_text()
    assert "report.html" not in found.save(tmp_path).read_text()
    report.write_comparison(place / "all" / "runs.html", listing.find_runs(place / "all"))
    assert '<a href="../runs.html">all runs</a>' in found.save(folder).read_text()
    assert '<a href="inspect.html">' in report.write(folder).read_text()
    assert '<a href="inspect.html">' not in report.write(place / "all" / "bare").read_text()
    table = report.write_comparison(place / "runs.html", listing.find_runs(place / "all")).read_text()
    assert [unquote(unescape(link)) for link in re.findall(r'<a[^>]* href="([^"]*)"', table)] == [
        "all/bare/report.html", "all/one & only/report.html", "all/one & only/inspect.html",
    ]  # fmt: skip


def test_the_inspection_says_when_it_was_made_and_what_more_steps_do(place):
    found = inspect_run(place / "all" / "bare", 1, 3, 20)
    text = " ".join(found.save(place / "all" / "bare").read_text().split())
    assert re.search(r"Written on \d{4}-\d\d-\d\d \d\d:\d\d", text)
    own, most = (f"{100 * found.steps[k].accuracy:.1f} %" for k in (RECIPE.unfolding, 3))
    assert f"classifies {own} of the images correctly, with 1 more in every layer, without" in text
    assert f"without training again, {most}" in text
