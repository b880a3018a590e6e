"""Records -> one self-contained html page, and the same as markdown. Nothing is fetched and no script runs."""

from __future__ import annotations

import base64
import functools
import html
import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qchunk.reporting import executions, plots, prices
from qchunk.reporting import records as tables
from qchunk.reporting.records import Record, Rows
from qchunk.reporting.stats import (
    ALIKE,
    ALONE,
    OPEN,
    SURE,
    Estimate,
    Pair,
    Verdict,
    interquartile_mean,
    interval,
    probability_of_improvement,
    stratified_bootstrap,
)
from qchunk.reporting.stats import verdicts as verdicts_of

EPISODE, STILL = "episode.gif", "episode.png"  # what qchunk compare and render leave in a run's folder

STYLE = """
:root { color-scheme: light dark; --line: #8885; --soft: #8881 }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 0 auto; padding: 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.25rem; margin-top: 2.2rem; border-top: 1px solid var(--line); padding-top: .8rem }
nav a { margin-right: 1rem } a { color: inherit }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .88rem }
td, th { border-bottom: 1px solid var(--line); padding: .3rem .7rem .3rem 0; text-align: left; vertical-align: top }
th { white-space: nowrap } tbody th { font-weight: 600 } caption { text-align: left; padding: .4rem 0 }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(22rem, 100%), 1fr)); gap: 1rem }
.small { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)); gap: 1rem }
.wider { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(34rem, 100%), 1fr)); gap: 1rem }
figure { margin: 0 } figcaption { font-size: .88rem } svg, img { width: 100%; height: auto }
summary { cursor: pointer } :focus-visible { outline: 3px solid #0072b2; outline-offset: 2px }
"""
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,"><style>{style}</style></head>
<body><h1>{title}</h1>
<nav aria-label="sections">{nav}</nav>
{body}</body></html>
"""


def html_page(records: Sequence[Record], rows: Rows, more: dict[str, Rows]) -> str:
    """The page; sections without anything to show are left out."""
    colour = plots.colours([r.label for r in records])
    found = [(title, body) for title, body in _sections(records, rows, more, colour) if body]
    ids = [re.sub(r"\W+", "-", title.lower()).strip("-") for title, _ in found]
    nav = "".join(f'<a href="#{i}">{title}</a>' for i, (title, _) in zip(ids, found, strict=True))
    body = "\n".join(f'<h2 id="{i}">{title}</h2>\n{text}' for i, (title, text) in zip(ids, found, strict=True))
    return PAGE.format(title=html.escape(_title(records)), style=STYLE, nav=nav, body=body)


def _title(records: Sequence[Record]) -> str:
    envs = list(dict.fromkeys(r.env for r in records))
    return f"qchunk report: {', '.join(envs[:3])}{' ...' if len(envs) > 3 else ''}"


def _sections(records: Sequence[Record], rows: Rows, more: dict[str, Rows], colour: dict[str, str]) -> Iterable[tuple]:
    yield "Figures", f"<p>{HOW}</p>" + _table(rows, tables.COLUMNS) + _list(verdicts(rows))
    yield "Over all runs", _aggregates(records, colour)
    for title, found in {"Each against each": pairs(records), **more}.items():
        yield title, _table(found, list(found[0]) if found else ())
    yield "Curves", _curves(records, colour)
    yield "Cost of acting", _costs(records, colour)
    yield "One run, several executions", _executions(records)
    yield "Episodes", _episodes(records)
    yield "Settings", _settings(records)


STARS = {SURE: " *", ALIKE: " (*)"}
PAIR = f"row minus column (* {SURE}, (*) {ALIKE})"
HOW = (
    "Means over seeds. The 95 % interval is Student's t over seeds, and for a success never narrower than that of the pooled episodes "
    "(Clopper and Pearson); differences are paired by seed and interval. It holds where seeds are alike. Where an arm's seeds find "
    'the goal or not, a few can all fall on one side by luck: "whatever the seeds" is the interval that holds then, too, and a '
    f'difference "{SURE}" where that is so whatever the seeds do, "{ALIKE}" where only Student\'s t says so (of a return always). '
    f'Both hold for all differences of a table together (Holm); "{ALONE}" does not. What each of them covers: docs/statistics.md. '
    "Runs with the same seeds were evaluated from the same start states."
)
FEWEST = 10  # seeds that a bootstrap needs: with two it covers 45 % in place of 95


def _table(rows: Rows, columns: Sequence[str]) -> str:
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{html.escape(c)}</th>' for c in columns)
    cells = "".join("<tr>" + "".join(f"<td>{html.escape(row[c])}</td>" for c in columns) + "</tr>" for row in rows)
    return f'<div class="wide" tabindex="0" role="region" aria-label="table"><table><thead><tr>{head}</tr></thead><tbody>{cells}</tbody></table></div>'


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def verdicts(rows: Rows) -> list[str]:
    """What the intervals of the paired differences allow one to say, an environment a line."""
    found = []
    for env, group in itertools.groupby(rows, key=lambda r: r["environment"]):
        members = list(group)
        base, said = members[0]["method"], []
        for verdict, condition in ((SURE, ""), (ALIKE, ", if seeds are alike"), (ALONE, ", by itself only")):
            for word, mark in (("better", "+"), ("worse", "-")):
                shown = [r for r in members if _says(r, verdict) and r["difference to baseline"].startswith(mark)]
                said += [f"{word} than {base}{condition}: {', '.join(r['method'] for r in shown)}"] if shown else []
        open_ = ", ".join(r["method"] for r in members if _says(r, OPEN))
        said += [f"not told apart from {base}: {open_}"] if open_ else []
        if said:
            found.append(f"{env}: {'; '.join(said)}.")
    return found


def _says(row: dict[str, str], verdict: str) -> bool:
    return row["difference to baseline"].endswith(f" {verdict}")


def scores(records: Sequence[Record]) -> dict[str, np.ndarray]:
    """Final figures [S, tasks] of every label that has the same seeds on every environment, where all figures are alike."""
    envs = list(dict.fromkeys(r.env for r in records))
    if len({r.figure for r in records}) > 1 or (records[0].figure != "success" and len(envs) > 1):
        return {}  # returns of several environments have no common scale
    found, base = {}, {r.env: r for r in reversed(records)}  # of each environment the first
    for label in dict.fromkeys(r.label for r in records):
        mine = {r.env: r for r in records if r.label == label and not tables.unpaired(r, base[r.env])}
        if set(mine) == set(envs) and len({r.seeds for r in mine.values()}) == 1:
            found[label] = np.stack([mine[env].final() for env in envs], axis=1)
    return {k: v for k, v in found.items() if np.isfinite(v).all()}


def aggregate(records: Sequence[Record]) -> list[dict[str, str]]:
    """Interquartile mean and probability of improvement over the baseline, with stratified bootstrap intervals."""
    found = scores(records)
    base = next(iter(found), "")
    unit, returns, episodes = records[0].figure, _returns(records), _episodes_of(records)
    rows = []
    for label, x in found.items():
        tasks, both = x.shape[1], np.concatenate([x, found[base]], axis=1) if len(x) == len(found[base]) else None
        better = ""
        if label != base and both is not None and len(x) > 1:
            split = lambda b: probability_of_improvement(b[..., :tasks], b[..., tasks:])  # noqa: E731
            e = _bootstrapped(both, split)
            better = f"{e.mean:.2f}" + (f" [{e.low:.2f}, {e.high:.2f}]" if np.isfinite(e.low) else "")
        bounds = (0.0, 1.0) if unit == "success" else None
        mean = interval(x.mean(axis=1), bounds=bounds, episodes=tasks * episodes[label])
        iqm = _bootstrapped(x)
        shown = {"mean": " ".join(tables.show(mean, unit)), "interquartile mean": " ".join(tables.show(iqm, unit))}
        shown |= (
            {"return, interquartile mean": " ".join(tables.show(returns[label], "return"))} if label in returns else {}
        )
        rows.append({"method": label, "runs": str(x.size), **shown, f"P(better than {base})": better})
    if len(rows) < 2:
        return []
    absent = [label for label in dict.fromkeys(r.label for r in records) if label not in found]
    return rows + [{**dict.fromkeys(rows[0], ""), "method": n, "mean": _why_absent(n, records)} for n in absent]


def _why_absent(label: str, records: Sequence[Record]) -> str:
    """Why a method has no mean over the environments."""
    mine = [r for r in records if r.label == label]
    lost = [f"{r.diverged} on {r.env}" for r in mine if r.diverged]
    return f"none: {'; '.join(lost) or 'other seeds, or not every environment'}"


def _bootstrapped(x: np.ndarray, statistic: Any = interquartile_mean) -> Estimate:
    """A statistic of scores [S, tasks], with an interval from ``FEWEST`` seeds on."""
    return stratified_bootstrap(x, statistic) if len(x) >= FEWEST else Estimate(float(statistic(x)), np.nan, np.nan)


def _episodes_of(records: Sequence[Record]) -> dict[str, int]:
    """By label, the fewest episodes behind a seed's success on an environment; 0 where they are unknown."""
    found: dict[str, int] = {}
    for r in records:
        found[r.label] = min(r.episodes, found.get(r.label, r.episodes))
    return found


