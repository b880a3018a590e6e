"""Files that somebody edited, damaged or made to do harm: each reader answers with what it holds or with one line."""

from __future__ import annotations

import io
import json
import os
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiers import slow_but

from qchunk.data import formats, npz, ogbench_files
from qchunk.reporting import exports, headline, page, prices, publish, records
from qchunk.runs import checkpoint, run_folder
from qchunk.system import files, schema
from qchunk.system.errors import UserError

ENV = "tabletop/cube-single-task1"
HUGE = ("9" * 400, "1e999", "[" * 100_000, '{"a":' * 60 + "1" + "}" * 60)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
DRAWN = set[str]()  # what pictures have shown: most edits change none, and a picture takes half a second
FUZZ = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def make(folder, label="qc"):
    """A finished run's folder of two seeds; "bc" is the baseline."""
    config = {
        "algorithm": label,
        "label": label,
        "env": ENV,
        "seed": 0,
        "seeds": 2,
        "config": {},
        "settings": {},
        "data": None,
    }
    with run_folder.create(folder, config) as run:
        for step in (1, 2):
            run.log("eval", step, {"success": [0.5, 1.0], "return": [-1.0, -2.0]})
        run.finish({"success": [0.5, 1.0]})
    cost = {
        "multiplications": 1e3,
        "p50": 1.0,
        "p99": 2.0,
        "memory": 10.0,
        "parameters": 5,
        "offline_rewards": "used",
        "error": [0.1, 0.2],
        "energy_distance": [1.0, None],
    }
    (folder / prices.COST).write_text(json.dumps(cost))
    return folder


