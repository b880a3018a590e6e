"""The first screen of a page, its matrix, its colours and its tables for programs: over run folders made here."""

from __future__ import annotations

import csv
import fnmatch
import io
import json
import tomllib
import warnings
from pathlib import Path

import numpy as np
import pytest
from test_report import BC, CUBE, QC, REACHER, make

from qchunk.reporting import against, catches, exports, headline, page, plots, prices, publish, records, stats
from qchunk.runs import run_folder

CUBE2 = "tabletop/cube-single-task2"
CRITIC = {"config": {"critic": {"hidden": [8]}}, "settings": {"episodes": 50}}


@pytest.fixture
def pair(tmp_path):
    return [make(tmp_path / "q", "qc", QC, **CRITIC), make(tmp_path / "b", "bc", BC, settings={"episodes": 50})]


def first_screen(folders):
    """(what is told, the picture) of the first group."""
    title, members = headline.groups(records.load(folders))[0]
    return headline.sentences(title, members), headline.board(title, members)


def test_the_first_screen_says_who_won_by_how_much_and_how_sure(pair):
    told, board = first_screen(pair)
    assert told.may == (
        "qc is first: success 90.0 % [77.0, 100.0]. It is better than bc, by 75.0 points [59.1, 90.9], if seeds are alike."
    )
    assert told.open == (
        "That is of these data and tasks and of this much training; what others would give it does not say. "
        "Still rising in the last 1,000 updates: qc (+45.0) and bc (+7.5)."
    )
    assert [(f, [r.label for r in rows]) for f, rows in board.families] == [
        ("actor and critic", ["qc"]),
        ("cloning", ["bc"]),
    ]
    qc, bc = board.rows
    assert (qc.mean, qc.spread) == ("90.0 %", "[77.0, 100.0]") and qc.at > bc.at and len(qc.seeds) == 4
    assert qc.at == pytest.approx(2 + 96 * 0.9, abs=0.01) and qc.high == 98.0, "the width is 0 to 100 %, with a margin"
    assert board.over == "over seeds" and [text for _, text in board.ticks] == ["0", "20", "40", "60", "80", "100"]


def test_families_are_those_of_what_a_run_has_and_named_in_the_picture(tmp_path, monkeypatch):
    """The best of each decides their order, not each method's own figure: without names that would look unsorted."""
    of = {"vpn": {"model": {"tau": 0.1}}, "qc": {"critic": {"n": 1}}, "mac": {"model": {"n": 1}, "critic": {"n": 1}}}
    of |= {"bc": {}, "dppo": {"rollout": {"n": 1}, "critic": {"n": 1}}}
    means = {"qc": 0.9, "mac": 0.8, "vpn": 0.1, "dppo": 0.7, "bc": 0.2}
    runs = [make(tmp_path / n, n, [x] * 3, config=of[n], settings={"episodes": 50}) for n, x in means.items()]
    board = first_screen(runs)[1]
    assert [(f, [r.label for r in rows]) for f, rows in board.families] == [
        ("actor and critic", ["qc"]),
        ("with a model", ["mac", "vpn"]),
        ("policy gradients", ["dppo"]),
        ("cloning", ["bc"]),
    ]
    kept = []
    monkeypatch.setattr(plots, "keep", lambda figure, path, kinds: kept.append(figure))
    plots.headline(board, dict.fromkeys(means, "k"), tmp_path / "headline")
    names = {text.get_text(): text.get_position()[1] for text in kept[0].axes[0].texts}
    assert names == {"actor and critic": 0, "with a model": 1, "policy gradients": 3, "cloning": 4}


def test_long_names_of_arms_are_broken_in_pictures_and_leave_them_room(tmp_path, monkeypatch):
    label, kept = "sear:critic.network=masked:critic.members=2:act-horizon=1", []
    monkeypatch.setattr(plots, "keep", lambda figure, path, kinds: kept.append(figure))
    plots.curves(records.load([make(tmp_path / "s", label, QC)]), tmp_path / "curves")
    (text,) = kept[0].axes[0].get_legend().get_texts()
    lines = text.get_text().split("\n")
    assert "".join(lines) == label and len(lines) > 1 and max(map(len, lines)) <= 28


