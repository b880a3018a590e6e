"""Run folders made here -> table, csv, curves and page."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import re
import shutil
import subprocess
import sys
from xml.etree import ElementTree

import jax
import numpy as np
import pytest

from qchunk import names
from qchunk.reporting import (
    against,
    cost,
    exports,
    film,
    headline,
    page,
    plots,
    pooled,
    prices,
    publish,
    records,
    stats,
)
from qchunk.reporting.stats import Estimate
from qchunk.runs import run_folder
from qchunk.system.errors import UserError

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
CUBE, REACHER = "tabletop/cube-single-task1", "brax/reacher@spring"
BC, QC, BEST = [0.1, 0.2, 0.1, 0.2], [0.8, 0.9, 1.0, 0.9], [1.0] * 4


def make(
    folder,
    label,
    finals,
    env=CUBE,
    name="success",
    *,
    seed=0,
    steps=(1000, 2000),
    finished=True,
    returns=None,
    **config,
):
    """A run whose evaluations rise to ``finals`` [S]."""
    about = {"algorithm": "qc", "env": env, "seeds": len(finals), "seed": seed, "label": label, **config}
    with run_folder.create(folder, about) as run:
        for i, step in enumerate(steps, 1):
            run.log("train", step, {"loss": 1.0})
            values = [x * i / len(steps) for x in finals]
            run.log("eval", step, {"return": returns or [-1.0] * len(finals), name: values})
        if finished:
            run.finish({name: finals})
    return folder


@pytest.fixture
def pair(tmp_path):
    return [make(tmp_path / "q", "qc", QC), make(tmp_path / "b", "bc", BC)]


def rows_of(folders):
    return {row["method"]: row for row in records.table(records.load(folders))}


def test_table(pair):
    """Means 0.15 and 0.9; differences 0.7, 0.7, 0.9, 0.7: mean 0.75, half width 3.1824463 * 0.1 / 2."""
    rows = rows_of(pair)
    assert list(rows) == ["bc", "qc"], "the baseline comes first, whatever the order of the folders"
    assert rows["bc"]["mean"] == "15.0 %" and rows["qc"]["mean"] == "90.0 %"
    assert rows["bc"]["95 % interval"] == "[5.8, 24.2]"
    assert rows["qc"]["95 % interval"] == "[77.0, 100.0]", "a share stays a share"
    assert rows["qc"]["difference to baseline"] == "+75.0 points [59.1, 90.9] excludes 0 if seeds are alike"
    assert rows["qc"]["whatever the seeds"] == "[25.9, 100.0]", "4 kl(0.9, 0.259) = log 40"
    assert rows["bc"]["difference to baseline"] == "(baseline: bc)"
    assert rows["qc"]["updates"] == "2,000" and rows["qc"]["note"] == ""


def test_an_unfinished_run_is_said_so_and_not_compared_at_other_updates(tmp_path, pair):
    late = make(tmp_path / "u", "late", QC, steps=(1000,), finished=False)
    row = rows_of([*pair, late])["late"]
    assert row["note"] == "unfinished: last evaluation" and row["updates"] == "1,000"
    assert row["difference to baseline"] == "not paired: other updates"
    level = make(tmp_path / "v", "level", QC, finished=False)
    assert rows_of([*pair, level])["level"]["difference to baseline"].endswith("excludes 0 if seeds are alike")


def test_only_equal_seeds_are_paired(tmp_path, pair):
    other = make(tmp_path / "o", "other", QC, seed=4)
    fewer = make(tmp_path / "f", "fewer", QC[:1])
    rows = rows_of([*pair, other, fewer])
    assert (
        rows["other"]["difference to baseline"] == rows["fewer"]["difference to baseline"] == "not paired: other seeds"
    )
    assert rows["fewer"]["95 % interval"] == "too few seeds"


def test_equal_means_look_equal():
    """Sums of float32 shares differ in their last digits; they are not to differ in the first."""
    shares = [0.1475, np.nextafter(0.1475, 0), np.float32(0.1475).item(), 0.147499996]
    told = {records.show(Estimate(x, x - 0.1, x + 0.1), "success")[0] for x in shares}
    assert len(told) == 1
    assert records.show(Estimate(-1e-9, -0.1, 0.1), "points")[0] == "0.0 points"


def test_return_where_there_is_no_success(tmp_path):
    folders = [make(tmp_path / m, m, x, REACHER, "return") for m, x in (("a", [-5.0, -6.0]), ("b", [-1.0, -3.0]))]
    rows = rows_of(folders)
    assert rows["a"]["difference to baseline"] == "(baseline: a)", "the first run where there is no bc"
    assert rows["b"]["mean"] == "-2.00" and rows["b"]["difference to baseline"].startswith("+3.50 [")
    assert rows["b"]["difference to baseline"].endswith("includes 0")


def test_a_diverged_seed_is_not_averaged_away(tmp_path, pair):
    """null in metrics.jsonl stands for NaN: no figure, and no verdict."""
    rows = rows_of([*pair, make(tmp_path / "n", "nan", [0.5, np.nan, 0.5, 0.5])])
    assert rows["nan"]["mean"] == rows["nan"]["95 % interval"] == rows["nan"]["difference to baseline"] == "not finite"


def test_a_diverged_method_is_named_in_the_means_over_environments_and_in_the_csv(tmp_path, pair):
    lost = make(tmp_path / "n", "lost", [np.nan] * 4)
    with open(lost / "metrics.jsonl", "a") as f:
        f.write(
            json.dumps(
                {"kind": "diverged", "step": 7, "seconds": 1.0, "values": {"diverged": [1.0] * 4, "diverged_at": [7.0]}}
            )
            + "\n"
        )
    found = records.load([*pair, lost])
    *_, row = pooled.aggregate(found)
    assert row["method"] == "lost" and "diverged at update 7" in row["mean"]
    assert [line.rpartition(",")[2] for line in exports.as_csv(exports.rows(found)).splitlines()] == [
        "diverged",
        "",
        "",
        "diverged at update 7",
    ]


def test_return_stands_beside_success_and_is_what_was_logged(tmp_path, pair):
    """-1 for every seed, in the table and as the interquartile mean over the runs; a return alone has no second column."""
    assert rows_of(pair)["qc"]["return"] == "-1.00 [-1.00, -1.00]"
    assert [r["return, interquartile mean"] for r in pooled.aggregate(records.load(pair))] == [
        "-1.00 too few seeds"
    ] * 2
    assert rows_of([make(tmp_path / "r", "r", QC, REACHER, "return")])["r"]["return"] == ""


def test_each_against_each(tmp_path, pair):
    """The difference of test_table once more, and a third run that is told apart from neither."""
    third = make(tmp_path / "t", "third", [0.1, 0.9, 0.5, 0.6])
    rows = against.pairs(records.load([*pair, third]))
    assert [row[against.PAIR] for row in rows] == ["qc", "third"] and list(rows[0])[1:] == ["bc", "qc"]
    assert rows[0]["bc"] == "75.0 [59.1, 90.9] (*)" and rows[0]["qc"] == ""
    assert rows[1]["qc"].startswith("-37.5 [") and "*" not in rows[1]["qc"]
    assert against.pairs(records.load(pair)) == [], "two stand beside each other already"


def test_until_a_step(pair):
    """What runs were before it: half of where they end."""
    early = {r.label: r for r in records.load(pair, until=1500)}
    assert early["qc"].training == "1,000" and np.allclose(early["qc"].final(), np.asarray(QC) / 2)
    with pytest.raises(UserError, match="no evaluation"):
        records.load(pair, until=999)


def whole(folder, change):
    about = json.loads((folder / "config.json").read_text())
    about["config"] = change(about["config"])
    (folder / "config.json").write_text(json.dumps(about))


DAMAGE = {
    "config": lambda f: whole(f, lambda c: {}),
    "list": lambda f: whole(f, lambda c: []),
    "seeds": lambda f: whole(f, lambda c: {**c, "seeds": 3}),
    "figures": lambda f: (f / "metrics.jsonl").write_text(
        '{"kind": "eval", "step": 9, "seconds": 1, "values": {"x": [1]}}\n'
    ),
    "cost": lambda f: (f / "cost.json").write_text("{"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_run_is_a_line_beside_the_others(damage, pair, tmp_path):
    DAMAGE[damage](pair[0])
    rows = publish.write_report(pair, tmp_path / "r")
    assert [r["mean"] for r in rows if r["method"] == "bc"] == ["15.0 %"], "the other run is shown"
    text = (tmp_path / "r" / "report.html").read_text()
    assert "damaged: " in text and str(pair[0]) in text
    if damage != "cost":
        with pytest.raises(UserError, match=str(pair[0])):
            publish.write_report(pair[:1], tmp_path / "r")


def remade(folder, **facts):
    """Of a run: what config.json says of how it was made."""
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**about, **facts}))


def told_of(folders):
    found = records.load(folders)
    return page.html_page(found, records.table(found), {})


def test_facts_that_differ_are_told_of_their_runs(pair):
    """Two commits are not one; that they differ stands on the first screen where the code does, which its digest knows better than a commit's name."""
    for folder, commit in zip(pair, ("aaa", "bbb"), strict=True):
        remade(folder, git_commit=commit)
    text = told_of(pair)
    assert "bbb (bc); aaa (qc)" in text and "not all made alike" not in text
    remade(pair[0], code="another")
    assert "not all made alike (code;" in told_of(pair).split("<nav")[0]
    remade(pair[1], code="")  # of before there was a digest
    assert "not all made alike (code;" in told_of(pair)
    remade(pair[0], git_commit="bbb")
    assert "not all made alike" not in told_of(pair)
    remade(pair[0], versions={"jax": "0.0.1"})
    remade(pair[1], versions={"jax": "0.0.2", "ogbench": "1"})  # what only one of them has used says nothing
    assert "not all made alike (jax;" in told_of(pair)
    assert "not all made alike (jax;" in page.markdown_page(records.load(pair), [], {})


