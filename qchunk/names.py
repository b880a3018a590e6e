"""The tables of names. No jax here: ``qchunk list`` must answer at once. A test checks that the tables are true.

Whatever has a table may also be a function of the user's own, and both may bring values: ``NAME``, ``NAME:ARGS``,
``file.py:function``, ``file.py:function:ARGS`` (or ``module:function``). ``registry`` turns such a text into a function.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping

from qchunk import env_names
from qchunk.method_names import ALGORITHMS
from qchunk.system import loading
from qchunk.system.errors import unknown
from qchunk.system.loading import Entry

ACTORS = {  # by the kind of their configuration; a target takes (configuration, name of its module)
    "flow": Entry("qchunk.actors.flow:flow", "flow matching, Euler steps from noise to data (2210.02747)"),
    "diffusion": Entry("qchunk.actors.diffusion:diffusion", "DDPM or DDIM along K noise levels (2303.04137)"),
    "gaussian": Entry("qchunk.actors.gaussian:gaussian", "a Gaussian or a mixture over chunks, by maximum likelihood"),
    "full-gaussian": Entry(
        "qchunk.actors.full_gaussian:full_gaussian", "a Gaussian over chunks with a full covariance (2410.09536)"
    ),
    "regression": Entry("qchunk.actors.gaussian:regression", "one deterministic chunk, by mean squared error"),
    "one-step": Entry("qchunk.actors.one_step:one_step_actor", "noise to chunk in one pass; cloned by an energy score"),
    "consistency": Entry(
        "qchunk.actors.consistency:consistency", "from any noise level straight to the chunk (2303.01469)"
    ),
    "shortcut": Entry("qchunk.actors.flow_map:shortcut", "a flow that takes long jumps as well as short (2410.12557)"),
    "meanflow": Entry(
        "qchunk.actors.flow_map:mean_flow", "a flow's mean velocities, noise to chunk at once (2505.13447)"
    ),
    "distilled": Entry(
        "qchunk.actors.taught:distilled", "a one-step student of a flow that clones meanwhile (2502.02538)"
    ),
    "reflow": Entry(
        "qchunk.actors.taught:reflow", "a flow of straighter paths, cloned from another's pairs (2209.03003)"
    ),
    "skills": Entry("qchunk.actors.skills:skills", "an autoencoder of chunks, decoded step by step (2010.13611)"),
    "tanh-gaussian": Entry(
        "qchunk.actors.tanh_gaussian:tanh_gaussian", "a Gaussian squashed by tanh, with its density (1801.01290)"
    ),
}
AGGREGATES = {  # of a critic ensemble; a target takes values [members, *B] and returns [*B]
    "mean": Entry("qchunk.critics.ensemble:mean", "mean over the members"),
    "min": Entry("qchunk.critics.ensemble:minimum", "the lowest member (1802.09477)"),
    "pessimistic": Entry(
        "qchunk.critics.ensemble:pessimistic", "pessimistic:0.5 is the mean minus 0.5 standard deviations (2601.14234)"
    ),
}
OPTIMISERS = {  # a target takes the learning rate, or its schedule, and returns an optax.GradientTransformation
    "adam": Entry("optax:adam", "Adam (1412.6980); adam:b2=0.95 sets a value of optax.adam"),
    "clipped-adam": Entry("qchunk.optimisers:clipped_adam", "Adam on bounded gradients: clipped-adam:max_norm=0.5"),
    "adamw": Entry("optax:adamw", "Adam with decoupled weight decay (1711.05101): adamw:weight_decay=0.01"),
    "sgd": Entry("optax:sgd", "stochastic gradient descent; sgd:momentum=0.9"),
}
READERS = {  # of data sets; a target is a formats.Reader, and the first that claims a file reads it
    "folder": Entry(
        "qchunk.data.npy_folder:READER", "the folder of qchunk data convert --folder, which training streams"
    ),
    "minari": Entry("qchunk.data.minari_files:READER", "Minari's folder, as HDF5, Arrow or Parquet"),
    "lerobot": Entry(
        "qchunk.data.lerobot_files:READER", "LeRobot's folder, versions 2 and 3: numbers and vectors, no images"
    ),
    "robomimic": Entry("qchunk.data.robomimic_files:READER", "robomimic's HDF5 of demonstrations"),
    "d4rl": Entry("qchunk.data.d4rl_files:READER", "D4RL's HDF5, and other HDF5 of plain arrays by --names"),
    "npz": Entry("qchunk.data.own_npz:READER", "an npz of your own, by usual names of arrays or by --names"),
    "ogbench": Entry("qchunk.data.ogbench_files:READER", "OGBench's npz: one file, or a folder of its shards"),
    "qchunk": Entry("qchunk.data.formats:READER", "the npz of qchunk collect and qchunk data convert"),
}
FLAT_READERS = ("lerobot", "d4rl", "npz")  # of plain arrays, which the user may name
FOREIGN_READERS = ("minari", "robomimic", *FLAT_READERS)  # of other packages' files, some of which name no environment
TERMS = {  # of an objective; a target takes a Moment
    "task": Entry("qchunk.envs.objective:task", "the environment's own reward"),
    "energy": Entry("qchunk.envs.objective:energy", "minus the squared action"),
    "jerk": Entry("qchunk.envs.objective:jerk", "minus the squared change of the action"),
}

DRIVERS = {  # who trains; the attribute ``driver`` of a method's configuration names one, by default the first
    "offline_to_online": Entry("qchunk.drivers.online:OFFLINE_TO_ONLINE", "a data set, then an environment"),
    "from_scratch": Entry(
        "qchunk.drivers.from_scratch:FROM_SCRATCH", "an environment, beside a data set if there is one"
    ),
    "on_policy": Entry("qchunk.drivers.on_policy:ON_POLICY", "what its own policy plays"),
}

SCHEMES = {  # how much of a chunk is played; numbers follow a colon
    "open-loop": Entry("qchunk.play.boundaries:open_loop", "whole chunks"),
    "zero-noise": Entry("qchunk.play.boundaries:zero_noise", "whole chunks, made of noise 0 (2602.02481)"),
    "receding": Entry("qchunk.play.execute:receding", "the first actions of each chunk, as in receding:3"),
    "ensemble": Entry(
        "qchunk.play.schemes:ensemble",
        "mean over all open plans, the i-th oldest weighs exp(-m i): ensemble:0.01 (2304.13705)",
    ),
    "coherent": Entry(
        "qchunk.play.schemes:coherent", "the sample nearest to the old plan: coherent:N,STEPS (2408.17355)"
    ),
    "contrast": Entry(
        "qchunk.play.schemes:contrast",
        "coherent, and unlike the samples of a weaker run: contrast:N,STEPS with eval --weaker RUN (2408.17355)",
    ),
    "rtc": Entry(
        "qchunk.play.schemes:rtc",
        "the next chunk denoises while the old one plays, pulled to it: rtc:DELAY,STEPS (2506.07339)",
    ),
    "committed": Entry(
        "qchunk.play.schemes:committed",
        "rtc by an actor that has learned to go on from what is played meanwhile: committed:DELAY,STEPS (2512.05964)",
    ),
    "hard-mask": Entry("qchunk.play.schemes:hard_mask", "rtc that holds only what is played meanwhile: hard-mask:1,4"),
    "supported": Entry(
        "qchunk.play.boundaries:supported", "a plan goes on while one of N samples agrees: supported:16,0.5,STEPS"
    ),
    "dispersion": Entry(
        "qchunk.play.boundaries:dispersion",
        "a plan ends where samples differ by more than TAU: dispersion:TAU (2604.04161)",
    ),
    "longest-safe": Entry(
        "qchunk.play.boundaries:longest_safe",
        "the longest prefix about as good as the best one, by a critic of prefixes: longest-safe:0.1",
    ),
    "argmax-k": Entry("qchunk.play.boundaries:argmax_k", "the best prefix of all candidates (2605.11009)"),
    "sampled-k": Entry(
        "qchunk.play.boundaries:sampled_k", "a prefix drawn by its value: sampled-k:TEMPERATURE,UNIFORM (2605.10044)"
    ),
    "advantage-k": Entry(
        "qchunk.play.boundaries:advantage_k", "the best prefix by its discounted advantage (2605.05544)"
    ),
    "random-k": Entry("qchunk.play.boundaries:random_k", "plans end after 1 to H steps, by chance"),
    "async": Entry(
        "qchunk.play.schemes:naive", "the next chunk is made while the old one plays, unaware of it: async:1,4"
    ),
}

SUITES = {  # files of experiments/
    "cube-single": Entry("cube_single.py", "QC against BC on the five tabletop/cube-single tasks"),
    "cube-double": Entry("cube_double.py", "QC, h = 1, n-step and BC on tabletop/cube-double-task1"),
    "reacher": Entry("reacher.py", "QC against BC on brax/reacher@spring from random data"),
    "ogbench-cube-single": Entry(
        "ogbench_cube_single.py", "QC, h = 1, n-step, BC, FQL and IFQL on OGBench's cube-single"
    ),
    "qc-paper": Entry("qc_paper.py", "the table of Q-chunking (2507.07969): 13 methods; at small scale on tabletop"),
    "qam-paper": Entry("qam_paper.py", "the table of QAM (2601.14234): 17 methods; at small scale on tabletop"),
    "qam-paper-tuning": Entry("qam_paper_tuning.py", "the tuning runs behind qam-paper at small scale"),
    "dqc": Entry("dqc.py", "the table of decoupled Q-chunking (2512.10926) on goals; at small scale on tabletop"),
    "sequences": Entry("sequences.py", "skills, zooms, models, search and movement primitives beside Q-chunking"),
    "catches": Entry("catches.py", "the catches told of skills, bins, movement primitives and planning, each a figure"),
    "why-chunks": Entry(
        "why_chunks.py", "four claims about chunks, each a figure: copying, compounding, reaction, length"
    ),
    "execution": Entry("execution.py", "one training, many ways to play it: when to look again, and with delays"),
    "kinetix": Entry("real_time.py", "real-time chunking's own benchmark: Kinetix's levels with delays"),
    "few-steps": Entry("few_steps.py", "does one denoising step keep what ten have? Q-chunking with twelve actors"),
    "equal-evaluations": Entry(
        "equal_evaluations.py", "samples or gradients of a frozen flow, at the same network evaluations a decision"
    ),
    "qc-paper-tuning": Entry("qc_paper_tuning.py", "the tuning runs behind qc-paper at small scale"),
    "online-cubes": Entry("online_cubes.py", "QC and BC, offline then online, on tabletop/cube-double tasks 1 and 2"),
    "online-brax": Entry("online_brax.py", "QC and BC, offline then online, on reacher, pusher and halfcheetah"),
    "pole": Entry("pole.py", "regression, Gaussians, flow and diffusion on probe/pole: who averages"),
    "guidance": Entry("guidance.py", "a frozen prior, guided, re-ranked and best of N on tabletop"),
    "guidance-tuning": Entry("guidance_tuning.py", "the tuning runs behind the weights of guidance"),
    "dppo": Entry("dppo.py", "DPPO and PPO from priors on tabletop and halfcheetah"),
    "metaworld": Entry("metaworld.py", "cloning and Q-chunking from scripted experts on ten tasks of Meta-World"),
    "policy-gradients": Entry("policy_gradients.py", "dppo, reinflow, fpo, ppo and ogpo from one prior each"),
    "ppo-scratch": Entry(
        "ppo_scratch.py", "PPO from scratch against stated thresholds on inverted_pendulum and reacher"
    ),
    "objective": Entry("objective.py", "success against energy and jerk under swept weights"),
    "tuning": Entry("tuning.py", "the tuning runs behind qchunk compare"),
}
ENGINES = {  # where --on starts workers
    "local": Entry("qchunk.engines.starting:local", "local:N, N processes on this machine"),
    "slurm": Entry("qchunk.engines.starting:slurm", "slurm:PARTITION, one job array by submitit"),
    "ray": Entry("qchunk.engines.starting:ray", "ray or ray:ADDRESS, tasks of a Ray cluster"),
}
OWN = {  # how a function of the user's own is named, and what it is
    "algorithms": ("FILE.py:FUNCTION", "your own: (config) -> Algorithm (docs/tutorials/3-algorithm.md)"),
    "actors": ("FILE.py:FUNCTION", "your own: (config, name) -> Kernel (docs/tutorials/3-algorithm.md)"),
    "aggregates": ("FILE.py:FUNCTION", "your own: values [members, *B] -> [*B]"),
    "optimisers": (
        "FILE.py:FUNCTION",
        "your own: learning rate -> optax.GradientTransformation; optax:NAME is any of optax's",
    ),
    "readers": ("FILE.py:FUNCTION:ARGUMENT", "your own: argument -> qchunk.data.formats.Rows"),
    "terms": ("FILE.py:FUNCTION", "your own: a function of a qchunk.envs.objective.Moment"),
    "schemes": ("FILE.py:FUNCTION:NUMBERS", "your own: (policy, H, *numbers) -> qchunk.play.execute.Scheme"),
}


def tables() -> dict[str, dict[str, str]]:
    """Every table as ``qchunk list`` shows it: one line for each name."""
    found = {"algorithms": ALGORITHMS, "actors": ACTORS, "aggregates": AGGREGATES, "optimisers": OPTIMISERS}
    found |= {"readers": READERS, "terms": TERMS, "schemes": SCHEMES}
    shown = {title: {n: e.text for n, e in table.items()} | dict([OWN[title]]) for title, table in found.items()}
    return {**shown, "envs": env_names.ENVS, "suites": _texts(SUITES), "engines": _texts(ENGINES)}


def _texts(table: Mapping[str, Entry]) -> dict[str, str]:
    return {name: entry.text for name, entry in table.items()}


def target(table: Mapping[str, Entry], text: str, what: str) -> tuple[str, str]:
    """("module:function" or "file.py:function", ARGS) of a name of the table or a function of the user's own.

    Args:
        what: what the table holds, for the message.

    Raises:
        UserError: neither; offers the nearest names.
    """
    name, _, args = text.partition(":")
    if name in table:
        return table[name].target, args
    own = loading.PLACED.fullmatch(text)
    if own and (own["place"].endswith(".py") or _is_module(own["place"].partition(".")[0])):
        return f"{own['place']}:{own['function']}", own["args"] or ""
    fix = f"write {text}:FUNCTION" if text.endswith(".py") else "or give a function of yours as my_file.py:my_function"
    raise unknown(what, name, table, fix)


def _is_module(name: str) -> bool:
    return name in sys.modules or importlib.util.find_spec(name) is not None


def algorithm(name: str) -> str:
    """The target ("module:function" or "file.py:function") of an algorithm given by name or by target.

    Raises:
        UserError: for a name that is in no table; offers the nearest ones.
    """
    return target(ALGORITHMS, name, "algorithm")[0]


def suite(name: str) -> str:
    """The file of a suite given by its name (in experiments/) or by its own path.

    Raises:
        UserError: for a name that is in no table; offers the nearest ones.
    """
    if name in SUITES:
        return SUITES[name].target
    if name.endswith(".py"):
        return name
    raise unknown("suite", name, SUITES, "or give a file of yours that holds SUITE")