def test_what_is_not_told_apart_has_its_seeds(tmp_path, pair):
    """As many as the paired t test needs among three differences, which is more than there are."""
    near = make(tmp_path / "n", "near", [0.9, 0.8, 0.9, 0.95], steps=(2000,), **CRITIC)
    told, _ = first_screen([*pair, near])
    needed = stats.seeds_needed(QC, [0.9, 0.8, 0.9, 0.95], 50, 1 - 0.05 / 3)
    assert needed > 100 and f"at the spread seen: near (about {float(f'{needed:.2g}'):,.0f})." in told.open
    same = make(tmp_path / "s", "same", QC[::-1], steps=(2000,), **CRITIC)
    told, _ = first_screen([pair[0], same])
    assert "share" not in told.may and told.may.startswith("qc and same are first")
    assert "which is best may not be concluded" in told.may and "that are equal: qc and same" in told.open
    other = make(tmp_path / "o", "other", QC, seed=7, **CRITIC)
    assert "Not compared with these" in first_screen([*pair, other])[0].open


def test_where_the_baseline_alone_has_more_seeds_the_others_are_compared(tmp_path, pair):
    """As while seeds are added; where another has the baseline's, it is with the baseline that one is compared."""
    bc = {"settings": {"episodes": 50}}
    more = [make(tmp_path / m, m, x, seed=len(QC), **c) for m, x, c in (("bc", BC, bc), ("qc", QC, CRITIC))]
    near = [make(tmp_path / m, m, x, **CRITIC) for m, x in (("near", [0.4] * 4), ("far", [0.3] * 4))]
    told, _ = first_screen([*pair, more[0], *near])
    assert told.may.startswith("qc is first: success 90.0 %") and "better than near and far" in told.may
    assert "or no figure): bc." in told.open
    told, _ = first_screen([*pair, *more, *near])
    assert "better than bc, by 75.0 points" in told.may and "or no figure): near and far." in told.open


def test_one_seed_shows_intervals_over_its_episodes_and_says_so(tmp_path):
    folders = [
        make(tmp_path / m, m, [x], settings={"episodes": 50}) for m, x in (("bc", 0.1), ("qc", 0.9), ("near", 0.8))
    ]
    told, board = first_screen(folders)
    low, high = stats.clopper_pearson(0.9, 50)
    assert f"[{100 * low:.1f}, {100 * high:.1f}] of the 50 episodes of one seed" in told.may
    assert "As a policy (of methods one seed says nothing) it is better than bc, by 80.0 points" in told.may
    assert "near (about" in told.open and "train four or more" in told.open
    assert "one seed" in board.over and all(r.low is not None and not r.seeds for r in board.rows)
    found = records.load(folders)
    (cell,) = [r["95 % interval"] for r in records.table(found) if r["method"] == "qc"]
    assert cell == f"[{100 * low:.1f}, {100 * high:.1f}] of its episodes alone"
    square = dict(against.matrix(against.contest(found)).rows)["qc"]
    assert square[-1].word == against.POLICIES and square[-1].apart and not square[1].apart
    assert against.pairs(found) == [], "a table of methods has nothing to say"
    alone, among = ([v.word for v in against.over_episodes([(0.72, 0.5), *more], 50)] for more in ([], [(0.5, 0.5)]))
    assert (alone, among) == ([against.POLICIES], [stats.OPEN] * 2), "0.04 of one difference is 0.08 of two"
    text = page.html_page(found, records.table(found), {})
    assert "over the 50 episodes of one seed" in text and "Over all runs" not in text and "too few seeds" not in text
    unknown = [make(tmp_path / f"u{m}", m, [x]) for m, x in (("bc", 0.1), ("qc", 0.9))]
    assert "whose episodes nobody counted" in first_screen(unknown)[0].open
    assert against.matrix(against.contest(records.load(unknown))) is None


def test_over_several_environments_their_mean_is_first(tmp_path, pair):
    second = [make(tmp_path / f"2{m}", m, x, CUBE2, settings={"episodes": 50}) for m, x in (("bc", BC), ("qc", BC))]
    found = records.load([*pair, *second])
    titles = [title for title, _ in headline.groups(found)]
    assert titles == ["mean over 2 environments", CUBE, CUBE2]
    told, board = first_screen([*pair, *second])
    assert "qc is first: success 52.5 %" in told.may and [r.label for r in board.rows] == ["qc", "bc"]
    text = page.html_page(found, records.table(found), {})
    assert "Each environment" in text and text.index("Each environment") > text.index('class="may"')
    half = make(tmp_path / "h", "half", QC, finished=False)
    row = first_screen([*pair, *second, half])[1].named["half"]
    assert row.at is None and row.note == "none: other seeds, or not every environment"
    mixed = records.load([*pair, make(tmp_path / "r", "qc", [-1.0, -2.0], REACHER, "return")])
    assert [title for title, _ in headline.groups(mixed)] == [REACHER, CUBE], "a success and a return have no mean"