def places(value: Any, at: tuple = ()) -> list[tuple]:
    """The path to every part of a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(p for k, v in inside for p in places(v, (*at, k)))]


def edited(value: Any, at: tuple, new: Any) -> Any:
    """The value with another part at a path; ``...`` takes it out."""
    if not at:
        return None if new is ... else new
    copy = value.copy()
    if new is ... and len(at) == 1:
        del copy[at[0]]
    else:
        copy[at[0]] = edited(value[at[0]], at[1:], new)
    return copy


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return make(root / "bc", "bc"), make(root / "qc")


@pytest.mark.parametrize("name", slow_but(["config.json"], ["config.json", "metrics.jsonl", "cost.json"]))
@FUZZ
@given(data=st.data())
def test_a_report_outlives_any_edit_of_a_runs_files(name, pair, monkeypatch, data):
    """Any part replaced by anything, or taken out: the other run is in the table; this one is, or "damaged" stands there."""
    file = pair[1] / name
    kept = file.read_text()
    lines = [json.loads(line) for line in kept.splitlines()] if name == "metrics.jsonl" else [json.loads(kept)]
    i = data.draw(st.integers(0, len(lines) - 1))
    at = data.draw(st.sampled_from(places(lines[i])))
    lines[i] = edited(lines[i], at, data.draw(VALUES | st.just(...)))
    texts = [json.dumps(line) for line in lines]
    if data.draw(st.integers(0, 9)) == 0:
        texts[i] = data.draw(st.sampled_from(HUGE))
    try:
        file.write_text("\n".join(texts) + "\n" * (name == "metrics.jsonl"))
        found, damaged = records.load_whole(pair)
        rows = [*records.table(found), *records.damaged_rows(damaged)]
        assert sum(r["mean"] == "75.0 %" for r in rows) >= 1 and len(rows) == 2
        json.loads(exports.as_json(found))
        if name == "cost.json":
            picture = data.draw(st.sampled_from(page.PRICES))  # one of them, by chance
            shows = repr((picture, [(r.label, *prices.measured(r)) for r in found]))
            if shows not in DRAWN:
                with monkeypatch.context() as m:
                    m.setattr(page, "PRICES", [picture])
                    page.costs(found, dict.fromkeys((r.label for r in found), "C0"))
                DRAWN.add(shows)
            page.catch_rows(found)
        else:
            list(page.settings(found))
        boards = [headline.board(*group) for group in headline.groups(found)]
        assert {row.label for b in boards for row in b.rows} == {r.label for r in found}
        assert all(headline.sentences(*group).may for group in headline.groups(found))
        prices.cost_rows(found)
    finally:
        file.write_text(kept)


def test_a_report_shows_the_damage_in_its_row(pair, tmp_path):
    """The whole page, once."""
    bad = make(tmp_path / "bad")
    (bad / "metrics.jsonl").write_text('{"kind": "eval", "step": "two", "seconds": 1, "values": {}}\n')
    rows = publish.write_report([*pair, bad], tmp_path / "r")
    assert [r["method"] for r in rows] == ["bc", "qc", "bad"]
    assert "damaged: line 1 of" in rows[2]["note"] and "step is 'two', not a whole number" in rows[2]["note"]
    assert "step is &#39;two&#39;" in (tmp_path / "r" / "report.html").read_text()
    with pytest.raises(UserError, match="is not a run"):
        publish.write_report([*pair, tmp_path / "nowhere"], tmp_path / "r")


@FUZZ
@given(value=VALUES)
def test_a_schema_accepts_what_it_says_and_nothing_else(value):
    hint = dict[str, int | list[float | None]]
    fits = isinstance(value, dict) and all(
        (type(x) is int and abs(x) <= 2**53)
        or (
            isinstance(x, list)
            and all(y is None or type(y) is float or (type(y) is int and abs(y) <= 2**53) for y in x)
        )
        for x in value.values()
    )
    assert (schema.mismatch(value, hint) == "") == fits


@pytest.mark.parametrize("text", HUGE)
def test_huge_and_deep_files_are_one_line(text, tmp_path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match="is damaged: "):
        schema.read(tmp_path / "x.json", dict[str, int], "remove it")


def sealed(path, change):
    """A manifest changed and sealed again."""
    file = path / checkpoint.MANIFEST
    body = json.loads(file.read_text())
    body = change({k: v for k, v in body.items() if k != "sha256"})
    body["sha256"] = checkpoint._seal(body)
    file.write_text(json.dumps(body))


TREE = {"a": np.arange(3.0, dtype=np.float32), "b": 7}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_manifest_sealed_again_with_pieces_missing(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    path = checkpoint.save(folder, 1, TREE, {"env": "x"})
    assert np.array_equal(checkpoint.restore(folder, TREE)[0]["a"], TREE["a"])
    body = json.loads((path / checkpoint.MANIFEST).read_text())
    at = data.draw(st.sampled_from([p for p in places({k: v for k, v in body.items() if k != "sha256"}) if p]))
    new = data.draw(VALUES | st.just(...))
    sealed(path, lambda b: edited(b, at, new))
    try:
        tree, _ = checkpoint.restore(folder, TREE)
    except UserError as e:
        assert "checkpoint" in str(e)
    else:
        assert np.array_equal(tree["a"], TREE["a"])


def test_a_linked_episode_stays_out_of_the_page(pair, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"GIF89a secret")
    run = make(tmp_path / "linked")
    os.symlink(secret, run / page.EPISODE)
    assert page.episodes(records.load([run])) == []
    (run / page.EPISODE).unlink()
    (run / page.EPISODE).write_bytes(b"GIF89a")
    (shown,) = page.episodes(records.load([run]))
    assert shown.moving.startswith("data:image/gif") and not shown.still


ROWS = 40


def arrays():
    about = json.dumps({"format": "qchunk-data", "version": 1})
    end = np.arange(ROWS) % 10 == 9
    plain = {"obs": np.zeros((ROWS, 3), np.float32), "action": np.zeros((ROWS, 2), np.float32)}
    return {
        **plain,
        "reward": np.zeros(ROWS, np.float32),
        "terminal": ~end & False,
        "end": end,
        "about": np.asarray(about),
    }


def header(shape, descr="<f4"):
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def written(path, entries, how=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", how) as z:
        for name, data in entries.items():
            z.writestr(name, data)
    return path


def entries():
    found = {}
    for name, x in arrays().items():
        buffer = io.BytesIO()
        np.save(buffer, x)
        found[f"{name}.npy"] = buffer.getvalue()
    return found


HOSTILE = {
    "1e13 numbers": lambda p: written(p, {**entries(), "obs.npy": header((10**13, 3))}),
    "1e30 numbers": lambda p: written(p, {**entries(), "obs.npy": header((10**30, 3))}),
    "negative": lambda p: written(p, {**entries(), "obs.npy": header((-1, 3))}),
    "an object": lambda p: written(p, {**entries(), "obs.npy": header((1,), "|O") + b"x" * 8}),
    "no header": lambda p: written(p, {**entries(), "obs.npy": b"NUMPY"}),
    "a short header": lambda p: written(p, {**entries(), "obs.npy": header((ROWS, 3))[:20]}),
    "a version": lambda p: written(p, {**entries(), "obs.npy": b"\x93NUMPY\x09\x00" + b"x" * 99}),
    "lzma": lambda p: written(p, entries(), zipfile.ZIP_LZMA).write_bytes(
        broken(written(p, entries(), zipfile.ZIP_LZMA))
    ),
    "empty": lambda p: p.write_bytes(b""),
    "one array": lambda p: np.save(p.open("wb"), np.zeros(3)),
    "text": lambda p: p.write_text("hello"),
}


def broken(path):
    data = bytearray(path.read_bytes())
    data[100:160] = b"\xff" * 60
    return bytes(data)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_data_file_is_one_line(name, tmp_path):
    path = tmp_path / "x.npz"
    HOSTILE[name](path)
    with pytest.raises(UserError, match="x.npz"):
        formats.load(path)
    assert ogbench_files.is_one(path) in (True, False)
    with pytest.raises(UserError, match="x.npz"):
        ogbench_files.load(path)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    """64 MiB of zeros in 64 KiB, where 16 MiB are free: nothing of them is allocated."""
    data = header((1 << 22, 4)) + bytes(1 << 26)
    path = written(tmp_path / "x.npz", {**entries(), "obs.npy": data})
    assert path.stat().st_size < 1 << 17
    monkeypatch.setattr(npz, "memory_free", lambda: float(1 << 24))
    tracemalloc.start()
    with pytest.raises(UserError, match=r"x\.npz: its arrays need 0\.1 GiB"):
        formats.load(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 1 << 23


@FUZZ
@given(cut=st.integers(0, 3000), at=st.integers(0, 3000), with_=st.binary(min_size=1, max_size=8))
def test_bytes_changed_anywhere_in_a_data_file(cut, at, with_, tmp_path):
    """What is accepted is what was written; anything else is a line."""
    path = tmp_path / "x.npz"
    if path.exists():
        path.unlink()
    rows = formats.rows_of(arrays())
    formats.save(path, rows, {"env": "x"})
    data = bytearray(path.read_bytes())
    data[at % len(data) : at % len(data) + len(with_)] = with_
    path.write_bytes(bytes(data[: max(len(data) - cut, 0)] if cut % 3 else data))
    try:
        found, _ = formats.load(path)
    except UserError as e:
        assert "x.npz" in str(e)
    else:
        assert formats.fingerprint(found) == formats.fingerprint(rows)


@pytest.mark.parametrize("name", ["x" * 300 + ".npz", "", "file/x.npz", "a\0b.npz"])
def test_names_that_no_file_can_have_are_found_before_the_work(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError):
        files.check_new(Path(name))
    assert not files.is_file(Path("x" * 300))
