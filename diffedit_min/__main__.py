"""`python -m diffedit_min` is the command `diffedit-min`."""

from .studio.cli import main

if __name__ == "__main__":
    main()
