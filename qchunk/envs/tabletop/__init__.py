"""Kinematic manipulation on the device: for development, thousands of parallel environments, and statistics."""

from qchunk.envs.tabletop.env import Tabletop, make

__all__ = ["Tabletop", "make"]