def test_runs_of_one_environment_on_other_data_are_told(tmp_path):
    """Of another environment they are other data by nature."""
    places = {name: {"data": {"path": "d.npz", "fingerprint": name}} for name in ("aaa", "bbb")}
    there = make(tmp_path / "a", "qc", QC, **places["aaa"])
    assert "not all made alike" not in told_of([there, make(tmp_path / "r", "qc", QC, REACHER, **places["bbb"])])
    assert "not all made alike (data;" in told_of([there, make(tmp_path / "b", "bc", BC, **places["bbb"])])


def test_runs_of_one_environment_that_were_rewarded_or_played_otherwise_are_told(tmp_path):
    """Their figures are of different things; another environment has its own."""
    plain, late = ({"settings": {"execute": "open-loop", "delay": delay}} for delay in (0, 3))
    there = make(tmp_path / "a", "bc", BC, objective={}, **plain)
    same, other = (make(tmp_path / "b" / env, "qc", QC, env, objective={}, **plain) for env in (CUBE, REACHER))
    assert "not all made alike" not in told_of([there, same, other])
    paid = make(tmp_path / "p", "qc", QC, objective={"task": 1.0, "energy": 0.5}, **plain)
    text = told_of([there, paid])
    assert "not all made alike (objective;" in text and "the environment&#39;s (bc); task=1, energy=0.5 (qc)" in text
    text = told_of([there, make(tmp_path / "l", "qc", QC, objective={}, **late)])
    assert "not all made alike (execution;" in text and "open-loop, 3 steps late (qc)" in text


