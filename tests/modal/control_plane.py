"""A stand-in for Modal's API on loopback: accepts a deployment and remembers what was asked for.

Every call is answered with an empty reply of its type, except for those that the client needs an id
from. So `modal deploy` runs as it is, without an account.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, Self

from grpclib.const import Cardinality, Handler
from grpclib.server import Server, Stream
from modal_proto import api_pb2
from modal_proto.api_grpc import ModalClientBase

SUCCESS = api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_SUCCESS)


class ControlPlane:
    """Listens on a free loopback port while it is entered."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, Any]] = []
        self._ids = count(1)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def of(self, method: str) -> list[Any]:
        """The requests that came for one method."""
        return [request for name, request in self.requests if name == method]

    def _serve(self) -> None:
        asyncio.run(self._listen())

    async def _listen(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        server = Server([self])
        await server.start("127.0.0.1", 0)
        port = server._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._ready.set()
        await self._stop.wait()
        server.close()
        await server.wait_closed()

    def __mapping__(self) -> dict[str, Handler]:
        """All methods of the real service, for grpclib."""
        template = type("Template", (ModalClientBase,), dict.fromkeys(_methods()))()
        return {
            path: Handler(self._handler(path, handler.reply_type), *handler[1:])
            for path, handler in template.__mapping__().items()
            if handler.cardinality in (Cardinality.UNARY_UNARY, Cardinality.UNARY_STREAM)
        }

    def _handler(
        self, path: str, reply_type: type
    ) -> Callable[[Stream[Any, Any]], Awaitable[None]]:
        name = path.rsplit("/", 1)[1]

        async def answer(stream: Stream[Any, Any]) -> None:
            request = await stream.recv_message()
            self.requests.append((name, request))
            reply = getattr(self, f"_{name}", None)
            await stream.send_message(reply(request) if reply else reply_type())

        return answer

    def _id(self, prefix: str) -> str:
        return f"{prefix}-{next(self._ids)}"

    # Replies that carry something; named as the methods are.

    def _AppCreate(self, _: Any) -> Any:  # noqa: N802
        return api_pb2.AppCreateResponse(app_id=self._id("ap"))

    def _AppGetOrCreate(self, _: Any) -> Any:  # noqa: N802
        return api_pb2.AppGetOrCreateResponse(app_id=self._id("ap"))

    def _AppPublish(self, _: Any) -> Any:  # noqa: N802
        return api_pb2.AppPublishResponse(url="https://modal.example/app")

    def _SecretGetOrCreate(self, _: Any) -> Any:  # noqa: N802
        return api_pb2.SecretGetOrCreateResponse(secret_id=self._id("st"))

    def _VolumeGetOrCreate(self, _: Any) -> Any:  # noqa: N802
        return api_pb2.VolumeGetOrCreateResponse(volume_id=self._id("vo"))

    def _ClassCreate(self, _: Any) -> Any:  # noqa: N802
        return api_pb2.ClassCreateResponse(class_id=self._id("cs"))

    def _MountPutFile(self, _: Any) -> Any:  # noqa: N802
        return api_pb2.MountPutFileResponse(exists=True)

    def _MountGetOrCreate(self, _: Any) -> Any:  # noqa: N802
        return api_pb2.MountGetOrCreateResponse(mount_id=self._id("mo"))

    def _ImageGetOrCreate(self, _: Any) -> Any:  # noqa: N802
        return api_pb2.ImageGetOrCreateResponse(image_id=self._id("im"), result=SUCCESS)

    def _ImageJoinStreaming(self, _: Any) -> Any:  # noqa: N802
        return api_pb2.ImageJoinStreamingResponse(result=SUCCESS)

    def _EnvironmentGetOrCreate(self, _: Any) -> Any:  # noqa: N802
        settings = api_pb2.EnvironmentSettings(image_builder_version="2025.06")
        return api_pb2.EnvironmentGetOrCreateResponse(
            environment_id=self._id("en"),
            metadata=api_pb2.EnvironmentMetadata(name="main", settings=settings),
        )

    def _FunctionPrecreate(self, request: Any) -> Any:  # noqa: N802
        return api_pb2.FunctionPrecreateResponse(
            function_id=self._id("fu"),
            handle_metadata=api_pb2.FunctionHandleMetadata(
                function_name=request.function_name, function_type=request.function_type
            ),
        )

    def _FunctionCreate(self, request: Any) -> Any:  # noqa: N802
        return api_pb2.FunctionCreateResponse(
            function_id=request.existing_function_id or self._id("fu"),
            handle_metadata=api_pb2.FunctionHandleMetadata(
                function_name=request.function.function_name,
                function_type=request.function.function_type,
            ),
            function_data=api_pb2.FunctionData(
                ranked_functions=[
                    api_pb2.FunctionData.RankedFunction(rank=0, function=request.function)
                ]
            ),
        )


def _methods() -> list[str]:
    return [name for name in ModalClientBase.__abstractmethods__ if name != "__mapping__"]
