"""``python -m scada_trio`` and the console script."""

from scada_trio.cli import main

if __name__ == "__main__":
    main()