def test_seeds_of_other_code_are_told_apart(tmp_path):
    """They are one method all the same; the page says which seeds were made by which code."""
    first, later = make(tmp_path / "a", "qc", QC), make(tmp_path / "b", "qc", QC, seed=len(QC))
    assert "not all made alike" not in told_of([first, later])
    remade(later, code="another")
    text = told_of([first, later])
    (row,) = records.table(records.load([first, later]))
    assert row["seeds"] == str(2 * len(QC)) and "not all made alike (code;" in text
    assert "another (qc, seeds 4 to 7)" in text


def test_labels(tmp_path):
    """The algorithm where there is no label; the folder too where two runs would look alike; a run given twice is one."""
    a, b = make(tmp_path / "a" / "qc", "", QC), make(tmp_path / "b" / "qc", "qc", QC)
    assert list(rows_of([a, a])) == ["qc"]
    assert list(rows_of([a, b])) == ["qc (a/qc)", "qc (b/qc)"]


def test_runs_of_two_comparisons_are_told_apart_by_these(tmp_path):
    """Their folders end alike; in every environment by the same name, so that each has a mean over both. None is lost."""
    envs = {"one": CUBE, "two": CUBE.replace("task1", "task2")}
    made = [
        make(tmp_path / c / "runs" / at / n, n, figures, env=env, config={"of": c})
        for c, figures in (("A", QC), ("B", BC))
        for at, env in envs.items()
        for n in ("bc", "qc")
    ]
    found = records.load(made)
    assert [r.label for r in found] == ["bc (A)", "bc (B)", "qc (A)", "qc (B)"] * 2
    assert {label: x.mean() for label, x in pooled.scores(found).items()} == pytest.approx(
        {"bc (A)": 0.9, "bc (B)": 0.15, "qc (A)": 0.9, "qc (B)": 0.15}
    )
    inside = make(tmp_path / "A" / "old" / "runs" / "one" / "bc", "bc", BC, config={"of": "C"})
    assert [r.label for r in records.load([made[0], inside])] == ["bc (A)", "bc (A/old)"]


