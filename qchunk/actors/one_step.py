"""Kernels of one step, from noise to the chunk at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qchunk.types import Kernel, LossFn, Module, PyTree, StepFn

ONE_STEP = np.asarray([[0.0, 1.0], [1.0, 0.0]])  # (alpha, sigma): noise, then data


def one_step(
    module: Module, shape: Callable[[PyTree], tuple[int, ...]], step: StepFn, noisy: bool, loss: LossFn
) -> Kernel:
    """A Kernel with K = 1: pure noise x, then the chunk. A student that generates in one step is made of it, too.

    Args:
        shape: the module's parameters -> (H, A).
        step: what becomes of the noise x, at k = 0; it may leave x unread.
        noisy: whether ``step`` has a positive standard deviation.
        loss: of imitation, without noise.
    """
    return Kernel(
        modules=(module,),
        levels=ONE_STEP,
        shape=lambda vars: shape(vars.params[module.name]),
        denoise=lambda vars, obs, x, k: step(vars, obs, x, k)[0],
        advance=None,
        step=step,
        noisy=noisy,
        draw=lambda key, chunk: (),
        loss=loss,
    )