def test_who_rises_is_told_with_what_it_would_take(tmp_path):
    """At 2,000 of its updates late has 60 % and gained 30 in the last 1,000; the leader stands still 20 points above."""
    late = make(tmp_path / "l", "late", [0.6, 0.62, 0.58, 0.6])
    flat = make(tmp_path / "f", "flat", [0.8, 0.82, 0.78, 0.8], steps=(2000,))
    told, _ = first_screen([late, flat])
    assert "late (+30.0); at that pace late would be level with flat after about 670 more" in told.open
    assert headline.rise(records.load([flat])[0]) is None


def test_where_nothing_succeeds_nobody_is_first(tmp_path):
    records_ = records.load([make(tmp_path / n, n, [0.0, 0.0, 0.0]) for n in ("bc", "qc")])
    told = headline.sentences(*headline.groups(records_)[0])
    assert told.may == "Nothing succeeded: bc and qc are all at 0.0 %. Which is best may not be concluded."
    assert told.open.startswith("More training")


def test_a_broken_arm_is_shown_as_broken(tmp_path, pair):
    lost = make(tmp_path / "n", "lost", [np.nan] * 4)
    publish.write_report([*pair, lost], tmp_path / "r", failed=[(CUBE, "<i>bad", "ValueError: no")])
    text = (tmp_path / "r" / "report.html").read_text()
    assert "<strong>&lt;i&gt;bad</strong> on tabletop/cube-single-task1: failed: ValueError: no" in text
    row = next(r for r in headline.board(CUBE, records.load([*pair, lost])).rows if r.label == "lost")
    assert row.at is None and row.mean == "none" and row.note
    assert json.loads((tmp_path / "r" / "table.json").read_text())["runs"][-1]["failed"] == "ValueError: no"
    assert "no figure" in (tmp_path / "r" / "headline.svg").read_text(), "a row without a dot says why"
    assert r"bad & -- & no figure & -- & -- \\" in (tmp_path / "r" / "table.tex").read_text()


def test_a_run_that_cannot_be_read_is_in_the_tables_of_numbers(tmp_path, pair, capsys):
    (pair[0] / "metrics.jsonl").write_text("{")
    publish.publish(pair, tmp_path / "r", as_json=True)
    said, kept = json.loads(capsys.readouterr().out), json.loads((tmp_path / "r" / "table.json").read_text())["runs"]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "r" / "table.csv").read_text())))
    for found in (said, kept, rows):
        assert [(row["method"], row["failed"][:8]) for row in found] == [("bc", ""), (pair[0].name, "damaged:")]


def test_a_run_that_has_only_begun_is_not_called_damaged(tmp_path, pair):
    """Beside others that are further, such as while a comparison trains; one that says it has ended is."""
    young = make(tmp_path / "y", "young", QC, steps=(), finished=False)
    ended = make(tmp_path / "e", "ended", QC, steps=())
    found, begun = records.load_whole([*pair, young, ended])
    notes = {row["method"]: row["note"] for row in records.damaged_rows(begun)}
    assert len(found) == 2 and notes == {
        "y": f"unfinished: {young} has no evaluation yet",
        "e": f"damaged: {ended} has no evaluation yet",
    }


def test_a_table_is_without_what_it_does_not_say():
    rows = [{"method": m, "seeds": "4", "mean": m * 2, "note": ""} for m in "ab"]
    assert page.grid(rows) == page.Grid(["method", "mean"], [["a", "aa"], ["b", "bb"]], [("seeds", "4")])
    assert page.grid(rows[:1]).columns == ["method", "seeds", "mean"], "one row has nothing in common"
    assert page.grid([]) is None


def test_sections_without_content_vanish_and_settings_are_folded(pair):
    found = records.load(pair)
    text = page.html_page(found, records.table(found), {"Held equal": [], "Tuning": [{"arm": "qc", "runs": "3"}]})
    for title, there in (("Held equal", 0), ("Cost of acting", 0), ("Episodes", 0), ("Curves", 1), ("Tuning", 1)):
        assert (f">{title}</h2>" in text) == bool(there), title
    for title in ("Tuning", "Every hyper-parameter", "Versions and data"):
        at = text.index(f">{title}</h2>")
        assert text.rindex("<details", 0, at) > text.rindex(
            "</details>" if "</details>" in text[:at] else "<html", 0, at
        )
    order = [text.index(f">{t}</h2>") for t in ("Curves", "Each against each", "Figures", "Every hyper-parameter")]
    assert order == sorted(order) and text.index('class="may"') < order[0]


