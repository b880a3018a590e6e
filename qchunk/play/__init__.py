"""How chunks are played: execution, rollouts, episodes, on the device and on the host."""