def pairs(records: Sequence[Record]) -> list[dict[str, str]]:
    """Paired differences of every two labels: of a seed's mean over the environments, in points of success or in return."""
    found, unit = scores(records), "return" if records[0].figure == "return" else "points"
    if len(found) < 3:
        return []  # two stand beside each other in the figures
    means, episodes = {label: x.mean(axis=1) for label, x in found.items()}, _episodes_of(records)
    tasks = next(iter(found.values())).shape[1]
    alike = {p: tasks * min(episodes[n] for n in p) for p in itertools.combinations(means, 2)}
    alike = {p: n for p, n in alike.items() if len(means[p[0]]) == len(means[p[1]]) > 1}
    if not alike:
        return []  # one seed: no difference has an interval
    said = verdicts_of(
        [Pair(means[late], means[early], records[0].figure == "success", n) for (early, late), n in alike.items()]
    )
    shown = {late_early[::-1]: v for late_early, v in zip(alike, said, strict=True)}
    rows = []
    for one in means:
        row = {PAIR: one}
        for other in list(means)[:-1]:
            row[other] = _starred(shown.get((one, other)), unit) or _starred(shown.get((other, one)), unit, -1)
        rows.append(row)
    return rows[1:]


def _starred(v: Verdict | None, unit: str, sign: int = 1) -> str:
    """A cell of ``pairs``: a difference, or the negative of it."""
    if not v:
        return ""
    e = v.difference if sign > 0 else Estimate(-v.difference.mean, -v.difference.high, -v.difference.low)
    mean, spread = tables.show(e, unit)
    return f"{mean.removesuffix(' points')} {spread}{STARS.get(v.word, '')}"