def test_why_runs_cannot_be_compared_is_said_as_it_is(tmp_path):
    def may(*finals, **more):
        folders = [make(tmp_path / f"{len(list(tmp_path.iterdir()))}", n, x, **more) for n, x in zip(("bc", "qc"), finals, strict=True)]  # fmt: skip
        return headline.sentences(*headline.groups(records.load(folders))[0]).may

    assert "as they stand: other seeds. bc" in may(BC, QC[:2])
    told = may(BC, [np.nan] * 4)
    assert "as they stand: no finite figure. bc" in told and told.endswith("qc not finite.")
    assert rows_of([make(tmp_path / "lost", "bc", BC, returns=[np.nan] * 4)])["bc"]["return"] == "not finite"
    three = [make(tmp_path / f"of {n}", n, x) for n, x in (("bc", BC), ("qc", QC), ("lost", [np.nan] * 4))]
    assert pooled.aggregate(records.load(three))[-1]["mean"] == f"none: not finite on {CUBE}"


def test_csv_is_for_programs(tmp_path, pair):
    single = make(tmp_path / "s", "single", [0.5])
    rows = list(csv.DictReader(io.StringIO(exports.as_csv(exports.rows(records.load([*pair, single]))))))
    bc, qc, one = rows
    assert (bc["method"], bc["baseline"], bc["difference"]) == ("bc", "", "")
    assert float(qc["mean"]) == pytest.approx(0.9) and float(qc["difference"]) == pytest.approx(0.75)
    assert float(qc["difference_low"]) == pytest.approx(0.75 - 3.182446305 * 0.05) and qc["updates"] == "2000"
    assert (one["mean"], one["low"], one["unfinished"]) == ("0.5", "", "0")
    held = stats.interval_whatever_the_seeds(QC)
    assert (float(qc["whatever_the_seeds_low"]), float(qc["whatever_the_seeds_high"])) == pytest.approx(held[1:])
    lost = exports.rows(records.load(pair), [("probe/flag", "mine", "its loss raised")])[-1]
    assert (lost["method"], lost["failed"], lost["mean"]) == ("mine", "its loss raised", None)
    publish.write_report(pair, tmp_path / "out", failed=[("probe/flag", "mine", "its loss raised")])
    assert "its loss raised" in (tmp_path / "out" / "table.csv").read_text()


