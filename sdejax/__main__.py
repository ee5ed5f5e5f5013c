"""``python -m sdejax``: the command line."""

from sdejax.cli import main

if __name__ == "__main__":
    main()
