"""Episodes as moving pictures: what a run's first seed does, drawn by matplotlib, MuJoCo or the environment itself."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qchunk import sampling, trees
from qchunk.envs.base import Env, wrap
from qchunk.envs.objective import settled
from qchunk.play import on_host
from qchunk.play.execute import Scheme
from qchunk.play.program import Inputs, Program
from qchunk.play.rollout import bounded, decision
from qchunk.system import files
from qchunk.system.errors import UserError
from qchunk.types import Learner, Policy, Vars

FRAMES, WIDTH, FPS = 100, 280, 20  # at most so many of an episode; pixels; per second
SAMPLES = 40  # chunks drawn at each decision, where they can be seen


class Frame(NamedTuple):
    """One step of an episode."""

    obs: Any  # [O], or a tree of such
    world: Any  # the simulator's own state; None on the host
    action: np.ndarray | None  # [A] that led here; None at the start
    plans: np.ndarray  # [SAMPLES, H, A] chunks that the policy might have chosen when it last decided
    success: float


def episode(env: Env, policy: Policy, scheme: Scheme, vars: Vars, key: jax.Array) -> list[Frame]:
    """One episode on the device, from its start to its end, L + 1 frames. Equal keys give equal starts."""
    world = wrap(settled(env, vars.given)).env
    reset_key, carry_key, key = jax.random.split(key, 3)

    @jax.jit
    def decide(vars: Vars, key: jax.Array, state: Any, carry: Any):
        plan_key, sample_key = jax.random.split(key)
        many = jax.tree.map(lambda x: jnp.broadcast_to(x, (SAMPLES, x.shape[-1])), state.obs)
        plans = sampling.act(policy, vars, sample_key, many).action
        return *scheme.decide(vars, plan_key, state, carry), plans

    @jax.jit
    def step(vars: Vars, i: jax.Array, state: Any, plan: Any):
        action = bounded(scheme.act(vars, i, state, plan))
        return world.step(state, action), action

    state = jax.jit(world.reset)(jax.random.split(reset_key, 1))
    carry, found, made = scheme.init(vars, carry_key, state), list[Frame](), 0

    def seen(action: Any, plans: Any) -> Frame:
        first = jax.tree.map(lambda x: x[0], state.pipeline_state)
        success = float(state.metrics["success"][0]) if "success" in state.metrics else 0.0
        return Frame(jax.tree.map(lambda x: np.asarray(x[0]), state.obs), jax.device_get(first), action, plans, success)

    while not state.done[0]:
        carry, plan, plans = decide(vars, jax.random.fold_in(key, made), state, carry)
        plans = np.asarray(plans)
        found += [] if found else [seen(None, plans)]
        for i in range(scheme.steps):
            state, action = step(vars, i, state, plan)
            found.append(seen(np.asarray(action[0]), plans))
            if state.done[0]:
                break
        made += 1
    return found


def host_pictures(program: Program, learner: Learner, x: Inputs) -> list:
    """Pictures of one episode, drawn by the environment itself, which plays the actions again from the same seed.

    Args:
        learner, x: of one seed, leaves [1, ...].
    """
    env, seeds = program.env, on_host.reset_seeds(on_host.label(x.keys[0]), 1)[None]
    with contextlib.closing(env):
        sim, player, loop = on_host.from_seeds(program, "act", learner, x, seeds, "render")
        actions = list[np.ndarray]()
        while not actions or not loop[0].envs.done[0]:
            loop, _, s = decision(sim, player, 0, loop)
            actions += list(s.action[:, 0][s.alive[:, 0] > 0])
    size = {"width": WIDTH, "height": WIDTH} if env.name.startswith(("ogbench/", "metaworld/")) else {}
    shown = np.isin(np.arange(len(actions) + 1), _chosen(len(actions) + 1))
    played = np.where(np.isfinite(actions), actions, 0.0)
    return list(env.drawn({"render_mode": "rgb_array", **size}, int(seeds[0, 0]), played, shown))


def _chosen(count: int) -> list[int]:
    """At most FRAMES of ``count`` moments, the first and the last among them."""
    return sorted({round(x) for x in np.linspace(0, count - 1, min(count, FRAMES))})


def pictures(env: Env, moments: list[Frame]) -> list[np.ndarray]:
    """Frames [height, width, 3] of an episode: its world, or its numbers where nobody knows how that looks."""
    family = env.data_name.partition("/")[0]
    painters: dict[str, Callable[[Env, list[Frame]], list[np.ndarray]]] = {
        "tabletop": _tabletop,
        "brax": _brax,
        "playground": _playground,
        "kinetix": lambda env, moments: env.pictures([m.world for m in moments]),  # type: ignore[attr-defined]
    }
    draw = _pole if env.data_name == "probe/pole" else painters.get(family, _numbers)
    return draw(env, [moments[i] for i in _chosen(len(moments))])


def _painted(size: tuple[float, float], panels: dict, frames: list, paint: Callable) -> list[np.ndarray]:
    """Frames by matplotlib: ``paint(axes, i, frames[i])`` onto axes that are empty: what was drawn is taken away, as clearing axes
    makes them anew, which took longer than drawing."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=size, dpi=WIDTH / size[0], **panels)
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.93, hspace=0.04)
    for ax in np.ravel(axes):
        ax.set(xticks=[], yticks=[])
    found = []
    for i, frame in enumerate(frames):
        for ax in np.ravel(axes):
            for drawn in (*ax.lines, *ax.patches, *ax.collections):
                drawn.remove()
            ax.set_prop_cycle(None)
        paint(axes, i, frame)
        figure.canvas.draw()
        found.append(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())
    plt.close(figure)
    return found


