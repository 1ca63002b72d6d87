"""Devices that count: each variable shows 1, 2, 3 ... with a source time of its own, and a log tells what was made."""
