"""The whole embedded stack as one object: start it, ask it for addresses, stop it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Literal

from local import migrate
from local.errors import StackError
from local.gateway import launch_gateway
from local.keys import Keys, load_keys
from local.paths import MIGRATIONS, ROOT, state_dir
from local.platform import apply_platform, set_passwords
from local.postgres import Postgres
from local.processes import LOOPBACK, Child, accepts, answers, free_ports, require_free_port

Transport = Literal["rest", "direct"]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Ports:
    """Loopback TCP ports; the defaults are those of `supabase start` where it has them."""

    gateway: int = 54321
    postgres: int = 54322
    functions: int = 54330
    simulator: int = 54340
    images: int = 54345
    stripe: int = 54350
    mail: int = 54360

    @classmethod
    def from_environment(cls) -> Ports:
        """The defaults, each moved by QUERNEL_PORT_NAME."""
        chosen = {}
        for name in cls.__dataclass_fields__:
            text = os.environ.get(_port_variable(name))
            if text is not None:
                if not text.isdigit() or not 0 < int(text) < 2**16:
                    raise StackError(f"{_port_variable(name)}={text} is not a port number.")
                chosen[name] = int(text)
        return cls(**chosen)

    @classmethod
    def free(cls) -> Ports:
        """Ports that nobody uses now."""
        return cls(*free_ports(len(cls.__dataclass_fields__)))

    def __post_init__(self) -> None:
        taken: dict[int, str] = {}
        for name, port in asdict(self).items():
            if port in taken:
                raise StackError(
                    f"{_port_variable(taken[port])} and {_port_variable(name)} are both {port}. "
                    "Choose another port for one of them."
                )
            taken[port] = name


def _port_variable(name: str) -> str:
    return f"QUERNEL_PORT_{name.upper()}"


STACK_SETTINGS = (
    "QUERNEL_ENVIRONMENT",
    "QUERNEL_DATABASE_URL",
    "QUERNEL_MIGRATIONS",
    "QUERNEL_PORT_",
    "QUERNEL_PUBLIC_URL",
    "QUERNEL_STACK_WROTE",
    "QUERNEL_STATE_DIR",
    "QUERNEL_SUPABASE_",
)
"""How variables begin that the stack itself decides."""


SWITCHES = ("QUERNEL_VISION_MODEL", "QUERNEL_EMBEDDING_MODEL")
"""Variables that say something when they are empty: off."""


def own_settings() -> dict[str, str]:
    """The settings of the functions app that the developer's shell sets, for dev and demo.

    What a stack wrote into its functions.env is not among them, though a shell has read it.
    """
    written = set(os.environ.get("QUERNEL_STACK_WROTE", "").split())
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith("QUERNEL_")
        and not name.startswith(STACK_SETTINGS)
        and (value or name in SWITCHES)
        and _mark(name, value) not in written
    }


def _mark(name: str, value: str) -> str:
    """Tells a variable that a stack wrote from one that says something else by now."""
    return hashlib.sha256(f"{name}={value}".encode()).hexdigest()[:16]


@dataclass
class Stack:
    """Postgres → platform → migrations → gateway → simulators → functions app → worker.

    `state` holds everything the stack writes. `services=False` stops after the gateway.
    `rebuild=True` lets a database whose migrations were edited be thrown away and made again;
    otherwise that is an error which says so. `transport` decides whether the functions app
    reaches the database through the gateway or over a pooled direct connection. `environment`
    adds to (and wins over) what the functions app and the worker get; with a QUERNEL_LLM_URL,
    a QUERNEL_IMAGES_URL, Stripe keys or a QUERNEL_SMTP_URL in it, that simulator is not started.
    """

    state: Path = field(default_factory=state_dir)
    ports: Ports = field(default_factory=Ports.free)
    migrations: Path = MIGRATIONS
    services: bool = True
    durable: bool = True
    rebuild: bool = False
    transport: Transport = "rest"
    environment: Mapping[str, str] = field(default_factory=dict)
    mended: bool = True
    """False serves the gateway package without local/gateway's corrections."""
    say: Say = lambda _: None

    def __post_init__(self) -> None:
        self.state = self.state.resolve()
        self._children: list[Child] = []
        self._lock: IO[str] | None = None
        self._keys: Keys | None = None
        self._postgres: Postgres | None = None

    # Addresses and keys ----------------------------------------------------------------------

    @property
    def keys(self) -> Keys:
        if self._keys is None:
            self._keys = load_keys(self.state / "secrets.json")
        return self._keys

    @property
    def postgres(self) -> Postgres:
        if self._postgres is None:
            self._postgres = Postgres(
                self.state / "postgres",
                port=self.ports.postgres,
                password=self.keys.superuser_password,
                log=self.logs / "postgres.log",
                durable=self.durable,
            )
        return self._postgres

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def supabase_url(self) -> str:
        return f"http://{LOOPBACK}:{self.ports.gateway}"

    @property
    def functions_url(self) -> str:
        return f"http://{LOOPBACK}:{self.ports.functions}"

    @property
    def simulator_url(self) -> str:
        return f"http://{LOOPBACK}:{self.ports.simulator}"

    @property
    def images_url(self) -> str:
        return f"http://{LOOPBACK}:{self.ports.images}"

    @property
    def stripe_url(self) -> str:
        return f"http://{LOOPBACK}:{self.ports.stripe}"

    @property
    def mail(self) -> Path:
        """The folder in which every email the stack sends is a file; see local/mailbox.py."""
        return self.state / "mail"

    @property
    def admin_dsn(self) -> str:
        """As the superuser `supabase_admin`."""
        return self.postgres.admin_dsn

    @property
    def postgres_dsn(self) -> str:
        """As the migrating, non-superuser role `postgres`."""
        return self.postgres.dsn("postgres", self.keys.postgres_password)

    @property
    def functions_dsn(self) -> str:
        """As the role of the direct transport."""
        return self.postgres.dsn("quernel_functions", self.keys.functions_password)

    def functions_environment(self) -> dict[str, str]:
        """The variables of functions/core/settings.py for the app, the worker and the CLI."""
        settings = {
            "QUERNEL_ENVIRONMENT": "local",
            "QUERNEL_PUBLIC_URL": self.functions_url,
            "QUERNEL_SUPABASE_URL": self.supabase_url,
            "QUERNEL_SUPABASE_PUBLISHABLE_KEY": self.keys.publishable_key,
            "QUERNEL_SUPABASE_SECRET_KEY": self.keys.secret_key,
            "QUERNEL_SUPABASE_JWT_SECRET": self.keys.jwt_secret,
            "QUERNEL_STRIPE_WEBHOOK_SECRET": self.keys.stripe_webhook_secret,
            "QUERNEL_WEBHOOK_SIGNING_KEY": self.keys.webhook_signing_key,
            "QUERNEL_MASTER_KEYS": json.dumps({"local": self.keys.master_key}),
            "QUERNEL_MASTER_KEY_CURRENT": "local",
        }
        if self._simulates_llm:
            settings["QUERNEL_LLM_URL"] = f"{self.simulator_url}/v1"
        if self._simulates_images:
            settings["QUERNEL_IMAGES_URL"] = self.images_url
        if self._simulates_stripe:
            settings["QUERNEL_STRIPE_SECRET_KEY"] = self.keys.stripe_secret_key
            settings["QUERNEL_STRIPE_API_BASE"] = self.stripe_url
        if self._keeps_mail:
            settings["QUERNEL_SMTP_URL"] = f"smtp://{LOOPBACK}:{self.ports.mail}?starttls=off"
            settings["QUERNEL_EMAIL_FROM"] = "Quernel <quernel@localhost>"
        if self.transport == "direct":
            settings["QUERNEL_DATABASE_URL"] = self.functions_dsn
        inherited = {name: value for name, value in os.environ.items() if name[:8] != "QUERNEL_"}
        return inherited | {"PYTHONUNBUFFERED": "1"} | settings | dict(self.environment)

    @property
    def _simulates_llm(self) -> bool:
        return "QUERNEL_LLM_URL" not in self.environment

    @property
    def _simulates_images(self) -> bool:
        return "QUERNEL_IMAGES_URL" not in self.environment

    @property
    def _simulates_stripe(self) -> bool:
        return not {"QUERNEL_STRIPE_SECRET_KEY", "QUERNEL_STRIPE_API_BASE"} & set(self.environment)

    @property
    def _keeps_mail(self) -> bool:
        return "QUERNEL_SMTP_URL" not in self.environment

    # Life ------------------------------------------------------------------------------------

    def start(self) -> Stack:
        """Bring everything up; on failure stop what was started and raise StackError."""
        self._take_lock()
        try:
            self._check_ports()
            self.start_database()
            gateway = self._launch_gateway()
            # They import for as long as the gateway does, and need it for nothing before that.
            services = self._launch_services() if self.services else []
            self._wait_for_gateway(gateway)
            if self.services:
                self._wait_for_services(services)
            self._write_state()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop in reverse order; safe to call twice."""
        while self._children:
            self._children.pop().stop()
        if self._postgres is not None:
            self._postgres.stop()
        if self._lock is not None:
            (self.state / "stack.json").unlink(missing_ok=True)
            self._environment_file.unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def require_running(self) -> None:
        """Raise StackError with the end of its log if a process has ended."""
        for child in [self.postgres.child, *self._children]:
            child.require_running()

    def __enter__(self) -> Stack:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start_database(self) -> None:
        """Postgres with the platform and every migration, as the files are now."""
        postgres = self.postgres
        if not postgres.initialized:
            self._create_database()
        else:
            self._step("Postgres", postgres.start)
            if not self._has_platform():
                # A first start that was interrupted before the platform was complete.
                self._recreate_database()
        set_passwords(postgres, self.keys)
        if postgres.place.notice:
            self.say(postgres.place.notice)
        state = migrate.pending(postgres.admin_dsn, self.migrations)
        if state.changed:
            names = ", ".join(state.changed)
            if not self.rebuild:
                raise StackError(
                    f"Applied migrations have been edited since: {names}.\n"
                    "Until 1.0 migrations are edited in place, so the local database has to be "
                    "made again, without its data: `make dev ARGS=--rebuild`."
                )
            self.say(f"Migrations were edited ({names}): the database is made again.")
            self._recreate_database()
            set_passwords(postgres, self.keys)
            state = migrate.pending(postgres.admin_dsn, self.migrations)
        if state.new:
            self._step(f"{len(state.new)} migrations", self._migrate)

    def start_gateway(self) -> None:
        """The Supabase-compatible gateway; reads schemas and functions as they are now."""
        self._wait_for_gateway(self._launch_gateway())

    def start_services(self) -> None:
        """The simulators of what is elsewhere, the functions app and the worker."""
        self._wait_for_services(self._launch_services())

    # Parts -----------------------------------------------------------------------------------

    def _launch_gateway(self) -> Child:
        child = launch_gateway(
            port=self.ports.gateway,
            database_url=self.postgres.dsn("authenticator", self.keys.authenticator_password),
            keys=self.keys,
            folder=self.state / "gateway",
            log=self.logs / "gateway.log",
            mended=self.mended,
        )
        self._children.append(child)
        return child

    def _wait_for_gateway(self, child: Child) -> None:
        ready = partial(answers, f"{self.supabase_url}/auth/v1/health")
        self._step("Gateway", partial(child.wait_until, ready, seconds=30))

    def _launch_services(self) -> list[tuple[Child, Callable[[], bool]]]:
        """Start the simulators and the functions app; each with what tells when it is ready."""
        environment = self.functions_environment()
        ready: list[tuple[Child, Callable[[], bool]]] = []
        if self._keeps_mail:
            options = [f"--port={self.ports.mail}", f"--folder={self.mail}"]
            child = self._child("mailbox", "local.mailbox", options, environment)
            ready.append((child, partial(accepts, self.ports.mail)))
        if self._simulates_llm:
            port = f"--port={self.ports.simulator}"
            child = self._child("simulator", "local.simulator", [port], environment)
            ready.append((child, partial(answers, self.simulator_url)))
        if self._simulates_images:
            port = f"--port={self.ports.images}"
            child = self._child("images", "local.image_simulator", [port], environment)
            ready.append((child, partial(answers, f"{self.images_url}/health")))
        if self._simulates_stripe:
            webhook = f"{self.functions_url}/billing/webhooks/stripe"
            options = [f"--port={self.ports.stripe}", f"--webhook-url={webhook}"]
            child = self._child("stripe", "local.stripe_double", options, environment)
            ready.append((child, partial(answers, self.stripe_url)))
        options = [
            f"--host={LOOPBACK}",
            f"--port={self.ports.functions}",
            "--no-access-log",
            "--timeout-graceful-shutdown=3",
        ]
        child = self._child("functions", "uvicorn", ["functions.app:app", *options], environment)
        ready.append((child, partial(answers, f"{self.functions_url}/health")))
        return ready

    def _wait_for_services(self, launched: list[tuple[Child, Callable[[], bool]]]) -> None:
        # Last, because nobody waits for it; and it would complain of a gateway that is not there.
        worker = self._child("worker", "functions.worker", [], self.functions_environment())
        for child, ready in launched:
            self._step(child.name, partial(child.wait_until, ready, seconds=30))
        worker.require_running()

    def _create_database(self) -> None:
        self._step("New Postgres", self.postgres.initialize)
        self._step("Postgres", self.postgres.start)
        self._step("Platform", self._apply_platform)

    def _apply_platform(self) -> None:
        folder = self.state / "gateway"
        folder.mkdir(exist_ok=True)
        apply_platform(self.postgres, folder)

    def _recreate_database(self) -> None:
        self.postgres.stop()
        self.postgres.destroy()
        shutil.rmtree(self.state / "gateway", ignore_errors=True)
        self._create_database()

    def _has_platform(self) -> bool:
        return migrate.query_one(
            self.admin_dsn, "select to_regclass('storage.objects') is not null"
        )

    def _migrate(self) -> None:
        migrate.push(
            self.admin_dsn, self.postgres_dsn, self.migrations, self.state / "supabase-cli"
        )
        set_passwords(self.postgres, self.keys)

    def _child(
        self, name: str, module: str, arguments: list[str], environment: Mapping[str, str]
    ) -> Child:
        child = Child(
            name.capitalize(),
            [sys.executable, "-m", module, *arguments],
            log=self.logs / f"{name}.log",
            cwd=ROOT,
            env=environment,
        )
        self._children.append(child)
        return child

    def _step(self, what: str, action: Callable[[], object]) -> None:
        began = time.monotonic()
        action()
        self.say(f"{what}: {time.monotonic() - began:.1f} s")

    def _check_ports(self) -> None:
        names = ["gateway"]
        if self.services:
            names += ["functions"]
            names += ["simulator"] if self._simulates_llm else []
            names += ["images"] if self._simulates_images else []
            names += ["stripe"] if self._simulates_stripe else []
            names += ["mail"] if self._keeps_mail else []
        for name in names:
            require_free_port(getattr(self.ports, name), name, _port_variable(name))

    def _take_lock(self) -> None:
        """One stack per state folder, for as long as this process lives."""
        self.state.mkdir(parents=True, exist_ok=True)
        lock = (self.state / "stack.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise StackError(self._who_runs()) from None
        self._lock = lock

    def _who_runs(self) -> str:
        try:
            running = json.loads((self.state / "stack.json").read_text())
        except (OSError, ValueError):
            return f"A stack is starting in {self.state} already."
        return (
            f"The stack runs already (process {running['pid']}): {running['functions_url']} and "
            f"{running['supabase_url']}. Stop it with Ctrl-C where it runs, or with "
            f"`kill {running['pid']}`."
        )

    def _write_state(self) -> None:
        unfinished = self.state / "stack.json.partial"
        unfinished.write_text(
            json.dumps(
                {
                    "pid": os.getpid(),
                    "supabase_url": self.supabase_url,
                    "functions_url": self.functions_url,
                    "ports": asdict(self.ports),
                    "children": {
                        child.name: child.pid for child in [self.postgres.child, *self._children]
                    },
                },
                indent=2,
            )
        )
        unfinished.rename(self.state / "stack.json")
        with open(self._environment_file, "w", opener=_private_file) as file:
            settings = {
                name: value
                for name, value in self.functions_environment().items()
                if name.startswith("QUERNEL_")
            }
            own = [_mark(*item) for item in settings.items() if item[0] not in self.environment]
            settings["QUERNEL_STACK_WROTE"] = " ".join(own)
            file.writelines(f"{name}={shlex.quote(value)}\n" for name, value in settings.items())

    @property
    def _environment_file(self) -> Path:
        """What the command line needs to reach this stack; functions/core/settings.py names it too.

        A shell may read it as well.
        """
        return self.state / "functions.env"


def _private_file(path: str, flags: int) -> int:
    """Opener of files with secrets: nobody else may read them."""
    return os.open(path, flags, 0o600)
