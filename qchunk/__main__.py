"""``qchunk`` and ``python -m qchunk``: the command line. Signals are watched before the rest is imported."""

import gc

from qchunk.system import stopping

# new objects between two searches for garbage; tracing makes millions that stay, and spent a tenth of its time on searches
SELDOM = 100_000, 50, 50


def main() -> None:
    """Runs the command that ``sys.argv`` names (``cli.main``)."""
    gc.set_threshold(*SELDOM)
    with stopping.watched():
        from qchunk import cli

        cli.main()


if __name__ == "__main__":
    main()