def test_markdown_keeps_its_columns(tmp_path):
    text = records.markdown(records.table(records.load([make(tmp_path / "x", "a|b", QC)])))
    assert "a\\|b" in text
    assert {line.replace("\\|", "").count("|") for line in text.splitlines()} == {len(records.COLUMNS) + 1}


class Page(html.parser.HTMLParser):
    """Tags, and what they would load."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.loads, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def test_report_is_whole_and_self_contained(tmp_path, pair):
    odd = make(tmp_path / "odd", "<b>odd</b>", QC, REACHER, "return")
    out = tmp_path / "deep" / "report"
    publish.write_report([*pair, odd], out)
    drawn = [f"{name}.{kind}" for name in ("clock", "curves", "headline") for kind in ("pdf", "png", "svg")]
    written = [*drawn, "report.html", "report.md", "seeds.csv", "table.csv", "table.json", "table.md", "table.tex"]
    assert sorted(p.name for p in out.iterdir()) == written
    for name in ("clock", "curves", "headline"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (out / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert ElementTree.parse(out / f"{name}.svg").getroot().tag.endswith("svg")
    text = (out / "report.html").read_text()
    seen = Page(text)
    assert seen.loads and all(x.startswith(("data:", "#")) for x in seen.loads), "nothing from the network"
    assert "script" not in seen.tags and "b" not in seen.tags and "<b>odd</b>" in seen.text
    assert "+75.0 points" in seen.text and str(tmp_path) not in text
    publish.write_report(pair, out)  # again, over the old one


def test_curves_hold_every_run(pair, tmp_path, monkeypatch):
    """One panel per environment, its axes named with units, one legend entry per run."""
    import matplotlib.pyplot as plt

    kept = []
    monkeypatch.setattr(plt, "close", kept.append)
    found = records.load([*pair, make(tmp_path / "r", "qc", [-1.0, -2.0], REACHER, "return")])
    plots.curves(found, tmp_path / "c.png")
    (figure,) = kept
    reacher, cube = figure.axes
    assert (reacher.get_title(), cube.get_title()) == (REACHER, CUBE)
    assert cube.get_xlabel() == "updates" and "%" in cube.get_ylabel() and "return" in reacher.get_ylabel()
    assert [t.get_text() for t in cube.get_legend().get_texts()] == ["qc", "bc"], "in the order in which curves end"
    line = next(x for x in cube.lines if x.get_label() == "qc")
    np.testing.assert_allclose(line.get_ydata(), [45, 90])
    monkeypatch.undo()
    plt.close(figure)


def test_the_names_of_every_method_stand_in_the_picture(tmp_path, monkeypatch):
    """In columns, none cut off; those of one colour differ in their lines, and of few those of nearly one hue."""
    import matplotlib.pyplot as plt

    kept = []
    monkeypatch.setattr(plots, "keep", lambda figure, *args: kept.append(figure))
    runs = [records.load([make(tmp_path / name, name, QC)])[0] for name in names.ALGORITHMS]
    plots.curves(runs, tmp_path / "c.png")
    (figure,) = kept
    figure.canvas.draw()
    (ax,) = figure.axes
    assert len(ax.get_legend().get_texts()) == len(names.ALGORITHMS) > 50
    box, whole = ax.get_legend().get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1
    assert ax.get_window_extent().width > 2.5 * figure.dpi, "the curves keep their room"
    drawn = [(x.get_color(), x.get_linestyle()) for x in ax.lines if x.get_label() in names.ALGORITHMS]
    assert len(drawn) == len(set(drawn)) == len(names.ALGORITHMS)
    plt.close(figure)
    reds = ["#E8645A", "#C44E52", "#B5485D"]
    some = plots.strokes({str(i): c for i, c in enumerate([*reds, *plots.COLOURS[:6]])})
    assert len({some[str(i)] for i in range(len(reds))}) == len(reds)


def test_mistakes(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="not a run"):
        records.load([tmp_path / "empty"])
    with pytest.raises(UserError, match="no evaluation yet"):
        records.load([make(tmp_path / "young", "qc", QC, steps=(), finished=False)])


def test_matplotlib_is_imported_late():
    code = "import sys, qchunk.reporting.records; assert not {'jax', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_online_runs_tell_updates_and_environment_steps(tmp_path):
    """1,000 updates, then 500 environment steps; a second run of other steps is not compared."""
    folders = []
    for label, online in (("bc", 500), ("qc", 500), ("longer", 700)):
        about = {"algorithm": "qc", "env": CUBE, "seeds": 2, "seed": 0, "label": label}
        with run_folder.create(tmp_path / label, about) as run:
            run.log("eval", 1000, {"success": [0.1, 0.2]})
            values = {"success": [0.5, 0.6], "env_steps": [online], "updates": [1100]}
            run.log("eval", 1000 + online, values)
            run.finish({"success": [0.5, 0.6]})
        folders.append(tmp_path / label)
    publish.write_report(folders, tmp_path / "r")
    rows = rows_of(folders)
    assert rows["qc"]["updates"] == "1,000 + 500 env steps" and "points" in rows["qc"]["difference to baseline"]
    assert rows["longer"]["difference to baseline"] == "not paired: other environment steps"
    assert (tmp_path / "r" / "clock.png").stat().st_size > 5000


def test_aggregates(tmp_path, pair):
    """Interquartile means of 0.1 0.1 0.2 0.2 and 0.8 0.9 0.9 1.0; every run of qc beats every one of bc."""
    bc, qc = pooled.aggregate(records.load(pair))
    assert bc["interquartile mean"].startswith("15.0 %") and qc["interquartile mean"].startswith("90.0 %")
    assert bc["P(better than bc)"] == "" and qc["P(better than bc)"] == "1.00", "four seeds are too few for a bootstrap"
    many = [make(tmp_path / f"m{x}", x, [0.2 + k / 20 + d for k in range(10)]) for x, d in (("bc", 0.0), ("up", 0.075))]
    assert pooled.aggregate(records.load(many))[1]["P(better than bc)"].startswith("0.64 [0.")
    again = pooled.aggregate(records.load(pair))
    assert again == [bc, qc], "a generator of its own"
    mixed = [*pair, make(tmp_path / "r", "qc", [-1.0, -2.0], REACHER, "return")]
    assert pooled.aggregate(records.load(mixed)) == [], "a success and a return have no mean"


def test_over_environments_a_seed_is_known_by_the_episodes_of_all(tmp_path):
    """Seeds that agree leave the luck of their episodes: of 4 seeds and 2 environments, 50 each, the fewest of any."""
    runs = [(m, x, i, n) for m, x in (("bc", 0.25), ("qc", 0.5)) for i, n in ((1, 50), (2, 80))]
    folders = [
        make(tmp_path / f"{m}{i}", m, [x] * 4, f"{CUBE[:-1]}{i}", settings={"episodes": n}) for m, x, i, n in runs
    ]
    found = records.load(folders)
    wanted = stats.paired_difference([0.5] * 4, [0.25] * 4, episodes=100)
    assert against.contest(found).of("qc", "bc").difference == wanted
    assert against.contest(found).of("bc", "qc").difference == Estimate(-0.25, -wanted.high, -wanted.low)
    low, high = stats.clopper_pearson(0.5, 400)
    assert pooled.aggregate(found)[1]["mean"] == f"50.0 % [{100 * low:.1f}, {100 * high:.1f}]"


def test_what_trained_nothing_is_a_baseline(tmp_path):
    """A prior as it is, against what was made of it in more updates; unequal updates are in no aggregate."""
    still = make(tmp_path / "s", "prior", [0.0, 0.1], steps=(1,))
    better = make(tmp_path / "g", "guided", [0.5, 0.6], steps=(50,))
    found = records.load([better, still])
    assert [r.label for r in found] == ["prior", "guided"]
    assert records.table(found)[1]["difference to baseline"].startswith("+50.0 points")
    longer = make(tmp_path / "l", "longer", [0.9, 1.0], steps=(70,))
    assert set(pooled.scores(records.load([better, longer]))) == {"guided"}


def test_a_run_is_paired_with_the_prior_that_it_stands_on(tmp_path):
    """However much longer it trained; a run that stands on nothing, or on another, is not."""
    prior = make(tmp_path / "p", "prior", [0.0, 0.1], steps=(10,))
    tuned = make(tmp_path / "t", "tuned", [0.5, 0.6], steps=(500,), prior={"path": str((tmp_path / "p").resolve())})
    other = make(tmp_path / "o", "other", [0.5, 0.6], steps=(500,), prior={"path": str(tmp_path / "x")})
    rows = rows_of([prior, tuned, other])
    assert rows["tuned"]["difference to baseline"].startswith("+50.0 points")
    assert rows["other"]["difference to baseline"] == "not paired: other updates"


def test_verdicts(tmp_path, pair):
    near = make(tmp_path / "n", "near", [0.1, 0.3, 0.0, 0.2])
    assert page.verdicts(records.table(records.load([*pair, near]))) == [
        f"{CUBE}: better than bc, if seeds are alike: qc; not told apart from bc: near."
    ]
    sure = [make(tmp_path / m, m, [x] * 4, settings={"episodes": 50}) for m, x in (("none", 0.0), ("all", 1.0))]
    told = rows_of(sure)["all"]
    assert told["difference to baseline"] == "+100.0 points [97.4, 100.0] excludes 0", (
        "a difference is 100 points at most"
    )
    assert told["95 % interval"] == "[98.2, 100.0]", "of 200 of 200 episodes (Clopper and Pearson)"
    assert told["whatever the seeds"] == "[39.8, 100.0]", "0.025 ** (1 / 4)"
    assert page.verdicts(list(rows_of(sure).values())) == [f"{CUBE}: better than none: all."]


def test_equal_arms_are_not_starred_by_luck(tmp_path):
    """Differences that agree in every seed and lie within the luck of their episodes; and no -0.0 anywhere."""
    arms = {"bc": [1.0, 1.0, 1.0], "a": [0.98, 0.98, 0.98], "b": [1.0, 1.0, 1.0]}
    folders = [make(tmp_path / m, m, x, settings={"episodes": 50}) for m, x in arms.items()]
    told = rows_of(folders)
    assert told["a"]["difference to baseline"].endswith(" includes 0")
    assert told["b"]["difference to baseline"].startswith("+0.0 points [-2.") and "-0.0" not in str(told)
    assert "*" not in "".join(cell for row in against.pairs(records.load(folders)) for cell in row.values())
    assert records.show(Estimate(-0.012, -0.0236, -0.0004), "points")[1] == "[-2.4, -0.04]"


def test_a_page_of_many_arms_is_one_family(tmp_path):
    """One of seven differences has p = 0.03: by itself it excludes 0, among seven it says so."""
    rng = np.random.default_rng(0)
    values = {f"arm{i}": rng.normal(0.5, 0.1, 4).round(2).tolist() for i in range(6)}
    values |= {"bc": [0.4, 0.5, 0.5, 0.4], "far": [0.5, 0.63, 0.55, 0.55]}
    folders = {m: make(tmp_path / m, m, x) for m, x in values.items()}
    alone = rows_of([folders["bc"], folders["far"]])["far"]["difference to baseline"]
    among = rows_of(list(folders.values()))["far"]["difference to baseline"]
    assert alone.endswith("excludes 0 if seeds are alike") and among.endswith("excludes 0 by itself only")


def test_seeds_that_find_it_or_not_are_said_so(tmp_path, pair):
    found = make(tmp_path / "f", "found", [0.98, 0.0, 1.0, 0.02])
    rows = rows_of([*pair, found])
    assert rows["found"]["note"].startswith("its seeds find it or not: 2 of 4 lie above") and rows["qc"]["note"] == ""


CHECK = """<!doctype html><meta charset="utf-8"><body><iframe width="390" height="800" src="{name}"></iframe><pre id="out"></pre><script>
onload = () => {{
  const w = document.querySelector("iframe").contentWindow, d = w.document, found = {{}};
  found.wide = d.documentElement.scrollWidth;
  found.over = [...d.querySelectorAll(".told p, .board tbody th, .matrix th")].filter(x => x.scrollWidth > x.clientWidth + 1).length;
  found.images = [...d.images].filter(i => !i.complete || !i.naturalWidth || !i.alt).length;
  found.count = d.images.length;
  found.unnamed = [...d.querySelectorAll("svg")].filter(s => !s.getAttribute("aria-label")).length;
  found.svgs = d.querySelectorAll("svg").length;
  found.loads = w.performance.getEntriesByType("resource").filter(r => !r.name.startsWith("data:")).length;
  found.links = [...d.querySelectorAll("nav a")].filter(a => !d.getElementById(decodeURIComponent(a.hash.slice(1)))).length;
  found.reached = [...d.querySelectorAll(".wide")].filter(x => x.tabIndex !== 0).length;
  const ink = x => w.getComputedStyle(x).fill, axis = d.querySelector("svg text");
  found.ink = ink(axis); found.page = w.getComputedStyle(d.body).color;
  document.getElementById("out").textContent = JSON.stringify(found);
}}</script>"""


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="there is no chromium here")
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_in_a_browser(tmp_path, pair, dark):
    """No error, no request, no sideways scrolling on a phone, every picture named, ink that follows the colour scheme."""
    run = pair[0]
    costs = {"multiplications": 2e6, "p50": 1.0, "p99": 2.0, "memory": 1e4, "parameters": 7, "offline_rewards": "used"}
    (run / prices.COST).write_text(json.dumps(costs))
    film.write_gif([np.full((20, 30, 3), x, np.uint8) for x in (0, 200)], run / page.EPISODE, run / page.STILL)
    out, settings = tmp_path / "r", f"own/file.py:mine:{'optim.lr=0.0003:' * 6}n=4"
    publish.write_report(
        [*pair, make(tmp_path / "l", "a method with quite a long name", QC), make(tmp_path / "s", settings, BEST)],
        out,
        {"Held equal": [{"what": "data", "how": "all the same"}]},
    )
    (out / "check.html").write_text(CHECK.format(name="report.html"))
    scheme = ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if dark else []
    quiet = ["--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--enable-logging=stderr", "--v=0"]
    command = [
        BROWSER,
        "--headless=new",
        *quiet,
        *scheme,
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=5000",
    ]
    ran = subprocess.run(
        [*command, "--dump-dom", (out / "check.html").as_uri()], capture_output=True, text=True, timeout=120
    )
    found = json.loads(re.search(r'<pre id="out">(.*?)</pre>', ran.stdout)[1])
    assert "CONSOLE" not in ran.stderr, ran.stderr
    assert (
        found["wide"] <= 390
        and found["images"] == found["over"] == found["unnamed"] == found["links"] == found["reached"] == 0
    ), found
    assert found["count"] == 1 and found["svgs"] >= 4 and found["loads"] == 0, found
    assert found["ink"] == found["page"] == ("rgb(255, 255, 255)" if dark else "rgb(0, 0, 0)"), found


def test_multiplications():
    """A product of [2, 3] and [3, 4] is 24; a loop counts as often as it runs."""
    a, b = np.ones((2, 3), np.float32), np.ones((3, 4), np.float32)
    assert cost.multiplications(lambda a, b: a @ b, a, b) == 24

    def loop(a, b):
        step = jax.jit(lambda x, _: (x @ b @ b.T, None))
        return jax.lax.scan(step, a, None, length=5)[0]

    assert cost.multiplications(loop, a, b) == 5 * (24 + 24)
    assert cost.multiplications(lambda a, b: jax.lax.cond(a[0, 0] > 0, lambda: a @ b @ b.T, lambda: a), a, b) == 48
    assert cost.multiplications(jax.vmap(lambda a, b: a @ b, (0, None)), a, b) == 24
