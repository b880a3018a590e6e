"""The configurations of actors: one for each kind that ships."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from qchunk.config import ActorConfig, config
from qchunk.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt, Range, Widths, spelled
from qchunk.system.errors import UserError


@config
class FlowConfig(ActorConfig):
    """A flow-matching actor (2507.07969, appendix: 4 layers of 512, 10 Euler steps)."""

    hidden: Widths = (512, 512, 512, 512)
    """Widths of the hidden layers."""
    layer_norm: bool = False
    """LayerNorm after each activation."""
    steps: PositiveInt = 10
    """K, Euler steps from noise to data."""
    committed: NonNegativeInt = 0
    """D: it learns to go on from 0 to D first actions that are given (training-time real-time chunking, 2512.05964), for --execute committed."""
    ema: bool = False
    """Act with a moving average of the weights."""
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
class GaussianConfig(ActorConfig):
    """A Gaussian actor, or a mixture."""

    hidden: Widths = (512, 512, 512, 512)
    """Widths of the hidden layers."""
    layer_norm: bool = False
    """LayerNorm after each activation."""
    components: PositiveInt = 1
    """Gaussians in the mixture."""
    ema: bool = False
    """Act with a moving average of the weights."""
    kind: str = dataclasses.field(default="gaussian", kw_only=True)


@config
class FullGaussianConfig(ActorConfig):
    """A Gaussian over whole chunks with one full covariance."""

    hidden: Widths = (128, 128)
    """Widths of the hidden layers."""
    layer_norm: bool = False
    """LayerNorm after each activation."""
    std: Annotated[float, Range(above=0, high=1)] = 0.3
    """Standard deviation of each number at first, in units of action."""
    ema: bool = False
    """Act with a moving average of the weights."""
    kind: str = dataclasses.field(default="full-gaussian", kw_only=True)


@config
class RegressionConfig(ActorConfig):
    """A deterministic actor by mean squared error."""

    hidden: Widths = (512, 512, 512, 512)
    """Widths of the hidden layers."""
    layer_norm: bool = False
    """LayerNorm after each activation."""
    ema: bool = False
    """Act with a moving average of the weights."""
    kind: str = dataclasses.field(default="regression", kw_only=True)


@config
class OneStepConfig(ActorConfig):
    """A one-step actor: one pass of a network from noise to the chunk."""

    hidden: Widths = (512, 512, 512, 512)
    """Widths of the hidden layers."""
    layer_norm: bool = False
    """LayerNorm after each activation."""
    ema: bool = False
    """Act with a moving average of the weights."""
    kind: str = dataclasses.field(default="one-step", kw_only=True)


@config
class TanhGaussianConfig(ActorConfig):
    """A Gaussian squashed into [-1, 1] by tanh."""

    hidden: Widths = (512, 512, 512, 512)
    """Widths of the hidden layers."""
    layer_norm: bool = False
    """LayerNorm after each activation."""
    activation: Literal["gelu", "mish", "relu"] = "gelu"
    """Of the hidden layers."""
    ema: bool = False
    """Act with a moving average of the weights."""
    kind: str = dataclasses.field(default="tanh-gaussian", kw_only=True)


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
