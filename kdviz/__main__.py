"""Run ``python -m kdviz`` as the command ``kdviz``."""

from kdviz.cli import main

if __name__ == "__main__":
    main()