def _returns(records: Sequence[Record]) -> dict[str, Estimate]:
    """Interquartile mean of the return by label, where it stands beside a success; of one environment, for several have no common scale."""
    if len({r.env for r in records}) > 1 or any(r.figure == "return" for r in records):
        return {}
    found = {r.label: np.asarray(r.evals[-1]["values"].get("return", [np.nan]), float)[:, None] for r in records}
    whole = all(len(x) > 1 and np.isfinite(x).all() for x in found.values())
    return {k: _bootstrapped(x) for k, x in found.items()} if whole else {}


def _aggregates(records: Sequence[Record], colour: dict[str, str]) -> str:
    rows = aggregate(records)
    if not rows:
        return ""
    told = (
        "Over all seeds and environments (Agarwal et al. 2021): the interquartile mean and the probability that a run of the method "
        "beats one of the baseline, each with a stratified percentile bootstrap from ten seeds on (below it is too narrow); "
        "performance profiles."
    )
    text = f"<p>{told}</p>" + _table(rows, list(rows[0]))
    if records[0].figure == "success":
        picture = plots.svg(lambda ax: plots.draw_profile(ax, scores(records), colour), "Performance profiles")
        text += f'<div class="grid"><figure>{picture}<figcaption>Performance profiles</figcaption></figure></div>'
    return text


def _curves(records: Sequence[Record], colour: dict[str, str]) -> str:
    found = []
    online = any(r.online_steps for r in records)
    for env, group in itertools.groupby(records, key=lambda r: r.env):
        members = list(group)
        for axis in ("env_steps", "updates", "minutes") if online else ("updates", "minutes"):
            title = f"{env}: {members[0].figure} against {tables.AXES[axis]}"
            picture = plots.svg(lambda ax: plots.draw_curves(ax, members, axis, colour), html.escape(title))
            found.append(f"<figure>{picture}<figcaption>{html.escape(title)}</figcaption></figure>")
    return f'<p>Thick: mean over seeds; thin: each seed.</p><div class="grid">{"".join(found)}</div>'


def _costs(records: Sequence[Record], colour: dict[str, str]) -> str:
    rows = prices.cost_rows(records)
    if not rows:
        return ""
    found = []
    for env, group in itertools.groupby(records, key=lambda r: r.env):
        members = list(group)
        members = [r for r in members if not prices.damage_of(r)]
        if not any(map(prices.cost_of, members)):
            continue
        for name, unit, scale in (("multiplications", "million multiplications per action", 1e6), ("p50", "ms per decision", 1.0)):  # fmt: skip
            cost = lambda r: prices.cost_of(r)[name] / scale if prices.cost_of(r) else None  # noqa: E731
            title = f"{env}: {members[0].figure} against {unit}"
            picture = plots.svg(lambda ax: plots.draw_compute(ax, members, colour, cost, unit), html.escape(title))
            found.append(
                f"<figure>{picture}<figcaption>{html.escape(title)}; lines span the seeds</figcaption></figure>"
            )
    told = "One decision for one observation, first seed, on the machine that trained; its chunk is played open loop."
    return f'<p>{told}</p>{_table(rows, list(rows[0]))}<div class="grid">{"".join(found)}</div>'


