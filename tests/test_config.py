"""What a configuration's numbers may be: ranges of annotations, for shipped configurations and a user's own."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qchunk import names, registry
from qchunk.actor_configs import DiffusionConfig, FlowConfig, GaussianConfig, RegressionConfig
from qchunk.commands import flags
from qchunk.config import (
    ActorConfig,
    ChunkConfig,
    CriticConfig,
    OptimConfig,
    RolloutConfig,
    ValueConfig,
    config,
    from_dict,
    validate,
)
from qchunk.data.goals import GoalConfig
from qchunk.drivers.offline import OfflineSettings
from qchunk.drivers.on_policy import OnPolicySettings
from qchunk.drivers.online import OnlineSettings
from qchunk.losses.reaching import UnevenConfig
from qchunk.planning import SearchConfig
from qchunk.ranges import PositiveInt, Range, Widths
from qchunk.system.errors import UserError
from qchunk.world_model import LatentConfig

SETTINGS = (OfflineSettings, OnlineSettings, OnPolicySettings)
PARTS = (ChunkConfig, FlowConfig, DiffusionConfig, GaussianConfig, RegressionConfig, CriticConfig, ValueConfig)
PARTS += (GoalConfig, UnevenConfig, LatentConfig, SearchConfig)
SHIPPED = (*PARTS, OptimConfig, RolloutConfig, *SETTINGS, *(registry.builder(n)[1] for n in sorted(names.ALGORITHMS)))


@config
class Plain:
    """A user's numbers without ranges."""

    freeze_after: int = 0
    offset: float = 0.0
    layers: tuple[int, ...] = ()
    betas: tuple[float, ...] = ()


@config
class Student:
    """A user's numbers with them."""

    hidden: Widths = (16, 16)
    """Widths of the student."""
    drop_rate: Annotated[float, Range(0, below=1)] = 0.1
    """Share of units left out."""
    repeats: PositiveInt | None = None
    """Passes."""
    moments: tuple[Annotated[float, Range(0, below=1)], Annotated[float, Range(above=0)]] = (0.9, 1e-8)
    """Of Adam."""
    chances: tuple[Annotated[int, Range(high=3)], ...] = (3, 3)
    """Of each layer."""

    def check(self, where: str) -> None:
        """The student narrows."""
        if list(self.hidden) != sorted(self.hidden, reverse=True):
            raise UserError(f"--{where}hidden does not narrow", "put the widest layer first")


@config
class Mine:
    """A user's configuration around it."""

    chunk: ChunkConfig = ChunkConfig()
    my_actor: ActorConfig = FlowConfig()
    tuned_student: Student = Student()


def refusal(c: Any) -> str:
    with pytest.raises(UserError) as e:
        validate(c)
    assert "\n" not in str(e.value)
    return str(e.value)


@given(st.integers(-(2**31) + 1, 2**31 - 1), st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_numbers_without_a_range_may_be_anything(whole, real):
    validate(Plain(whole, real, (whole, 0), (real, 0.0)))
    validate(Plain(np.int64(whole), np.float32(real)))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e39])
def test_floats_are_finite(value):
    assert refusal(Plain(offset=value)).startswith(f"--offset {value} is not finite")
    assert f"{value} in --betas 0.5 {value} is not finite" in refusal(Plain(betas=(0.5, value)))
    assert "--optim.lr" in refusal(dataclasses.replace(registry.builder("bc")[1](), optim=OptimConfig(value)))


@pytest.mark.parametrize("value", [2**31, -(2**31)])
def test_whole_numbers_fit_int32(value):
    assert refusal(Plain(value)).startswith(f"--freeze-after {value} does not fit in 32 bits. give a whole number")
    assert f"{value} in --layers 1 {value}" in refusal(Plain(layers=(1, value)))


def test_a_user_s_own_ranges():
    """The flag is spelled as on the command line, nested or not; ranges lie on tuples, on their items and inside unions."""
    validate(Mine())
    validate(Student((2, 1), 0.0, 1, (0.0, 1.0), (-5, 3)))
    mine = lambda **change: Mine(tuned_student=Student(**change))  # noqa: E731
    for change, told in [
        ({"drop_rate": 1.0}, "--tuned-student.drop-rate 1.0 is out of range. give a number in [0, 1)."),
        ({"drop_rate": -1}, "--tuned-student.drop-rate -1 is out of range. give a number in [0, 1)."),
        ({"repeats": 0}, "--tuned-student.repeats 0 is out of range. give a whole number from 1 on."),
        ({"hidden": (8, 0)}, "0 in --tuned-student.hidden 8 0 is out of range. give a whole number from 1 on."),
        ({"hidden": ()}, "--tuned-student.hidden is empty. give one number or more."),
        ({"moments": (0.9, 0.0)}, "0.0 in --tuned-student.moments 0.9 0.0 is out of range. give a number above 0."),
        ({"chances": (3, 4)}, "4 in --tuned-student.chances 3 4 is out of range. give a whole number up to 3."),
        ({"hidden": (8, 16)}, "--tuned-student.hidden does not narrow. put the widest layer first."),
    ]:
        assert refusal(mine(**change)) == told


