"""The command ``kdviz``, and ``python -m kdviz``."""

from kdviz.stopping import listening


def main() -> None:
    """Take signals first, then load and run the command line; the entry point of the ``kdviz`` script."""
    with listening():
        from kdviz import cli

        cli.main()


if __name__ == "__main__":
    main()
