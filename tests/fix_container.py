"""The image, built from the Containerfile and run with podman.

Where no registry can be reached the base image is made of Debian's packages; it is kept, with podman's other data, in
the user's cache. ``TEST_PYTHON_IMAGE`` names another base.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from tests.fix_build_once import Once

ROOT = Path(__file__).parent.parent
BASE = "localhost/scada-trio-test-debian:latest"
IMAGE = "localhost/scada-trio-test:latest"
_NEEDED = ("podman", "runc")


class Podman:
    """Calls podman with storage of its own under ``home``."""

    def __init__(self, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        engine = home / "containers.conf"
        engine.write_text(
            '[containers]\ndefault_ulimits = ["nofile=1024:4096", "nproc=1024:1024"]\n'
            '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
        )
        storage = home / "storage.conf"
        storage.write_text(f'[storage]\ndriver = "overlay"\ngraphroot = "{home}/storage"\nrunroot = "{home}/run"\n')
        self.environment = {
            **os.environ,
            "CONTAINERS_CONF": str(engine),
            "CONTAINERS_STORAGE_CONF": str(storage),
        }

    def __call__(self, *command: str, timeout_s: float = 60.0, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["podman", *command],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert not check or done.returncode == 0, f"podman {' '.join(command[:2])}: {done.stderr[-3000:]}"
        return done

    def has(self, image: str) -> bool:
        return self("image", "exists", image, check=False).returncode == 0


class Container:
    """A container that runs in the background, in the host's network."""

    def __init__(self, podman: Podman, name: str) -> None:
        self._podman = podman
        self.name = name

    def logs(self) -> str:
        """Everything on standard output and standard error."""
        done = self._podman("logs", self.name)
        return done.stdout + done.stderr

    def wait_for(self, message: str, within_s: float = 60.0) -> dict[str, object]:
        """The first log line with that message."""
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            for line in self.logs().splitlines():
                if line.startswith("{") and (entry := json.loads(line)).get("message") == message:
                    assert isinstance(entry, dict)
                    return entry
            time.sleep(0.1)
        raise AssertionError(f"no {message!r} in the log:\n{self.logs()[-3000:]}")

    def health(self) -> int:
        """Exit status of the image's own check."""
        return self._podman("healthcheck", "run", self.name, check=False).returncode

    def stop(self, within_s: float = 30.0) -> int:
        """SIGTERM, and SIGKILL after ``within_s``; the exit status."""
        self._podman("stop", "--time", str(int(within_s)), self.name, timeout_s=within_s + 30)
        return int(self._podman("inspect", "--format", "{{.State.ExitCode}}", self.name).stdout)

    def kill(self) -> None:
        """SIGKILL."""
        self._podman("kill", self.name)
        self._podman("wait", self.name)

    def start(self) -> None:
        """Again, as it was."""
        self._podman("start", self.name)


@contextmanager
def run_container(
    podman: Podman, *command: str, volume: str, environment: Mapping[str, str], image: str = IMAGE
) -> Iterator[Container]:
    """A container as the documents recommend: read-only root, no capability, one volume."""
    name = f"scada-trio-test-{uuid4().hex[:8]}"
    settings = [part for key, value in environment.items() for part in ("--env", f"{key}={value}")]
    podman(
        *("run", "--detach", "--name", name, "--network", "host", "--read-only", "--cap-drop", "all"),
        *("--security-opt", "no-new-privileges", "--volume", f"{volume}:/data", *settings, image, *command),
    )
    try:
        yield Container(podman, name)
    finally:
        podman("rm", "--force", "--time", "2", name)


def until(holds: Callable[[], bool], within_s: float = 60.0) -> None:
    """Wait, for tests without an event loop."""
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.1)


def free_port() -> int:
    """A port that nobody listens on, below those that the kernel hands out to clients."""
    for port in range(20_000 + os.getpid() % 5_000, 32_000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port below 32000")


@pytest.fixture(scope="session")
def podman() -> Podman:
    missing = [program for program in _NEEDED if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    if os.geteuid() != 0:
        pytest.skip("podman is tried as root: making a base image needs it")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Podman(cache / "scada-trio-tests" / "containers")


@pytest.fixture(scope="session")
def image(podman: Podman, tmp_path_factory: pytest.TempPathFactory, once: Once) -> str:
    """The image of this working tree."""

    def build() -> None:
        base = os.environ.get("TEST_PYTHON_IMAGE") or debian(podman, tmp_path_factory.mktemp("base"))
        podman(
            *("build", "--format", "docker", "--network", "host", "--build-arg", f"PYTHON_IMAGE={base}"),
            *(_pip_settings(tmp_path_factory.mktemp("pip"))),
            *("--tag", IMAGE, "--file", "Containerfile", "."),
            timeout_s=600,
        )
        podman("image", "prune", "--force")

    once("image", build)
    return IMAGE


@pytest.fixture
def volume(podman: Podman) -> Iterator[str]:
    """A new volume; its name."""
    name = podman("volume", "create").stdout.strip()
    yield name
    podman("volume", "rm", "--force", name)


def debian(podman: Podman, directory: Path) -> str:
    """An image of Debian with Python, and with what stands in for other makers' images; made in ``directory`` once."""
    if podman.has(BASE):
        return BASE
    if shutil.which("debootstrap") is None:
        pytest.skip("debootstrap is not installed")
    root, archive = directory / "root", directory / "root.tar"
    packages = "python3,python3-venv,postgresql,prometheus"
    command = ["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    subprocess.run(["tar", "-C", str(root), "-cf", str(archive), "."], check=True, timeout=120)
    podman("import", "--quiet", str(archive), BASE, timeout_s=300)
    archive.unlink()
    shutil.rmtree(root)
    return BASE


def _pip_settings(directory: Path) -> list[str]:
    """Let the build's pip trust the certificate authorities that this machine trusts."""
    authorities = next(
        (path for name in ("PIP_CERT", "SSL_CERT_FILE") if (path := os.environ.get(name)) and Path(path).is_file()),
        None,
    )
    if authorities is None:
        return []
    inside = "/etc/ssl/certs/of-the-host.crt"
    settings = directory / "pip.conf"
    settings.write_text(f"[global]\ncert = {inside}\n")
    return ["--volume", f"{authorities}:{inside}:ro", "--volume", f"{settings}:/etc/pip.conf:ro"]