def test_a_method_keeps_its_colour_from_page_to_page():
    pages = [["qc", "mine.py:mine"], ["bc", "mine.py:mine", "dsrl"], ["mine.py:mine", "qc", "ppo", "qam-e"]]
    found = [plots.colours(labels) for labels in pages]
    assert len({c["mine.py:mine"] for c in found}) == 1 and found[0]["qc"] == found[2]["qc"]
    assert len(set(plots.colours(plots.OWN).values())) == len(plots.OWN)
    many = plots.colours([*plots.OWN, *(f"arm{i}" for i in range(len(plots.MORE)))])
    assert len(set(many.values())) == len(many), "those of one page differ, as long as there are any"


def online_pair(tmp_path):
    """1,100 updates and 500 environment steps each."""
    from qchunk.runs import run_folder

    for label, finals in (("bc", [0.1, 0.2]), ("q_c & co", [0.5, 0.25])):
        about = {"algorithm": "qc", "env": CUBE, "seeds": 2, "seed": 3, "label": label, "settings": {"episodes": 8}}
        with run_folder.create(tmp_path / label, about) as run:
            run.log("eval", 1000, {"success": [0.1, 0.2], "return": [-3.0, -3.0]})
            run.log("eval", 1500, {"success": finals, "return": [-1.0, -2.0], "env_steps": [500], "updates": [1100]})
            run.finish({"success": finals})
        yield tmp_path / label


def test_tables_for_programs_have_numbers(tmp_path):
    """Updates and environment steps apart, every seed, every difference; null where there is none."""
    publish.write_report(list(online_pair(tmp_path)), tmp_path / "r")
    made = json.loads((tmp_path / "r" / "table.json").read_text())
    bc, qc = made["runs"]
    assert (qc["updates"], qc["env_steps"], qc["mean"], qc["seeds"]) == (1100, 500, 0.375, 2)
    assert qc["difference"] == pytest.approx(0.225) and qc["difference_low"] < 0 < qc["difference_high"]
    assert bc["difference"] is None and bc["milliseconds"] is None and qc["failed"] == ""
    assert [(s["method"], s["seed"], s["success"], s["return"]) for s in made["seeds"]][2:] == [
        ("q_c & co", 3, 0.5, -1.0),
        ("q_c & co", 4, 0.25, -2.0),
    ]
    (gap,) = made["differences"]
    assert (gap["method"], gap["minus"], gap["verdict"], gap["over"]) == ("q_c & co", "bc", "includes 0", "seeds")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "r" / "table.csv").read_text())))
    assert (rows[1]["updates"], rows[1]["env_steps"], rows[0]["difference"]) == ("1100", "500", "")
    seeds = list(csv.DictReader(io.StringIO((tmp_path / "r" / "seeds.csv").read_text())))
    assert [float(s["success"]) for s in seeds] == [0.1, 0.2, 0.5, 0.25] and seeds[0]["episodes"] == "8"


def test_seeds_from_several_folders_are_one_run(tmp_path, pair):
    """In the order of the seeds; not where a seed is there twice, or a setting or the evaluations differ."""
    more = make(tmp_path / "more", "qc", [0.5, 0.7], seed=4, **CRITIC)
    found = {r.label: r for r in records.load([more, *pair])}
    assert found["qc"].seeds == (0, 1, 2, 3, 4, 5) and found["qc"].final().tolist() == [*QC, 0.5, 0.7]
    assert found["qc"].folder == pair[0] and found["qc"].values().shape == (2, 6)
    first = make(tmp_path / "first" / "qc", "qc", QC, settings={"seeds": 4, "seed": 0, "episodes": 50})
    shown = next(page.settings(records.load([first]))).grid
    assert [row[0] for row in shown.rows] == ["episodes"], "the settings of one folder say nothing of all seeds"
    other = {"config": {"critic": {"hidden": [16]}}, "settings": {"episodes": 50}}
    apart = [
        make(tmp_path / "a" / "qc", "qc", QC, seed=2, **CRITIC),
        make(tmp_path / "b" / "qc", "qc", QC, seed=4, **other),
    ]
    apart.append(make(tmp_path / "c" / "qc", "qc", QC, seed=9, steps=(500, 2000), **CRITIC))
    for folder in apart:
        assert len(records.load([pair[0], folder])) == 2, folder