def test_a_name_is_no_range():
    """Fields called as shipped ones are, but of another meaning."""

    @config
    class Odd:
        gamma: float = 3.0
        lr: float = 0.0
        tau: float = -1.0
        minibatches: int = 0
        hidden: int = -1

    validate(Odd())


def marks(hint: Any) -> list[Range]:
    return [m for m in get_args(hint)[1:] if isinstance(m, Range)] if get_origin(hint) is Annotated else []


def annotated() -> list[tuple[type, str, Any]]:
    """(class, field, annotation) of all shipped numbers."""
    found = []
    for cls in SHIPPED:
        hints, plain = get_type_hints(cls, include_extras=True), get_type_hints(cls)
        found += [(cls, n, h) for n, h in hints.items() if plain[n] in (int, float, tuple[int, ...])]
    return found


# a number just outside of the range, at either end; None where there is no end
OUTSIDE: dict[str, tuple] = {
    **dict.fromkeys(("horizon", "steps", "components", "members", "envs", "decisions", "epochs"), (0, None)),
    **{
        "levels": (0, None),
        "atoms": (0, None),
        "bins": (1, None),
        "basis": (0, None),
        "skill": (0, None),
        "depth": (0, None),
        "more": (0, None),
        **dict.fromkeys(("keep", "unroll", "simulations", "size"), (0, None)),
        **{"value_scale": (0.0, None), "gumbel": (-1e-9, None), "value": (-1e-9, None)},
        "kl": (-1e-9, None),
        **{
            "grid": (1, None),
            "pairs": (0, None),
            **dict.fromkeys(("guesses", "candidates", "target_n"), (0, None)),
            **{"beta": (0.0, None), "divergence": (0.0, 1.0), "bound": (0.0, None), "group": (1, None)},
            "min_std": (0.0, None),
            "max_std": (0.0, None),
            "updates": (-1, None),
        },
        "same": (-1e-9, 1 + 1e-9),
        "power": (-1e-9, None),
        "bonus": (-1e-9, None),
        "eta": (-1e-9, None),
        "climbs": (0, None),
        "top": (0, None),
        "rate": (0.0, None),
        "least": (None, None),
    },
    **{
        "act_horizon": (0, None),
        "history": (0, 1001),
        "level": (-1e-9, 1 + 1e-9),
        **dict.fromkeys(("current", "future", "random"), (-1e-9, None)),
    },
    **dict.fromkeys(
        ("minibatches", "n", "tuned_steps", "seeds", "episodes", "batch", "log_every", "devices_per_seed"), (0, None)
    ),
    **dict.fromkeys(("seed", "slice_rows", "checkpoint_every", "eval_every", "offline_steps"), (-1, None)),
    **dict.fromkeys(("online_steps", "start_training", "capacity", "online_eval_every"), (-1, None)),
    **dict.fromkeys(("ddim", "warmup", "decay", "critic_updates", "clone_until", "delay", "committed"), (-1, None)),
    **dict.fromkeys(("gamma", "lam", "gamma_denoise", "explore_std"), (-1e-9, 1 + 1e-9)),
    **dict.fromkeys(("temperature", "weight", "scale", "share", "noisy", "final_lr", "update_ratio"), (-1e-9, None)),
    **dict.fromkeys(("lr", "clip", "clip_base"), (0.0, None)),
    **{"time_features": (3, None), "tau": (0.0, 1 + 1e-9), "expectile": (0.5 - 1e-9, 1.0)},
    **{"prob_std": (1e-3 - 1e-9, 1 + 1e-9), "clip_rate": (0.0, 80 + 1e-9), "target_kl": (None, None)},
    **{"hidden": ((0,), None), "backup": ((0,), None), "lengths": ((0,), None), "every": (0, None)},
    **{"subset": (-1, None), "start_members": (0, None)},
    **dict.fromkeys(("std", "floor", "follow"), (0.0, 1 + 1e-9)),
    **{"mean": (0.0, None), "cov": (0.0, None), "regress": (-1e-9, None), "floor_updates": (-1, None)},
    **dict.fromkeys(("clone", "cost", "entropy", "td", "margin"), (-1e-9, None)),
    **dict.fromkeys(("start_temperature", "huber"), (0.0, None)),
    **{"target_entropy": (None, None), "samples": (0, None), "gaussians": (0, None), "regulate_every": (0, None)},
    **{"heads": (0, None), "alpha": (-1e-9, None), "bc_alpha": (-1e-9, None), "noise": (-1e-9, 1 + 1e-9)},
}


