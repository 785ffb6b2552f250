"""Command line: ``python -m benchmarks --help``."""

import typer

app = typer.Typer(no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Measure what docs/validation.md claims."""


if __name__ == "__main__":
    app()