def test_which_seeds_of_several_folders_have_diverged_is_said(tmp_path):
    """Those of a folder that has lost all are not all; what all folders say is said once."""
    folders = [make(tmp_path / str(seed), "bc", [0.5, 0.5], seed=seed, **CRITIC) for seed in (0, 2)]

    def note(*lost):
        for folder in lost:
            with open(folder / "metrics.jsonl", "a") as f:
                line = {"kind": "diverged", "step": 7, "seconds": 1.0}
                f.write(json.dumps({**line, "values": {"diverged": [1.0, 1.0], "diverged_at": [7.0]}}) + "\n")
        return records.load(folders)[0].diverged

    assert note(folders[0]) == "diverged at update 7 (seed 0, 1)"
    assert note(folders[1]) == "diverged at update 7"


def test_a_table_for_papers(tmp_path):
    """booktabs, and labels letter by letter; as many cells in every line as in its head."""
    publish.write_report(list(online_pair(tmp_path)), tmp_path / "r")
    text = (tmp_path / "r" / "table.tex").read_text()
    for part in (
        r"\begin{tabular}{lrrrr}",
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
        r"q\_c \& co & 2 & 37.5 \% & {[}",
    ):
        assert part in text, text
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(lines) == 3 and {line.replace(r"\&", "").count("&") for line in lines} == {4}


def test_the_catch_of_each(tmp_path, pair):
    """Spread, roughness and means worked by hand; the best first; what nobody measured is blank, and a page without any has no such section."""
    costs = {"multiplications": 1, "p99": 1, "parameters": 1, "offline_rewards": "used", "memory": 3000.0}
    for folder, p50, more in zip(
        pair, (4.0, 0.5), ({"error": [0.1, 0.2, None, 0.3], "energy_distance": [1, 1, 3, 3]}, {}), strict=True
    ):
        (folder / prices.COST).write_text(json.dumps({**costs, "p50": p50, **more}))
        with run_folder.open_run(folder) as run:
            # plans of 4 steps in episodes of 8: 2 jumps of 0.4 and 6 changes of 0.1 a step
            played = {"jump": [0.4] * 4, "change": [0.1] * 4, "plans": [2.0] * 4, "length": [8.0] * 4}
            run.log("eval", 3000, {"success": QC if folder.name == "q" else BC, "return": [0.0] * 4, **played})
    found = page.catch_rows(records.load(pair))
    assert [row["method"] for row in found] == ["qc", "bc"]
    assert found[0] == {
        "environment": CUBE, "method": "qc", "success": "90.0 % [77.0, 100.0]", "spread over seeds": "8.2", "error of an action": "0.200",
        "distance from the data": "2.000", "change of actions": "0.175", "decision, ms": "4.00", "its memory, kB": "3", "training, min": "0.0",
    }  # fmt: skip
    assert found[1]["error of an action"] == "" and found[1]["change of actions"] == "0.175"
    publish.write_report(pair, tmp_path / "r")
    text = (tmp_path / "r" / "report.html").read_text()
    assert "The catch of each" in text and (tmp_path / "r" / "catches.pdf").exists()
    for folder in pair:
        (folder / prices.COST).unlink()
    assert "The catch of each" not in page.html_page(records.load(pair), [], {})


def test_numbers_of_a_logarithmic_axis():
    """Few and round over any range, and no two of them so near that they overlap."""
    for low, high in ((0.076, 0.135), (0.2, 0.7), (0.9, 1.1), (0.5, 40.0), (0.7, 7000.0), (1e-3, 1e9)):
        found = catches.log_ticks(low, high)
        gaps = np.diff(np.log(found)) / np.log(high / low)
        assert 2 <= len(found) <= 5 and low <= found[0] and found[-1] <= high and gaps.min() > 0.1, (low, high, found)


def test_templates_are_in_the_wheel():
    root = Path(__file__).parents[1]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][
        "qchunk.reporting"
    ]
    folder = root / "qchunk" / "reporting"
    there = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")]
    assert there and all(any(fnmatch.fnmatch(name, p) for p in patterns) for name in there), there


