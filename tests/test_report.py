"""Run folders made here -> table, csv, curves and page."""

from __future__ import annotations

import csv
import html.parser
import io
import subprocess
import sys

import numpy as np
import pytest

from qchunk import report, runs
from qchunk.errors import UserError

CUBE, REACHER = "tabletop/cube-single-task1", "brax/reacher@spring"
BC, QC = [0.1, 0.2, 0.1, 0.2], [0.8, 0.9, 1.0, 0.9]


def make(folder, label, finals, env=CUBE, name="success", *, seed=0, steps=(1000, 2000), finished=True, **config):
    """A run whose evaluations rise to ``finals`` [S]."""
    about = {"algorithm": "qc", "env": env, "seeds": len(finals), "seed": seed, "label": label, **config}
    with runs.create(folder, about) as run:
        for i, step in enumerate(steps, 1):
            run.log("train", step, {"loss": 1.0})
            values = [x * i / len(steps) for x in finals]
            run.log("eval", step, {"return": [-1.0] * len(finals), name: values})
        if finished:
            run.finish({name: finals})
    return folder


@pytest.fixture
def pair(tmp_path):
    return [make(tmp_path / "q", "qc", QC), make(tmp_path / "b", "bc", BC)]


def rows_of(folders):
    return {row["method"]: row for row in report.table(report.load(folders))}


def test_table(pair):
    """Means 0.15 and 0.9; differences 0.7, 0.7, 0.9, 0.7: mean 0.75, half width 3.1824463 * 0.1 / 2."""
    rows = rows_of(pair)
    assert list(rows) == ["bc", "qc"], "the baseline comes first, whatever the order of the folders"
    assert rows["bc"]["mean"] == "15.0 %" and rows["qc"]["mean"] == "90.0 %"
    assert rows["bc"]["95 % interval"] == "[5.8, 24.2]"
    assert rows["qc"]["95 % interval"] == "[77.0, 100.0]", "a share stays a share"
    assert rows["qc"]["difference to baseline"] == "+75.0 points [59.1, 90.9] excludes 0"
    assert rows["bc"]["difference to baseline"] == "(baseline: bc)"
    assert rows["qc"]["updates"] == "2,000" and rows["qc"]["note"] == ""


def test_an_unfinished_run_is_said_so_and_not_compared_at_other_updates(tmp_path, pair):
    late = make(tmp_path / "u", "late", QC, steps=(1000,), finished=False)
    row = rows_of([*pair, late])["late"]
    assert row["note"] == "unfinished: last evaluation" and row["updates"] == "1,000"
    assert row["difference to baseline"] == "not paired: other updates"
    level = make(tmp_path / "v", "level", QC, finished=False)
    assert rows_of([*pair, level])["level"]["difference to baseline"].endswith("excludes 0")


def test_only_equal_seeds_are_paired(tmp_path, pair):
    other = make(tmp_path / "o", "other", QC, seed=4)
    fewer = make(tmp_path / "f", "fewer", QC[:1])
    rows = rows_of([*pair, other, fewer])
    assert (
        rows["other"]["difference to baseline"] == rows["fewer"]["difference to baseline"] == "not paired: other seeds"
    )
    assert rows["fewer"]["95 % interval"] == "one seed: none"


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


def test_labels(tmp_path):
    """The algorithm where there is no label; the folder too where two runs would look alike; a run given twice is one."""
    a, b = make(tmp_path / "a" / "qc", "", QC), make(tmp_path / "b" / "qc", "qc", QC)
    assert list(rows_of([a, a])) == ["qc"]
    assert list(rows_of([a, b])) == ["qc (a/qc)", "qc (b/qc)"]


def test_csv_is_for_programs(tmp_path, pair):
    single = make(tmp_path / "s", "single", [0.5])
    rows = list(csv.DictReader(io.StringIO(report.numbers(report.load([*pair, single])))))
    bc, qc, one = rows
    assert (bc["method"], bc["baseline"], bc["difference"]) == ("bc", "", "")
    assert float(qc["mean"]) == pytest.approx(0.9) and float(qc["difference"]) == pytest.approx(0.75)
    assert float(qc["difference_low"]) == pytest.approx(0.75 - 3.182446305 * 0.05) and qc["updates"] == "2000"
    assert (one["mean"], one["low"], one["unfinished"]) == ("0.5", "", "0")


def test_markdown_keeps_its_columns(tmp_path):
    text = report.markdown(report.table(report.load([make(tmp_path / "x", "a|b", QC)])))
    assert "a\\|b" in text
    assert {line.replace("\\|", "").count("|") for line in text.splitlines()} == {len(report.COLUMNS) + 1}


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
    report.write_report([*pair, odd], out)
    assert sorted(p.name for p in out.iterdir()) == ["clock.png", "curves.png", "report.html", "table.csv", "table.md"]
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    text = (out / "report.html").read_text()
    page = Page(text)
    assert page.loads and all(x.startswith("data:") for x in page.loads), "nothing from the network"
    assert "script" not in page.tags and "b" not in page.tags and "<b>odd</b>" in page.text
    assert "+75.0 points" in page.text and str(tmp_path) not in text
    report.write_report(pair, out)  # again, over the old one


def test_curves_hold_every_run(pair, tmp_path, monkeypatch):
    """One panel per environment, its axes named with units, one legend entry per run."""
    import matplotlib.pyplot as plt

    kept = []
    monkeypatch.setattr(plt, "close", kept.append)
    records = report.load([*pair, make(tmp_path / "r", "qc", [-1.0, -2.0], REACHER, "return")])
    report.curves(records, tmp_path / "c.png")
    (figure,) = kept
    reacher, cube = figure.axes
    assert (reacher.get_title(), cube.get_title()) == (REACHER, CUBE)
    assert cube.get_xlabel() == "updates" and "%" in cube.get_ylabel() and "return" in reacher.get_ylabel()
    assert [t.get_text() for t in cube.get_legend().get_texts()] == ["bc", "qc"]
    line = next(x for x in cube.lines if x.get_label() == "qc")
    np.testing.assert_allclose(line.get_ydata(), [45, 90])
    monkeypatch.undo()
    plt.close(figure)


def test_mistakes(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="not a run"):
        report.load([tmp_path / "empty"])
    with pytest.raises(UserError, match="no evaluation yet"):
        report.load([make(tmp_path / "young", "qc", QC, steps=(), finished=False)])


def test_matplotlib_is_imported_late():
    code = "import sys, qchunk.report; assert not {'jax', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_online_runs_tell_updates_and_environment_steps(tmp_path):
    """1,000 updates, then 500 environment steps; a second run of other steps is not compared."""
    folders = []
    for label, online in (("bc", 500), ("qc", 500), ("longer", 700)):
        about = {"algorithm": "qc", "env": CUBE, "seeds": 2, "seed": 0, "label": label}
        with runs.create(tmp_path / label, about) as run:
            run.log("eval", 1000, {"success": [0.1, 0.2]})
            values = {"success": [0.5, 0.6], "env_steps": [online], "updates": [1100]}
            run.log("eval", 1000 + online, values)
            run.finish({"success": [0.5, 0.6]})
        folders.append(tmp_path / label)
    report.write_report(folders, tmp_path / "r")
    rows = rows_of(folders)
    assert rows["qc"]["updates"] == "1,000 + 500 env steps" and "points" in rows["qc"]["difference to baseline"]
    assert rows["longer"]["difference to baseline"] == "not paired: other updates"
    assert (tmp_path / "r" / "clock.png").stat().st_size > 5000
