"""Where commands print what they were asked for."""

from __future__ import annotations

import sys

from rich.console import Console

# a pipe has no width: nothing is cut for the width of a terminal that is not there
out = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 200)
