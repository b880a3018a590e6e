"""The names of environments and of OGBench's data. No jax here, as in ``names``. A test checks that the tables are true."""

from __future__ import annotations

import json
import re
from typing import Any

from qchunk.system import loading
from qchunk.system.errors import UserError, unknown

BRAX = (
    "ant",
    "halfcheetah",
    "hopper",
    "humanoid",
    "humanoidstandup",
    "inverted_double_pendulum",
    "inverted_pendulum",
    "pusher",
    "reacher",
    "walker2d",
)
BRAX_BACKENDS = ("generalized", "positional", "spring", "mjx")
TABLETOP = {"cube-single": 1, "cube-double": 2, "cube-triple": 3, "cube-quadruple": 4}
PLAYGROUND = (  # MuJoCo Playground's control suite
    *(
        "AcrobotSwingup",
        "AcrobotSwingupSparse",
        "BallInCup",
        "CartpoleBalance",
        "CartpoleBalanceSparse",
        "CartpoleSwingup",
    ),
    *("CartpoleSwingupSparse", "CheetahRun", "FingerSpin", "FingerTurnEasy", "FingerTurnHard", "FishSwim", "HopperHop"),
    *("HopperStand", "HumanoidRun", "HumanoidStand", "HumanoidWalk", "PendulumSwingup", "PointMass", "ReacherEasy"),
    *("ReacherHard", "SwimmerSwimmer6", "WalkerRun", "WalkerStand", "WalkerWalk"),
)
PLAYGROUND_ROBOTS = (  # whose models are fetched apart
    *(
        "AeroCubeRotateZAxis",
        "AlohaHandOver",
        "AlohaSinglePegInsertion",
        "ApolloJoystickFlatTerrain",
        "BarkourJoystick",
    ),
    *("BerkeleyHumanoidJoystickFlatTerrain", "BerkeleyHumanoidJoystickRoughTerrain", "G1JoystickFlatTerrain"),
    *("G1JoystickRoughTerrain", "Go1Footstand", "Go1Getup", "Go1Handstand", "Go1JoystickFlatTerrain"),
    *("Go1JoystickRoughTerrain", "H1InplaceGaitTracking", "H1JoystickGaitTracking", "LeapCubeReorient"),
    *("LeapCubeRotateZAxis", "Op3Joystick", "PandaOpenCabinet", "PandaPickCube", "PandaPickCubeCartesian"),
    *("PandaPickCubeOrientation", "PandaRobotiqPushCube", "SpotFlatTerrainJoystick", "SpotGetup"),
    *("SpotJoystickGaitTracking", "T1JoystickFlatTerrain", "T1JoystickRoughTerrain"),
)
_LEVELS = {
    "s": """
        h0_weak_thrust h1_thrust_over_ball h2_one_wheel_car h3_point_the_thruster h4_thrust_aim h5_rotate_fall h6_unicycle_right
        h7_unicycle_left h8_unicycle_balance h9_explode_then_thrust_over
    """,
    "m": """
        h0_unicycle h1_car_left h2_car_right h3_car_thrust h4_thrust_the_needle h5_angry_birds h6_thrust_over h7_car_flip h8_weird_vehicle
        h9_spin_the_right_way h10_thrust_right_easy h11_thrust_left_easy h12_thrustfall_left h13_thrustfall_right h14_thrustblock
        h15_thrustshoot h16_thrustcontrol_right h17_thrustcontrol_left h18_thrust_right_very_easy h19_thrust_left_very_easy arm_hard
        arm_left arm_right arm_up
    """,
    "l": """
        h0_angrybirds h1_car_left h2_car_ramp h3_car_right h4_cartpole h5_flappy_bird h6_lorry h7_maze_1 h8_maze_2 h9_morph_direction
        h10_morph_direction_2 h11_obstacle_avoidance h12_platformer_1 h13_platformer_2 h14_simple_thruster h15_swing_up h16_thruster_goal
        h17_unicycle car_launch car_swing_around chain_lander chain_thrust gears grasp_easy grasp_hard hard_beam_balance
        hard_cartpole_thrust hard_cartpole_wheels hard_lunar_lander hard_pinball lever_puzzle mjc_half_cheetah mjc_half_cheetah_easy
        mjc_hopper mjc_hopper_easy mjc_swimmer mjc_walker mjc_walker_easy pr rail
    """,
}
KINETIX = {size: tuple(names.split()) for size, names in _LEVELS.items()}  # its levels, by size
GYMNAX = ("MountainCarContinuous-v0", "Pendulum-v1", "PointRobot-misc", "Reacher-misc", "Swimmer-misc")
GYMNAX_DISCRETE = (
    *("Acrobot-v1", "CartPole-v1", "MountainCar-v0"),
    *(f"{game}-MinAtar" for game in ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")),
    *(f"{task}-bsuite" for task in ("Catch", "DeepSea", "DiscountingChain", "MNISTBandit", "MemoryChain")),
    *("SimpleBandit-bsuite", "UmbrellaChain-bsuite"),
    *("BernoulliBandit-misc", "FourRooms-misc", "FrozenLake-misc", "GaussianBandit-misc", "MetaMaze-misc", "Pong-misc"),
)
OGBENCH = {
    "cube-single": "1 cube",
    "cube-double": "2 cubes",
    "cube-triple": "3 cubes",
    "cube-quadruple": "4 cubes",
    "cube-octuple": "8 cubes",
    "scene": "a cube, two buttons, a drawer and a window",
    "puzzle-3x3": "9 buttons",
    "puzzle-4x4": "16 buttons",
    "puzzle-4x5": "20 buttons",
    "puzzle-4x6": "24 buttons",
}
OGBENCH_KINDS = ("play", "noisy")
OGBENCH_MAZES = {  # who walks, in which mazes, and the kinds of data that OGBench has published of each
    **{f"pointmaze-{maze}": ("a point", ("navigate", "stitch")) for maze in ("medium", "large", "giant", "teleport")},
    **{f"antmaze-{maze}": ("an ant", ("navigate", "stitch", "explore")) for maze in ("medium", "large", "teleport")},
    "antmaze-giant": ("an ant", ("navigate", "stitch")),
    **{f"humanoidmaze-{maze}": ("a humanoid", ("navigate", "stitch")) for maze in ("medium", "large", "giant")},
}
METAWORLD = tuple(
    f"{task}-v3"
    for task in [
        "assembly",
        "basketball",
        "bin-picking",
        "box-close",
        "button-press",
        "button-press-topdown",
        "button-press-topdown-wall",
        "button-press-wall",
        "coffee-button",
        "coffee-pull",
        "coffee-push",
        "dial-turn",
        "disassemble",
        "door-close",
        "door-lock",
        "door-open",
        "door-unlock",
        "drawer-close",
        "drawer-open",
        "faucet-close",
        "faucet-open",
        "hammer",
        "hand-insert",
        "handle-press",
        "handle-press-side",
        "handle-pull",
        "handle-pull-side",
        "lever-pull",
        "peg-insert-side",
        "peg-unplug-side",
        "pick-out-of-hole",
        "pick-place",
        "pick-place-wall",
        "plate-slide",
        "plate-slide-back",
        "plate-slide-back-side",
        "plate-slide-side",
        "push",
        "push-back",
        "push-wall",
        "reach",
        "reach-wall",
        "shelf-place",
        "soccer",
        "stick-pull",
        "stick-push",
        "sweep",
        "sweep-into",
        "window-close",
        "window-open",
    ]
)
ROBOSUITE = ("Lift", "PickPlaceCan", "NutAssemblySquare")
PROBES = {
    "constant": "reward 1 a step for 10 steps",
    "delayed": "reward 1 after 5 steps",
    "two-step": "a second action that must have the first one's sign",
    "flag": "one step, its reward the action's sign",
    "pole": "around a pole, left or right: averages crash",
    "fork": "one step, two good actions: averages earn nothing",
    "fog-gust": "push blindly to one side, then follow a target that jumps (a step in 10)",
    "fog-gust-0.02": "the same, a step in 50",
    "pursuit": "a goal that jumps (a step in 50)",
    "pursuit-0": "the same, a goal that rests",
    "pursuit-0.1": "the same, a step in 10",
    **{f"switch-{n}": f"switch {n} lamps on, sparse reward, play data" for n in (2, 4, 6, 8)},
    "catch": "a falling glass that is pushed on its way: a chunk of 16 misses it",
    "pause": "experts pause: who sees the last move learns to repeat it",
    "drift": "a course that experts never leave: who looks often compounds its errors",
}

ENVS = {
    **{
        f"tabletop/{scene}-task{t}": f"kinematic manipulation, {n} cube{'s' * (n > 1)}, sparse reward, task {t} of 5"
        for scene, n in TABLETOP.items()
        for t in range(1, 6)
    },
    **{
        f"tabletop/{scene}-goal": f"kinematic manipulation, {n} cube{'s' * (n > 1)}, sparse reward, any of the 5 tasks as its goal"
        for scene, n in TABLETOP.items()
    },
    **{f"brax/{name}": f"Brax {name}; brax/{name}@spring picks the backend" for name in BRAX},
    **{f"gymnax/{name}": f"gymnax {name}" for name in GYMNAX},
    **{f"playground/{name}": "MuJoCo Playground's control suite (extra playground)" for name in PLAYGROUND},
    **{f"playground/{name}": "MuJoCo Playground, with a robot's model" for name in PLAYGROUND_ROBOTS},
    **{
        f"kinetix/{size}/{level}": "a level of Kinetix (docs/environments.md says how to install it); @noisy: actions with noise of 0.1"
        for size, levels in KINETIX.items()
        for level in levels
    },
    **{
        f"ogbench/{scene}-{kind}-singletask-task{t}-v0": f"OGBench's own, {what}, task {t} of 5; @sparse: -1 until success"
        for scene, what in OGBENCH.items()
        for kind in OGBENCH_KINDS
        for t in range(1, 6)
    },
    **{
        f"ogbench/{scene}-{kind}-singletask-task{t}-v0": f"OGBench's own, {what} in a maze, task {t} of 5: -1 until success"
        for scene, (what, kinds) in OGBENCH_MAZES.items()
        for kind in kinds
        for t in range(1, 6)
    },
    **{
        f"ogbench/{scene}-{kind}-oraclerep-v0": f"OGBench's own, {what}, any of the 5 tasks as its goal"
        for scene, what in OGBENCH.items()
        for kind in OGBENCH_KINDS
    },
    **{
        f"metaworld/{task}": "Meta-World, in an interpreter of its own: qchunk env setup metaworld"
        for task in METAWORLD
    },
    **{
        f"robosuite/{task}": "robosuite, seen and rewarded as in robomimic: qchunk env setup robosuite"
        for task in ROBOSUITE
    },
    **{f"probe/{name}": f"a probe: {what}" for name, what in PROBES.items()},
    "FILE.py:FUNCTION": "your own: a function that returns a brax Env (docs/tutorials/4-environment.md)",
    "none": "no simulator: a robot's own --data, of which the last episodes are held out and judge (docs/data.md)",
    "gymnasium/ID": "any registered gymnasium environment with continuous actions, such as gymnasium/Pendulum-v1; with arguments: "
    "gymnasium/HalfCheetah-v5?ctrl_cost_weight=0.5",
}
OGBENCH_DATA = (
    *(f"ogbench/{scene}-{kind}-v0" for scene in OGBENCH for kind in OGBENCH_KINDS),
    *(f"ogbench/{scene}-{kind}-v0" for scene, (_, kinds) in OGBENCH_MAZES.items() for kind in kinds),
)


def check_env(name: str, scene_too: bool = False) -> str:
    """The same name if some environment has it; ``scene_too`` admits a scene without a task (for collecting).

    Raises:
        UserError: for an unknown environment, backend or task; offers the nearest ones.
    """
    scenes = [*(f"tabletop/{s}" for s in TABLETOP), *OGBENCH_DATA] if scene_too else []
    if loading.is_own(name) or name.startswith("none/"):  # whose sizes follow
        return name
    base, _, backend = name.partition("@")
    if base.startswith("gymnasium/") and base != "gymnasium/ID":
        arguments(name)
        return name  # gymnasium knows its own names
    if base.startswith(("metaworld/", "robosuite/")) and "?" in base and arguments(base)[0] in ENVS:
        return name
    if (found := ogbench(name)) and not (found["single"] or found["goals"]) and not scene_too:
        fix = f"add one, such as {name.removesuffix('-v0')}-singletask-task1-v0"
        raise UserError(f"{name} names a data set without a task", fix)
    if found:
        return name
    if base.startswith("gymnax/") and base[7:] in GYMNAX_DISCRETE:
        fix = f"take one with continuous actions: {', '.join(f'gymnax/{n}' for n in GYMNAX)}"
        raise UserError(f"{base} has discrete actions, and chunks here are of continuous ones", fix)
    if base == "brax/swimmer":
        why = "brax/swimmer does not work on any backend with these versions of brax and mujoco"
        raise UserError(why, "take another environment: qchunk list envs")
    if backend and base.startswith("brax/") and backend not in BRAX_BACKENDS:
        raise unknown("backend", backend, BRAX_BACKENDS)
    if base in ENVS and (
        not backend or base.startswith("brax/") or (base.startswith("kinetix/") and backend == "noisy")
    ):
        return name
    if name in scenes or (name.startswith("probe/") and name[6:] in PROBES):
        return name
    if name in [f"tabletop/{s}" for s in TABLETOP]:
        raise UserError(f"{name} names a scene without its task", f"add one, such as {name}-task1")
    if (m := re.fullmatch(r"tabletop/(.+)-task(\d+)", name)) and m[1] in TABLETOP:
        raise UserError(f"unknown task {m[2]} of tabletop/{m[1]}", "its tasks are task1 to task5")
    raise unknown("environment", name, [*ENVS, *scenes], "qchunk list envs shows all")


def arguments(name: str) -> tuple[str, dict[str, Any]]:
    """The name without what follows its question mark, and that as values: ``gymnasium/ID?ctrl_cost_weight=0.5&frame_skip=4``.

    A value is what JSON reads it as (a number, true, false, null, a list), and else the text as it stands.

    Raises:
        UserError: a part is no ``name=value``, or a name is there twice.
    """
    bare, _, text = name.partition("?")
    found: dict[str, Any] = {}
    for part in text.split("&") if text else ():
        key, equals, value = part.partition("=")
        if not (key.isidentifier() and equals) or key in found:
            raise UserError(f"{name} has the argument {part!r}", f"write {bare}?NAME=VALUE&NAME=VALUE, each name once")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return bare, found


def sorted_arguments(name: str) -> str:
    """The name with its arguments in the order of their names: what its data are called."""
    bare, _, text = name.partition("?")
    return f"{bare}?{'&'.join(sorted(text.split('&')))}" if text else bare


def ogbench(name: str) -> dict[str, str] | None:
    """The parts of an OGBench name, "" where absent; None for another name.

    They are ``scene``, ``kind`` of data, ``single`` (it names a task's environment) with ``task`` ("-task1") and ``sparse``, and
    ``goals`` (it names one with goals).
    """
    kinds_of = {
        **dict.fromkeys(OGBENCH, OGBENCH_KINDS),
        **{scene: kinds for scene, (_, kinds) in OGBENCH_MAZES.items()},
    }
    task = "(?:(?P<goals>-oraclerep-v0)|(?P<single>-singletask(?P<task>-task[1-5])?)?-v0(?P<sparse>@sparse)?)"
    found = re.fullmatch(f"ogbench/(?P<scene>{'|'.join(kinds_of)})-(?P<kind>[a-z]+){task}", name)
    if not found or found["kind"] not in kinds_of[found["scene"]]:
        return None
    alone = found["scene"] in OGBENCH_MAZES and (
        found["goals"] or found["sparse"]
    )  # mazes have tasks only, all of them sparse
    return None if alone else found.groupdict("")
