"""Q of every prefix of a chunk in one pass: Q(s, a_{t:t+k}) for several lengths k (2605.11009; 2605.10044; 2603.01891)."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
import numpy as np

from qchunk import nets
from qchunk.config import ChunkConfig, CriticConfig, config, refuse_unread
from qchunk.critics.ensemble import ensemble
from qchunk.ranges import PositiveInt, Widths, spelled
from qchunk.system.errors import UserError
from qchunk.types import CLEAN, Array, Critic, Vars


@config
class PrefixConfig(CriticConfig):
    """An ensemble of critics of every prefix of a chunk (2605.11009: two blocks of 128, the lower of two members)."""

    hidden: Widths = (128, 128)
    """Widths of the hidden layers; a transformer has a block for each, all of one width."""
    aggregate: str = "min"
    """How the ensemble's opinions become one: qchunk list aggregates, or yours as my_file.py:my_function."""
    network: Literal["transformer", "masked"] = "transformer"
    """A causal transformer over the actions; or a perceptron of the chunk with zeros behind the prefix, which costs less on a CPU."""
    heads: PositiveInt = 4
    """Of the transformer's attention (2605.10044: 4; a port of 2605.11009: 8)."""

    def check(self, where: str) -> None:
        """Raises UserError where widths do not make a transformer, or it would not read what is given."""
        super().check(where)
        if self.network == "transformer" and (len(set(self.hidden)) > 1 or self.hidden[0] % self.heads):
            problem = f"--{where}hidden {spelled(self.hidden)} does not fit a transformer of {self.heads} heads"
            raise UserError(problem, f"give equal multiples of {self.heads}, or --{where}network masked")
        if self.network == "transformer":
            own, fix = ("layer_norm", "norm_first", "activation"), f"leave it out, or give --{where}network masked"
            refuse_unread(self, PrefixConfig, own, where, "a transformer has its own", fix)


def points_of(c: ChunkConfig) -> tuple[int, ...]:
    """Lengths of the prefixes that are valued: the backup points, by default all up to the horizon."""
    return c.backup or tuple(range(1, c.horizon + 1))


def check_points(c: ChunkConfig, where: str) -> None:
    """Raises UserError where the longest prefix is not the chunk, or shorter ones are not discounted."""
    c.must_count_steps(where)
    if (last := points_of(c)[-1]) != c.horizon:
        raise UserError(f"--{where}backup ends at {last}", f"let it end at the horizon, {c.horizon}")


def prefix_q(
    c: PrefixConfig,
    horizon: int,
    points: tuple[int, ...],
    name: str = "critic",
    read: tuple[int, ...] | None = None,
) -> Critic:
    """Critics of the first n_j actions: ``values`` are [members, *B, J], and ``score`` [*B] is that of the longest prefix told.

    Chunks may have fewer actions than H, as many as the longest prefix told.

    Args:
        horizon: H, actions of the chunks that it is built for.
        points: 0 <= n_1 < ... < n_J <= H. The value of no action is V(s), whatever the chunk (2410.09536, section 4).
        read: those of the points whose values are told, by default all; the parameters are those of all.
    """
    told = points if read is None else read
    q, longest = (_members(c, horizon, points, some, name) for some in (told, told[-1:]))

    def score(vars: Vars, obs, action=None, level=CLEAN) -> Array:
        return q.aggregate(longest.values(vars, obs, action, level))[..., 0]

    return q._replace(score=score)


def _members(c: PrefixConfig, horizon: int, points: tuple[int, ...], told: tuple[int, ...], name: str) -> Critic:
    """The ensemble, which computes the values of those told alone."""

    def flat(action: Array) -> Array:
        missing = [(0, 0)] * (action.ndim - 2) + [(0, horizon - action.shape[-2]), (0, 0)]
        return nets.flatten_chunk(jnp.pad(action, missing))

    if c.network == "masked":
        shown = np.arange(horizon) < np.asarray(told)[:, None]  # [J, H]
        which = np.eye(len(points))[[points.index(n) for n in told]]

        def parts(obs: Array, action: Array, level) -> tuple[Array, ...]:
            prefixes = jnp.where(shown[:, : action.shape[-2], None], action[..., None, :, :], 0.0)
            return obs[..., None, :], flat(prefixes), jnp.asarray(which, jnp.float32)

        return ensemble(c, name, lambda spec: (spec.obs, horizon * spec.action, len(points)), parts)
    net = nets.PrefixTransformer(c.hidden, c.heads, horizon, told)
    sizes = lambda spec: (spec.obs, horizon * spec.action)  # noqa: E731
    return ensemble(c, name, sizes, lambda obs, action, level: (obs, flat(action)), net=net)
