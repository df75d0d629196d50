"""vLLM's command line against vLLM's own flags, and its life as a child, with a real process."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gpu import llm
from gpu.catalog import MODELS, ServedModel
from gpu.llm import (
    SERVING,
    ModelServer,
    NotReadyError,
    ServerError,
    ServerExitedError,
    environment,
    serve_command,
)

FLAGS = json.loads((Path(__file__).parent / "vllm_flags.json").read_text())
"""Every flag of `vllm serve`, how many values it takes and which: dumped from its own parser."""

FAKE = Path(__file__).parent / "fake_vllm.py"
TINY = ServedModel("tiny", "chat", "Qwen/Tiny", "a" * 40, "L4", "Apache-2.0")
WAIT_SECONDS = 10.0


# The command line ---------------------------------------------------------------------------------


def words_by_flag(command: list[str]) -> dict[str, list[str]]:
    """The values of each flag."""
    flags: dict[str, list[str]] = {}
    for word in command[3:]:
        if word.startswith("--"):
            assert word not in flags, f"{word} twice"
            flags[word] = values = []
        else:
            values.append(word)
    return flags


@pytest.fixture(params=sorted(SERVING))
def command(request: pytest.FixtureRequest) -> list[str]:
    return serve_command(MODELS[request.param], SERVING[request.param])


def test_the_flags_are_those_of_the_version_that_is_installed_on_the_card() -> None:
    assert FLAGS["vllm"] == llm.VLLM_VERSION


def test_every_flag_exists_and_takes_what_it_is_given(command: list[str]) -> None:
    counts = {"none": range(1), "one": range(1, 2), "some": range(1, 99), "any": range(99)}
    for flag, values in words_by_flag(command).items():
        known = FLAGS["flags"].get(flag)
        assert known is not None, f"vLLM has no {flag}"
        assert len(values) in counts[known["values"]], f"{flag} {values}"
        if "choices" in known:
            assert set(values) <= set(known["choices"])


def test_a_flag_that_vllm_does_not_have_is_noticed() -> None:
    assert "--enable-prefix-cache" not in FLAGS["flags"]
    assert "--enable-prefix-caching" in FLAGS["flags"]
    assert FLAGS["flags"]["--max-model-len"]["values"] == "one"


def test_every_chat_and_vision_model_of_the_catalog_can_be_served() -> None:
    served = {model.id for model in MODELS.values() if model.kind in ("chat", "vision")}
    assert served == set(SERVING)


def test_the_model_is_pinned_and_answers_to_both_its_names(command: list[str]) -> None:
    assert command[:2] == ["vllm", "serve"]
    hub_id, flags = command[2], words_by_flag(command)
    (model,) = [one for one in MODELS.values() if one.hub_id == hub_id]
    assert flags["--revision"] == [model.revision]
    assert flags["--served-model-name"] == [hub_id, model.id]


def test_the_server_listens_on_loopback_alone(command: list[str]) -> None:
    flags = words_by_flag(command)
    assert flags["--host"] == ["127.0.0.1"]
    assert flags["--port"] == [str(llm.PORT)]


def test_no_media_is_fetched_for_a_request(command: list[str]) -> None:
    """An empty list would allow every domain; a redirect could leave an allowed one."""
    flags = words_by_flag(command)
    assert flags["--allowed-media-domains"] == ["media.invalid"]
    assert "--allowed-local-media-path" not in flags
    assert environment("/cache", {})["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"
    limits = json.loads(flags["--limit-mm-per-prompt"][0])
    assert limits["video"] == limits["audio"] == 0


def test_no_code_from_the_hub_and_no_template_of_a_client_is_run(command: list[str]) -> None:
    flags = words_by_flag(command)
    for trusting in ("--trust-remote-code", "--trust-request-chat-template"):
        assert trusting in FLAGS["flags"]
        assert trusting not in flags


def test_prompts_are_cached_and_requests_bounded(command: list[str]) -> None:
    flags = words_by_flag(command)
    assert "--enable-prefix-caching" in flags
    assert "--enable-sleep-mode" in flags
    assert int(flags["--max-num-seqs"][0]) > 0


def test_weights_and_what_is_compiled_stay_on_the_volume() -> None:
    variables = environment("/cache", {"PATH": "/bin", "HF_HOME": "/elsewhere"})
    for name in ("HF_HOME", "VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
        assert variables[name].startswith("/cache/")
    assert variables["PATH"] == "/bin"


# Its life -----------------------------------------------------------------------------------------


def wait_for(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


class Fake:
    """Makes servers whose program is tests/gpu/fake_vllm.py."""

    def __init__(self, folder: Path) -> None:
        self.journal = folder / "journal"
        self.journal.touch()
        self.program = folder / "vllm"
        self.program.write_text(f"#!{sys.executable}\n{FAKE.read_text()}")
        self.program.chmod(self.program.stat().st_mode | stat.S_IXUSR)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.servers: list[ModelServer] = []

    def server(self, **behaviour: Any) -> ModelServer:
        serving = SERVING["Qwen2.5-32B-Instruct-AWQ"]
        words = serve_command(TINY, serving, program=str(self.program), port=self.port)
        variables = {
            "PATH": os.environ["PATH"],
            "BEHAVIOUR": json.dumps(behaviour),
            "JOURNAL": str(self.journal),
        }
        self.servers.append(ModelServer(words, variables, self.url))
        return self.servers[-1]

    def said(self) -> list[str]:
        return self.journal.read_text().splitlines()


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    monkeypatch.setattr(llm, "POLL_SECONDS", 0.02)
    made = Fake(tmp_path)
    yield made
    for server in made.servers:
        server.stop(0)


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_program_that_is_not_there_is_an_error_at_once() -> None:
    server = ModelServer(["/nowhere/vllm"], {})
    with pytest.raises(ServerError, match="cannot be run"):
        server.start()
    assert server.stop() is None


def test_a_server_that_was_not_started_is_not_healthy(fake: Fake) -> None:
    server = fake.server()
    assert not server.is_healthy()
    with pytest.raises(ServerError, match="not started"):
        server.wake()


def test_a_crash_at_the_start_ends_the_wait_at_once(fake: Fake) -> None:
    with fake.server(exit_at_start=3) as server:
        with pytest.raises(ServerExitedError) as caught:
            server.wait_ready(60)
        assert caught.value.status == 3


def test_nothing_is_started_where_something_answers_already(fake: Fake) -> None:
    """It would be taken for the child."""
    with fake.server() as other:
        other.wait_ready(WAIT_SECONDS)
        with pytest.raises(ServerError, match="something else"):
            fake.server().start()
    assert len([line for line in fake.said() if line.startswith("started")]) == 1


def test_another_process_at_its_address_does_not_make_a_dead_child_ready(fake: Fake) -> None:
    with fake.server(exit_at_start=1) as server:
        with pytest.raises(ServerExitedError):
            server.wait_ready(60)
        with fake.server() as other:
            other.wait_ready(WAIT_SECONDS)
            assert not server.is_healthy()
            with pytest.raises(ServerExitedError):
                server.wait_ready(60)


def test_a_start_that_takes_too_long_is_given_up(fake: Fake) -> None:
    with (
        fake.server(start_seconds=60) as server,
        pytest.raises(NotReadyError),
    ):
        server.wait_ready(0.3)


def test_an_engine_that_is_not_well_is_not_ready(fake: Fake) -> None:
    with fake.server(unhealthy=True) as server:
        wait_for(lambda: _answers(fake.url))
        assert not server.is_healthy()
        with pytest.raises(NotReadyError):
            server.wait_ready(0.2)


def test_a_slow_start_is_waited_for(fake: Fake) -> None:
    with fake.server(start_seconds=0.5) as server:
        assert not server.is_healthy()
        server.wait_ready(WAIT_SECONDS)
        assert server.is_healthy()


def test_it_is_warmed_up_with_short_and_long_prompts(fake: Fake) -> None:
    with fake.server() as server:
        server.wait_ready(WAIT_SECONDS)
        server.warm_up(TINY.hub_id)
    asked = [line.split(" ", 1) for line in fake.said() if line.startswith("/v1/")]
    assert [path for path, _ in asked] == ["/v1/chat/completions"] * 2
    bodies = [json.loads(body) for _, body in asked]
    assert {body["model"] for body in bodies} == {TINY.hub_id}
    assert (
        len(bodies[1]["messages"][0]["content"]) > 1000 > len(bodies[0]["messages"][0]["content"])
    )


def test_a_warm_up_that_is_refused_is_an_error(fake: Fake) -> None:
    with fake.server(fail_at="/v1/chat/completions") as server:
        server.wait_ready(WAIT_SECONDS)
        with pytest.raises(ServerError, match="with 500"):
            server.warm_up(TINY.hub_id)


def test_a_crash_in_the_middle_of_a_request_says_so(fake: Fake) -> None:
    with fake.server(die_at="/v1/chat/completions") as server:
        server.wait_ready(WAIT_SECONDS)
        with pytest.raises(ServerError):
            server.warm_up(TINY.hub_id)
        wait_for(lambda: not server.is_healthy())
        with pytest.raises(ServerExitedError) as caught:
            server.wait_ready(60)
        assert caught.value.status == 9


def test_it_is_put_to_sleep_before_a_snapshot_and_woken_after_it(fake: Fake) -> None:
    with fake.server() as server:
        server.wait_ready(WAIT_SECONDS)
        server.sleep()
        server.wake()
        assert server.is_healthy()
    calls = [line.strip() for line in fake.said() if line.startswith("/")]
    assert calls == ["/sleep?level=1", "/wake_up"]


def test_stopping_lets_it_finish_its_requests(fake: Fake) -> None:
    server = fake.server(drain_seconds=0.3)
    server.start()
    server.wait_ready(WAIT_SECONDS)
    assert server.stop(WAIT_SECONDS) == 0
    assert fake.said()[-2:] == ["told to stop", "drained"]


def test_one_that_does_not_stop_is_killed(fake: Fake) -> None:
    server = fake.server(ignores_term=True)
    server.start()
    server.wait_ready(WAIT_SECONDS)
    assert server.stop(0.2) == -signal.SIGKILL
    assert fake.said()[-1] == "told to stop"


@pytest.mark.parametrize("behaviour", [{}, {"ignores_term": True}])
def test_its_engine_does_not_outlive_it(fake: Fake, behaviour: dict[str, Any]) -> None:
    server = fake.server(with_engine=True, **behaviour)
    server.start()
    server.wait_ready(WAIT_SECONDS)
    (engine,) = [int(line.split()[1]) for line in fake.said() if line.startswith("engine")]
    assert is_running(engine)
    server.stop(0.5)
    wait_for(lambda: not is_running(engine))


def test_stopping_twice_is_stopping_once(fake: Fake) -> None:
    server = fake.server()
    server.start()
    server.wait_ready(WAIT_SECONDS)
    assert server.stop(WAIT_SECONDS) == server.stop(WAIT_SECONDS) == 0


def _answers(url: str) -> bool:
    try:
        httpx.get(f"{url}/health", trust_env=False)
    except httpx.HTTPError:
        return False
    return True
