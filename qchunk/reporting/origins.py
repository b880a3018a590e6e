"""What runs were made with: code, packages, machine and data; and whether those of one page were made alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qchunk.reporting.records import Record, Rows

NEUTRAL = ("commit", "python", "platform", "made")  # may differ between runs that are compared
OF_ENV = ("objective", "execution", "data")  # may differ between environments


def facts(about: dict[str, Any]) -> dict[str, str]:
    """What one run was made with, by name; "" where it is not known."""
    c = about["config"]
    found = {**about.get("versions", {}), "python": about.get("python"), "commit": about.get("git_commit")}
    found |= {
        "code": about.get("code"),
        "platform": about.get("platform"),
        "device": c.get("device"),
        "precision": c.get("precision"),
        "sampling precision": "as products" if c.get("sampling_precision") == "" else c.get("sampling_precision"),
        "made": about.get("created", "")[:10],
        **_played(c),
    }
    return {k: str(v or "") for k, v in {**found, "data": (c.get("data") or {}).get("fingerprint")}.items()}


def _played(c: dict[str, Any]) -> dict[str, str]:
    """What a run's figures are of besides its policy: what was rewarded, and how plans were played."""
    weights, s = c.get("objective"), c.get("settings") or {}
    rewarded = (
        {}
        if weights is None
        else {"objective": ", ".join(f"{k}={v:g}" for k, v in weights.items()) or "the environment's"}
    )
    delay = f", {s['delay']} steps late" if s.get("delay") else ""
    return rewarded | ({"execution": f"{s['execute']}{delay}"} if s.get("execute") else {})


def _named(records: Sequence[Record]) -> list[tuple[str, dict[str, str]]]:
    """(label, facts) of every folder; with its seeds where one method was trained in several."""
    found = []
    for r in records:
        for about in (r.about, *r.others):
            c = about["config"]
            seeds = f", seeds {c['seed']} to {c['seed'] + c['seeds'] - 1}" if r.others else ""
            found.append((f"{r.label}{seeds}", facts(about)))
    return found


def rows(records: Sequence[Record]) -> Rows:
    """A fact a line: what holds of all runs, or of which where they differ; runs without it do not count."""
    found = _named(records)
    lines = []
    for fact in dict.fromkeys(k for _, known in found for k in known):
        labels: dict[str, list[str]] = {}
        for label, known in found:
            labels.setdefault(known.get(fact, ""), []).append(label)
        labels.pop("", None)
        told = [f"{value} ({', '.join(dict.fromkeys(names))})" for value, names in labels.items()]
        lines.append({"what": fact, "which": next(iter(labels), "") if len(labels) < 2 else "; ".join(told)})
    return lines


def unlike(abouts: Sequence[dict[str, Any]]) -> list[str]:
    """The facts that may move a run's figures and are not the same of all: the code, a package, the device, a precision; and within
    one environment what was rewarded, how plans were played, and the data.

    What a run does not know differs from nothing. The code is compared by its digest, and by commits where a run is older than that.
    """
    found = [facts(about) for about in abouts]
    code = "code" if all(known["code"] for known in found) else "commit"
    names = [k for k in dict.fromkeys(k for known in found for k in known) if k not in (*NEUTRAL, *OF_ENV, "code")]
    differ = [k for k in (code, *names) if len({known.get(k, "") for known in found} - {""}) > 1]
    return ["code" if k == "commit" else k for k in differ] + [k for k in OF_ENV if _differs_within(abouts, k)]


def _differs_within(abouts: Sequence[dict[str, Any]], fact: str) -> bool:
    """Whether two runs of one environment are not alike in a fact."""
    found: dict[str, set[str]] = {}
    for about in abouts:
        found.setdefault(about["config"].get("env", ""), set()).add(facts(about).get(fact, ""))
    return any(len(marks - {""}) > 1 for marks in found.values())


def sentence(records: Sequence[Record]) -> str:
    """For the first screen: what was not the same of all runs; "" where nothing differs."""
    found = unlike([about for r in records for about in (r.about, *r.others)])
    if not found:
        return ""
    return f"These runs were not all made alike ({', '.join(found)}; see Versions and data): a difference may come of that alone."
