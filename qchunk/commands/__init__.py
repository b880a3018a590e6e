"""What the commands do. Each parses its flags, calls the library, and prints figures to stdout."""
