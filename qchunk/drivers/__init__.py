"""Who trains: each regime a generator of events."""
