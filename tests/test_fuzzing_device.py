"""Whatever a device sends: a reason, in bounded time and memory; what fuzzing found, and some seconds of what it does.

The long form, guided by coverage, is ``python -m tests.fuzzing``; here the inputs that once did harm are played, and
mutations of the good ones that are the same on every run.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from scada_trio.errors import DeviceProtocolError
from tests.fuzzing import __main__ as command
from tests.fuzzing import oracle
from tests.fuzzing.targets import NAMES, REGRESSIONS, load

ROOT = Path(__file__).parent.parent
KEPT = [(name, path) for name in NAMES for path in sorted((REGRESSIONS / name).glob("*.bin"))]
MUTATIONS = {"frames": 1000, "channel": 200, "publish": 1000, "services": 500, "certificates": 500, "link": 0}
WORDS = [bytes.fromhex(word) for word in ("ffffffff", "ffffff7f", "00000080", "fcffffff", "00000000", "e8030000", "80")]


@pytest.mark.parametrize(("name", "path"), KEPT, ids=[f"{name}-{path.stem}" for name, path in KEPT])
def test_what_once_did_harm(name: str, path: Path) -> None:
    finding = oracle.judge(load(name).run, path.read_bytes(), count_memory=True)
    assert finding is None, finding.report


@pytest.mark.parametrize("name", NAMES)
def test_good_inputs_do_no_harm(name: str) -> None:
    """Every target runs: what its inputs are bent from is itself no finding."""
    target = load(name)
    for data in list(target.seeds())[:: 4 if name == "link" else 1]:
        finding = oracle.judge(target.run, data)
        assert finding is None, finding.report


@pytest.mark.parametrize("name", ["frames", "channel", "publish", "services"])
def test_what_a_long_run_came_to_does_no_harm(name: str) -> None:
    """Branches that no seed takes."""
    target = load(name)
    corpus = target.corpus()
    assert len(corpus) > 30
    for data in corpus:
        finding = oracle.judge(target.run, data, count_memory=True)
        assert finding is None, f"{data.hex()}\n{finding.report}"


@pytest.mark.parametrize("name", [name for name in NAMES if MUTATIONS[name]])
def test_bent_inputs_do_no_harm(name: str) -> None:
    """Bytes changed, cut out, put in, and taken from another input."""
    target, chance = load(name), random.Random(7)
    seeds = list(target.seeds())
    for _ in range(MUTATIONS[name]):
        data = bent(chance.choice(seeds), chance.choice(seeds), chance)
        finding = oracle.judge(target.run, data, count_memory=True)
        assert finding is None, f"{data.hex()}\n{finding.report}"


def bent(data: bytes, other: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.randint(1, 4)):
        at, end = sorted((chance.randrange(len(data) + 1), chance.randrange(len(data) + 1)))
        match chance.randrange(5):
            case 0:
                data = data[:at] + bytes((chance.randrange(256),)) + data[at + 1 :]
            case 1:
                word = chance.choice(WORDS)
                data = data[:at] + word + data[at + len(word) :]
            case 2:
                data = data[:at] + data[end:]
            case 3:
                data = data[:end] + data[at:]
            case _:
                data = data[:at] + other[at:]
    return data[:16_384]


@pytest.mark.parametrize("moment", [1, 7], ids=["before the channel", "after"])
def test_a_flood_takes_no_more_than_a_message_may(moment: int) -> None:
    """A message that never ends is dropped at its bound, wherever the conversation is."""
    link = load("link")
    flood = bytes((moment, 3)) + bytes(8000)
    finding = oracle.judge(link.run, flood, count_memory=True, limit_s=20.0)
    assert finding is None, finding.report


# ---- the oracle itself


def forever(_: bytes) -> None:
    while True:
        pass


def hungry(_: bytes) -> None:
    bytearray(oracle.LIMIT_BYTES + 1)


def broken(_: bytes) -> None:
    raise IndexError("somewhere")


def wrong(_: bytes) -> None:
    raise oracle.Wrong("two ways to the same disagree")


def refused(_: bytes) -> None:
    raise DeviceProtocolError("as it should")


@pytest.mark.parametrize(
    ("run", "key"),
    [(forever, "TooSlow"), (hungry, "memory"), (broken, "IndexError"), (wrong, "Wrong"), (refused, None)],
)
def test_the_oracle_tells_harm_from_refusal(run: Callable[[bytes], None], key: str | None) -> None:
    """A hang, much memory, an error of ours and a contradiction are findings; a refusal is none."""
    finding = oracle.judge(run, b"", count_memory=True)
    assert (None if finding is None else finding.key.partition("-")[0]) == key


def test_an_input_is_played_again_by_its_file(tmp_path: Path) -> None:
    """The command says what a finding's file does, and that there is none any more."""
    path = tmp_path / "input.bin"
    path.write_bytes(next(iter(load("publish").seeds())))
    arguments = [sys.executable, "-W", "ignore", "-m", "tests.fuzzing", "--target", "publish", "--replay", str(path)]
    played = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (played.returncode, played.stdout) == (0, "nothing\n")


def test_the_long_form_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the fuzzer there is one line with the command that installs it, and exit status 2."""
    monkeypatch.setattr(command, "find_spec", lambda _: None)
    app = typer.Typer()
    app.command()(command.main)
    result = CliRunner().invoke(app, ["--minutes", "1"])
    assert result.exit_code == 2
    assert "pip install atheris==" in result.output
    assert CliRunner().invoke(app, ["--target", "nothing"]).exit_code == 2
