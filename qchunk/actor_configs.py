"""The configurations of actors: one for each kind that ships."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from qchunk.config import ActorConfig, config
from qchunk.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt, Range, Widths, spelled
from qchunk.system.errors import UserError


@config
class PerceptronConfig(ActorConfig):
    """What every actor of a plain network has."""

    hidden: Widths = (512, 512, 512, 512)
    """Widths of the hidden layers."""
    layer_norm: bool = False
    """LayerNorm after each activation."""
    ema: bool = False
    """Act with a moving average of the weights."""


@config
class FlowConfig(PerceptronConfig):
    """A flow-matching actor (2507.07969, appendix: 4 layers of 512, 10 Euler steps)."""

    steps: PositiveInt = 10
    """K, Euler steps from noise to data."""
    committed: NonNegativeInt = 0
    """D: it learns to go on from 0 to D first actions that are given (training-time real-time chunking, 2512.05964), for --execute committed."""
    kind: str = dataclasses.field(default="flow", kw_only=True)


@config
class DiffusionConfig(ActorConfig):
    """A diffusion actor (2409.00588, appendix: residual network of 3 x 512, 20 steps)."""

    hidden: Widths = (512, 512, 512)
    """Widths of the hidden layers."""
    residual: bool = True
    """Blocks of two layers with a skip: an odd number of equal widths."""
    layer_norm: bool = False
    """LayerNorm: before each activation of a residual network, after it otherwise."""
    activation: Literal["mish", "gelu", "relu"] = "mish"
    """Of the hidden layers."""
    time_features: Annotated[int, Range(4)] = 16
    """Size of the embedding of the noise level; even, at least 4."""
    steps: PositiveInt = 20
    """K, noise levels that are trained."""
    schedule: Literal["cosine", "vp"] = "cosine"
    """Noise levels."""
    predict: Literal["noise", "clean"] = "noise"
    """What the network predicts: the noise, or the clean chunk."""
    clip: bool = True
    """Bound every clean estimate to [-1, 1]."""
    ddim: NonNegativeInt = 0
    """Sample along so many of the levels without noise (DDIM); 0: along all of them with noise (DDPM)."""
    ema: bool = False
    """Act with a moving average of the weights."""
    kind: str = dataclasses.field(default="diffusion", kw_only=True)

    def check(self, where: str) -> None:
        """Raises UserError where sizes do not fit each other."""
        super().check(where)
        if self.residual and (len(self.hidden) % 2 == 0 or len(set(self.hidden)) > 1):
            fix = f"give an odd number of equal widths, or --{where}no-residual"
            raise UserError(f"--{where}hidden {spelled(self.hidden)} does not fit a residual network", fix)
        if self.time_features % 2:
            problem = f"--{where}time-features {self.time_features} does not pair sines and cosines"
            raise UserError(problem, "give 4, 6, 8 ...")
        if self.ddim > self.steps:
            problem = f"--{where}ddim {self.ddim} is more than --{where}steps {self.steps}"
            raise UserError(problem, f"give {self.steps} or less")


@config
class GaussianConfig(PerceptronConfig):
    """A Gaussian actor, or a mixture."""

    components: PositiveInt = 1
    """Gaussians in the mixture."""
    kind: str = dataclasses.field(default="gaussian", kw_only=True)


@config
class FullGaussianConfig(PerceptronConfig):
    """A Gaussian over whole chunks with one full covariance."""

    hidden: Widths = (128, 128)
    """Widths of the hidden layers."""
    std: Annotated[float, Range(above=0, high=1)] = 0.3
    """Standard deviation of each number at first, in units of action."""
    kind: str = dataclasses.field(default="full-gaussian", kw_only=True)


@config
class RegressionConfig(PerceptronConfig):
    """A deterministic actor by mean squared error."""

    kind: str = dataclasses.field(default="regression", kw_only=True)


@config
class OneStepConfig(PerceptronConfig):
    """A one-step actor: one pass of a network from noise to the chunk."""

    kind: str = dataclasses.field(default="one-step", kw_only=True)


@config
class TanhGaussianConfig(PerceptronConfig):
    """A Gaussian squashed into [-1, 1] by tanh."""

    activation: Literal["gelu", "mish", "relu"] = "gelu"
    """Of the hidden layers."""
    kind: str = dataclasses.field(default="tanh-gaussian", kw_only=True)


@config
class ConsistencyConfig(PerceptronConfig):
    """A consistency model (2303.01469): from any noise level straight to the chunk."""

    steps: PositiveInt = 2
    """K, estimates from noise to data; the chunk is noised anew between them."""
    grid: Annotated[int, Range(2)] = 40
    """Pairs of neighbouring noise levels that are to agree, when it learns from data."""
    kind: str = dataclasses.field(default="consistency", kw_only=True)


@config
class ShortcutConfig(PerceptronConfig):
    """A shortcut model (2410.12557): a flow whose long jumps end where two half as long do."""

    steps: PositiveInt = 1
    """K, jumps from noise to data."""
    grid: Annotated[int, Range(2)] = 128
    """From noise to data it is so many of the jumps that are a flow's, a power of two; the shortest that is learned is twice as long."""
    kind: str = dataclasses.field(default="shortcut", kw_only=True)

    def check(self, where: str) -> None:
        """Raises UserError where jumps cannot be halved."""
        super().check(where)
        if self.grid & (self.grid - 1):
            raise UserError(f"--{where}grid {self.grid} is no power of two", "give 8, 16, 32, 64, 128 ...")
        if self.steps & (self.steps - 1) or self.steps >= self.grid:
            problem = f"jumps of 1 / {self.steps} (--{where}steps) are not among those that are learned"
            raise UserError(problem, f"give a power of two below {self.grid} (--{where}grid)")


@config
class MeanFlowConfig(PerceptronConfig):
    """MeanFlow (2505.13447): a network of mean velocities. ``instant``, with ``same`` and ``power`` 0, is MVP's (2602.13810)."""

    steps: PositiveInt = 1
    """K, jumps from noise to data."""
    same: Annotated[float, Range(0, 1)] = 0.75
    """Share of a batch that learns velocities at one time, as a flow."""
    power: NonNegativeFloat = 1.0
    """How much less large errors count: 0 is squared error."""
    instant: bool = False
    """Also learn the velocity at the time itself in all of the batch."""
    kind: str = dataclasses.field(default="meanflow", kw_only=True)


@config
class DistilledConfig(OneStepConfig):
    """A one-step actor, distilled from a flow that clones the data meanwhile."""

    teacher: FlowConfig = FlowConfig()
    """The flow."""
    kind: str = dataclasses.field(default="distilled", kw_only=True)


@config
class ReflowConfig(PerceptronConfig):
    """A flow cloned from what another flow makes, which clones the data meanwhile (2209.03003)."""

    steps: PositiveInt = 1
    """K, Euler steps from noise to data."""
    teacher: FlowConfig = FlowConfig()
    """The flow that makes the pairs of noise and chunk."""
    kind: str = dataclasses.field(default="reflow", kw_only=True)


@config
class SkillConfig(ActorConfig):
    """A variational autoencoder of chunks (2010.13611): skills, a prior over them, and a decoder that looks at every step."""

    hidden: Widths = (256, 256)
    """Widths of the hidden layers; recurrent layers of the encoder are as wide as the last."""
    skill: PositiveInt = 8
    """W, numbers of a skill."""
    kl: NonNegativeFloat = 0.1
    """Weight of the divergence of encoder and prior, beside the mean log-likelihood of an action."""
    kind: str = dataclasses.field(default="skills", kw_only=True)