@pytest.mark.parametrize(("cls", "name", "hint"), annotated(), ids=lambda x: getattr(x, "__name__", str(x))[:20])
def test_every_shipped_number_is_refused_just_outside_of_its_range(cls, name, hint):
    flag = f"--{name.replace('_', '-')} "
    for outside in OUTSIDE[name]:
        if outside is not None:
            assert flag in refusal(dataclasses.replace(cls(), **{name: outside}))
    if OUTSIDE[name] != (None, None):
        (mark,) = marks(hint)
        for end in (mark.low, mark.high):
            if math.isfinite(end):  # then it belongs to the range
                validate(
                    dataclasses.replace(cls(), **{name: (end,) if name in ("hidden", "backup", "lengths") else end})
                )


def test_hidden_layers_are_needed():
    for cls in (FlowConfig, DiffusionConfig, GaussianConfig, RegressionConfig, CriticConfig, ValueConfig):
        assert refusal(cls(hidden=())) == "--hidden is empty. give one number or more."
        assert "--hidden 16 -1 16" in refusal(cls(hidden=(16, -1, 16)))
        validate(cls(hidden=(1,)))


@pytest.mark.parametrize(
    ("c", "told"),
    [
        (DiffusionConfig((16, 16)), "--tuned.hidden 16 16 does not fit a residual network"),
        (DiffusionConfig(time_features=5), "--tuned.time-features 5"),
        (DiffusionConfig(ddim=21), "--tuned.ddim 21 is more than --tuned.steps 20"),
    ],
)
def test_what_fields_must_be_together(c, told):
    assert told in refusal(registry.builder("dppo")[1](tuned=c))


def test_what_other_fields_must_be_together():
    c = registry.builder("dppo")[1]()
    late = dataclasses.replace(c, critic_optim=OptimConfig(warmup=5, decay=3))
    assert "--critic-optim.warmup 5 is longer than --critic-optim.decay 3" in refusal(late)
    many = dataclasses.replace(c, rollout=RolloutConfig(2, 2, minibatches=5))
    assert refusal(many).endswith("give 4 or less.") and "--rollout.minibatches 5" in refusal(many)
    assert "--chunk.backup 3 1 is not ascending" in refusal(dataclasses.replace(c, chunk=ChunkConfig(backup=(3, 1))))
    inside = ChunkConfig(4, backup=(2, 4), discount="decision")
    assert "--chunk.discount decision discounts nothing within" in refusal(dataclasses.replace(c, chunk=inside))
    validate(dataclasses.replace(c, chunk=dataclasses.replace(inside, backup=(4, 8))))


@pytest.mark.parametrize("name", ["qc-prefix", "sear", "learned-k", "top-erl"])
def test_prefixes_are_discounted(name):
    c = registry.builder(name)[1]()
    chunk = dataclasses.replace(c.chunk, discount="decision")
    assert "--chunk.discount decision discounts nothing within" in refusal(dataclasses.replace(c, chunk=chunk))


def test_annotated_floats_are_traced():
    """Two configurations that differ in floats alone share one program, whose keys the other fields are."""
    leaves = lambda c: len(jax.tree.leaves(c))  # noqa: E731
    assert leaves(Student()) == 1 and leaves(OptimConfig()) == 2 and leaves(registry.builder("v-gps")[1]()) == 6
    structure = jax.tree.structure
    assert structure(Student(drop_rate=0.2)) == structure(Student()) != structure(Student((8, 8)))
    made = jax.vmap(lambda rate: Student(drop_rate=rate))(np.linspace(0, 0.5, 3))
    assert made.drop_rate.shape == (3,) and made.hidden == (16, 16)
    validate(made)  # traced or stacked numbers cannot be looked at


def test_annotated_fields_are_flags(capsys):
    """Flags, their help from docstrings, switched kinds and what JSON kept see through annotations."""
    known = flags.flag_names(Mine())
    assert {"tuned-student.hidden", "tuned-student.drop-rate", "chunk.gamma", "my-actor.steps"} <= set(known)
    argv = ["--tuned-student.hidden", "8", "4", "--tuned-student.drop-rate", "0.5", "--my-actor.kind", "diffusion"]
    argv += ["--my-actor.time-features", "8", "--tuned-student.repeats", "2"]
    (c,) = flags.parse("train", argv, Mine())
    assert c.tuned_student == Student((8, 4), 0.5, 2) and c.my_actor == DiffusionConfig(time_features=8)
    assert flags.parse("train", ["--my_actor.kind=gaussian"], Mine())[0].my_actor == GaussianConfig()
    with pytest.raises(SystemExit):
        flags.parse("train", ["--help"], Mine(), OfflineSettings)
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for told in ("Share of units left out.", "Widths of the student.", "Discount per environment step", "B, windows"):
        assert told in text
    assert "--tuned-student.drop-rate FLOAT" in text and "--batch INT" in text
    kept = {**dataclasses.asdict(c), "tuned_student": {**dataclasses.asdict(c.tuned_student), "hidden": [8, 4]}}
    kept["tuned_student"]["drop_rate"] = 0  # JSON keeps 0.0 as it likes
    again = from_dict(Mine, kept)
    assert again.tuned_student.hidden == (8, 4) and type(again.tuned_student.drop_rate) is float
