"""Many workers for a list of jobs: who does what (claims), where they run (engines), and how all of it stands. No jax in here."""
