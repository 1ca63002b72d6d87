"""Loads every fixture module of the tests; the fixtures themselves live in tests/fix_*.py."""

from pathlib import Path

pytest_plugins = sorted(f"tests.{path.stem}" for path in (Path(__file__).parent / "tests").glob("fix_*.py"))
