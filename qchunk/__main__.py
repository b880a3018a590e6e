"""``qchunk`` and ``python -m qchunk``: the command line. Signals are watched before the rest is imported."""

from qchunk.system import stopping


def main() -> None:
    """Runs the command that ``sys.argv`` names (``cli.main``)."""
    with stopping.watched():
        from qchunk import cli

        cli.main()


if __name__ == "__main__":
    main()