def _tabletop(env: Env, moments: list[Frame]) -> list[np.ndarray]:
    from qchunk.envs.tabletop.draw import draw_world

    def paint(axes: Any, i: int, m: Frame) -> None:
        draw_world(axes[0], axes[1], m.world, env.goal_shown(m.obs))
        axes[0].set_title("success" if m.success else "from above, and from the side", fontsize=9)

    return _painted((3.5, 3.8), {"nrows": 2, "height_ratios": (0.43, 0.43)}, moments, paint)


def _pole(env: Env, moments: list[Frame]) -> list[np.ndarray]:
    """The car, the way that it came, and chunks that it might have chosen when it last decided."""
    from qchunk.envs.probes.averaging import GOAL, POLE, REACH, SPEED

    ways = np.stack([m.obs[:2] for m in moments])

    def paint(ax: Any, i: int, m: Frame) -> None:
        from matplotlib.collections import LineCollection
        from matplotlib.patches import Circle

        start = ways[_decided(moments, i)]
        ax.add_collection(
            LineCollection(start + SPEED * np.cumsum(m.plans, axis=1), color="#0072B2", alpha=0.3, lw=0.7)
        )
        ax.add_patch(Circle((0, 0), POLE, color="0.3"))
        ax.add_patch(Circle(GOAL, REACH, color="#009E73"))
        ax.plot(*ways[: i + 1].T, color="#D55E00", lw=2)
        ax.plot(*ways[i], "o", color="#D55E00")
        ax.set(xlim=(-1.15, 1.2), ylim=(-0.95, 0.95), aspect="equal")
        ax.set_title("success" if m.success else "blue: chunks it might play", fontsize=9)

    return _painted((3.5, 3.1), {}, moments, paint)


def _numbers(env: Env, moments: list[Frame]) -> list[np.ndarray]:
    """What was seen and what was done, along the episode; grey: the actions of chunks that might have been chosen."""
    seen = np.stack([np.concatenate([*trees.named(m.obs).values()]) for m in moments])
    done = np.stack([np.full_like(moments[1].action, np.nan) if m.action is None else m.action for m in moments])

    def paint(axes: Any, i: int, m: Frame) -> None:
        steps = max(_decided(moments, i), 1) + np.arange(m.plans.shape[1])
        for one in np.moveaxis(m.plans, 2, 0):
            axes[1].plot(np.tile(steps, len(one)), one.ravel(), ".", color="0.6", ms=3, alpha=0.4)
        for ax, values in zip(axes, (seen, done), strict=True):
            ax.plot(values[: i + 1], ".-", lw=1, ms=3)
            ax.set_xlim(-0.5, len(moments) - 0.5)
        axes[0].set_ylim(*_span(seen))
        axes[1].set_ylim(-1.1, 1.1)
        axes[0].set_title(f"success: {m.success:g}; above what is seen, below actions", fontsize=8)

    return _painted((3.5, 3.5), {"nrows": 2}, moments, paint)


def _decided(moments: list[Frame], i: int) -> int:
    """The first moment that shares the chunks of moment i."""
    return next(k for k in range(i + 1) if moments[k].plans is moments[i].plans)


def _span(values: np.ndarray) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    return low - 0.1 - 0.05 * (high - low), high + 0.1 + 0.05 * (high - low)


def _brax(env: Env, moments: list[Frame]) -> list[np.ndarray]:
    return _mujoco(env.sys.mj_model, [m.world.q for m in moments])


def _playground(env: Env, moments: list[Frame]) -> list[np.ndarray]:
    return _mujoco(env.env.mj_model, [m.world.data.qpos for m in moments])


def _mujoco(model: Any, positions: Sequence[Any]) -> list[np.ndarray]:
    """Drawn by MuJoCo, from the side, the camera following."""
    import mujoco

    data, camera = mujoco.MjData(model), mujoco.MjvCamera()
    camera.azimuth, camera.elevation = 90, -20
    if why := _no_opengl():
        fix = "install libegl1 or a screen, or set MUJOCO_GL=osmesa where that is installed"
        raise UserError(f"MuJoCo cannot draw here: {why}", fix)
    found: list[np.ndarray] = []
    with mujoco.Renderer(model, WIDTH, WIDTH) as renderer:
        for q in positions:
            data.qpos[:] = np.asarray(q)
            mujoco.mj_forward(model, data)
            camera.lookat[:] = data.xpos[1:].mean(axis=0)
            if not found:
                camera.distance = 1.0 + max(1.2, 1.2 * float(np.ptp(data.geom_xpos[1:], axis=0).max()))
            renderer.update_scene(data, camera)
            found.append(renderer.render())
    return found


@functools.cache  # a second try after a failure would end the process
def _no_opengl() -> str:
    """Why MuJoCo cannot draw in this process; empty where it can."""
    import mujoco

    try:
        mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 1, 1).close()
    except Exception as e:  # whatever the driver raises
        return str(e) or type(e).__name__
    return ""


def write_gif(frames: list[np.ndarray], path: Path, still: Path | None = None) -> None:
    """A gif that repeats, and its last frame as a png where ``still`` names one."""
    from PIL import Image

    images = [Image.fromarray(f).convert("P", palette=Image.Palette.ADAPTIVE, colors=64) for f in frames]
    buffer = io.BytesIO()
    length = [round(1000 / FPS)] * (len(images) - 1) + [1000]
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=length, loop=0, optimize=True)
    if still:  # first: a gif that is there has its still
        picture = io.BytesIO()
        Image.fromarray(frames[-1]).save(picture, "PNG")
        files.atomic_write(still, picture.getvalue())
    files.atomic_write(path, buffer.getvalue())