def _executions(records: Sequence[Record]) -> str:
    """What schemes make of the same runs, and a picture of each run: its figure against how often it looks."""
    rows = executions.rows(records)
    if not rows:
        return ""
    found = []
    for r, group in itertools.groupby(executions.played(records), key=lambda x: x[0]):
        points = [(name, executions.looks_per_step(x), executions.values(r, x)) for _, name, x in group]
        draw, title = functools.partial(plots.draw_families, points=points, unit="looks per environment step", figure=r.figure), f"{r.label} on {r.env}"  # fmt: skip
        picture = plots.svg(draw, html.escape(title), beside=True)
        found.append(f"<figure>{picture}<figcaption>{html.escape(title)}; lines span the seeds</figcaption></figure>")
    text = (
        "Nothing is trained again: each scheme plays the same weights from the same start states. A look is a call of the policy; a jump is "
        "the mean change of an action's numbers from one step to the next where a plan begins."
    )
    return f'<p>{text}</p>{_table(rows, list(rows[0]))}<div class="wider">{"".join(found)}</div>'


def is_there(path: Path) -> bool:
    """Whether a file of the run's folder is there, itself: a link would put a file from anywhere into the page."""
    return path.is_file() and not path.is_symlink()


def _uri(path: Path, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _episodes(records: Sequence[Record]) -> str:
    """Animations; whoever asked for less motion sees a still."""
    found = []
    for r in records:
        if is_there(r.folder / EPISODE):
            title = html.escape(f"{r.label} on {r.env}")
            still = ""
            if is_there(r.folder / STILL):
                still = f'<source media="(prefers-reduced-motion: reduce)" srcset="{_uri(r.folder / STILL, "png")}">'
            image = f'<img alt="An episode of {title}" src="{_uri(r.folder / EPISODE, "gif")}">'
            found.append(f"<figure><picture>{still}{image}</picture><figcaption>{title}</figcaption></figure>")
    told = "One episode of each run's first seed, all from the same start."
    if without := ", ".join(f"{r.label} on {r.env}" for r in records if not is_there(r.folder / EPISODE)):
        told += f" None was drawn of {html.escape(without)}."
    return (
        f'<details open><summary>Show or hide</summary><p>{told}</p><div class="small">{"".join(found)}</div></details>'
        if found
        else ""
    )


def _settings(records: Sequence[Record]) -> str:
    """Every field of every run's configuration, and the versions."""
    labels = list(dict.fromkeys(r.label for r in records))
    one = {label: next(r for r in records if r.label == label).about["config"] for label in labels}
    groups = {k: {n: tables.flat(c.get(k) or {}) for n, c in one.items()} for k in ("config", "settings", "online")}
    rows = []
    for group in groups.values():
        for name in dict.fromkeys(n for fields in group.values() for n in fields):
            rows.append({"field": name, **{label: group[label].get(name, "") for label in labels}})
    facts = [_facts(r) for r in records]
    told = _table(
        [
            {"what": k, "which": _told(records, [f.get(k, "") for f in facts])}
            for k in dict.fromkeys(k for f in facts for k in f)
        ],
        ("what", "which"),
    )
    fields = _table(rows, ("field", *labels))
    return f"<details><summary>Every hyper-parameter</summary>{fields}</details><details><summary>Versions and data</summary>{told}</details>"


def _facts(r: Record) -> dict[str, str]:
    """What a run was made with."""
    about, c = r.about, r.about["config"]
    found = {**about.get("versions", {}), "python": about.get("python"), "commit": about.get("git_commit")}
    found |= {"platform": about.get("platform"), "device": c.get("device"), "made": about.get("created", "")[:10]}
    return {k: str(v or "") for k, v in {**found, "data": (c.get("data") or {}).get("fingerprint")}.items()}


def _told(records: Sequence[Record], values: Sequence[str]) -> str:
    """A fact of all runs, or of which runs it holds where they differ; runs without it do not count."""
    labels: dict[str, list[str]] = {}
    for r, value in zip(records, values, strict=True):
        labels.setdefault(value, []).append(r.label)
    labels.pop("", None)
    return (
        next(iter(labels), "")
        if len(labels) < 2
        else "; ".join(f"{v} ({', '.join(dict.fromkeys(names))})" for v, names in labels.items())
    )


def markdown_page(records: Sequence[Record], rows: Rows, more: dict[str, Rows]) -> str:
    """The tables of the page, with the pictures that lie beside it."""
    parts = [f"# {_title(records)}", HOW, tables.markdown(rows), "\n".join(f"- {line}" for line in verdicts(rows))]
    ours = {
        "Over all runs": aggregate(records),
        "Each against each": pairs(records),
        **more,
        "Cost of acting": prices.cost_rows(records),
        "One run, several executions": executions.rows(records),
    }
    for title, found in ours.items():
        if found:
            parts += [f"## {title}", tables.markdown(found, tuple(found[0]))]
    parts += ["## Curves", "![against training](curves.png)", "![against time](clock.png)"]
    return "\n\n".join(p.strip() for p in parts if p) + "\n"
