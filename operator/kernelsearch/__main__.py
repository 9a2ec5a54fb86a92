"""`python -m kernelsearch`: the command, where the package is on the path and no console script is installed."""

from kernelsearch.cli import main

if __name__ == "__main__":
    main()