def test_seeds_needed():
    """Of differences with mean 0.5 and deviation 0.5: 34 pairs have a power of 80 % at 5 % (Cohen's tables, d = 0.5)."""
    d = np.array([0.0, 1.0, 0.0, 1.0]) * np.sqrt(3) / 2 + 0.5 - np.sqrt(3) / 4
    assert d.mean() == pytest.approx(0.5) and d.std(ddof=1) == pytest.approx(0.5)
    assert stats.seeds_needed(d, np.zeros(4)) == 10, "d = 1"
    assert stats.seeds_needed(d - 0.25, np.zeros(4)) == 34, "d = 0.5"
    assert stats.seeds_needed(d, d) is None and stats.seeds_needed([1.0], [0.0]) is None
    assert stats.seeds_needed([0.0, 1e-4], [0.0, 0.0], level=0.999) > 10
    assert stats.seeds_needed([0.5, 0.5], [0.4, 0.4], episodes=1) == 385, "two proportions, one episode a seed"
    rng = np.random.default_rng(0)
    power = np.mean([stats.excludes_zero(stats.interval(rng.normal(0.5, 0.5, 10))) for _ in range(2000)])
    assert power == pytest.approx(0.8, abs=0.04)


def test_an_interval_over_tasks_holds_both_sources():
    """Tasks that differ much: wider than over seeds; tasks alike: never narrower than that."""
    apart = np.array([[0.1, 0.9, 0.5], [0.12, 0.88, 0.52]])
    seeds, tasks = stats.interval(apart.mean(axis=1)), stats.interval(apart.mean(axis=0))
    both = stats.interval_over_tasks(apart)
    assert (both.low, both.high) == (min(seeds.low, tasks.low), max(seeds.high, tasks.high)) and both.low == tasks.low
    alike = np.array([[0.1, 0.1001], [0.9, 0.9]])
    assert stats.interval_over_tasks(alike) == stats.interval(alike.mean(axis=1))
    assert np.isnan(stats.interval_over_tasks(apart[:, :1]).low), "one task is no sample of tasks"
    assert exports.as_csv([]) == "\n"


def test_a_critic_without_a_correlation_is_told_so(tmp_path):
    """That of a seed that has diverged: null in metrics.jsonl."""
    folder = make(tmp_path / "r", "qc", QC, finished=False)
    with run_folder.open_run(folder) as run:
        run.log("eval", 3000, {"success": QC, "return": QC, "q_correlation": [np.nan, 0.5, 0.5, 0.5]})
    (row,) = page.calibration(records.load([folder]))
    assert row["correlation"] == "not finite, 0.50, 0.50, 0.50"


def test_where_success_leaves_open_who_is_best_the_page_says_it_by_return(tmp_path, monkeypatch):
    """Two methods that always succeed, one of them in fewer steps, and one that never does."""
    earned = {"slow": [-50.0, -51.0, -49.0, -50.0], "fast": [-20.0, -21.0, -19.0, -20.0], "lost": [-200.0] * 4}
    shares = {"slow": [1.0] * 4, "fast": [1.0] * 4, "lost": [0.0] * 4}
    folders = [make(tmp_path / n, n, shares[n], returns=earned[n], **CRITIC) for n in earned]
    found = records.load(folders)
    told, board = first_screen(folders)
    assert told.may.startswith("slow and fast are first: success 100.0 % [98.2, 100.0].")
    assert [row.label for row in board.rows] == ["fast", "slow", "lost"], "equal ones by their returns"
    assert board.beside.unit == "return" and board.beside.named["slow"].mean == "-50.00"
    by_return = headline.sentences(CUBE, headline.beside(found)).may
    assert by_return.startswith(
        "fast is first: return -20.00 [-21.30, -18.70]. It is better than slow and lost, by 30.00"
    )
    text = page.html_page(found, records.table(found), {})
    assert by_return in text and f"Each against each: {CUBE}, by return" in text and "return against updates" in text
    assert "Each against each, by return" in page.markdown_page(found, records.table(found), {})
    kept = []
    monkeypatch.setattr(plots, "keep", lambda figure, path, kinds: kept.append(figure))
    plots.headline(board, dict.fromkeys(earned, "k"), tmp_path / "headline")
    assert [ax.get_xlabel() for ax in kept[0].axes] == ["success (%)", "return"]
    assert not headline.beside(records.load([folders[0], folders[2]])), "success tells these apart"
    same = [make(tmp_path / f"{n}-", n, shares[n], **CRITIC) for n in ("slow", "fast")]
    assert not headline.beside(records.load(same)), "their returns are alike"


def test_the_names_of_many_methods_stand_beside_every_drawing(tmp_path):
    """In it they would hide the curves, or leave them no room, of which matplotlib warns."""
    found = records.load([make(tmp_path / n, n, QC) for n in [f"a-rather-long-name-{i}" for i in range(40)]])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert "Performance profiles" in page.html_page(found, [], {})
