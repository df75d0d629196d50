"""Run the double by itself."""

from __future__ import annotations

import argparse
import asyncio

from aiohttp import web

from local.processes import LOOPBACK
from local.providers.double import Double, make_handler


async def serve(port: int) -> None:
    """Answer until the process is told to stop."""
    double = Double(address=f"http://{LOOPBACK}:{port}")
    runner = web.ServerRunner(web.Server(make_handler(double)))
    await runner.setup()
    await web.TCPSite(runner, LOOPBACK, port).start()
    print(f"Providers at {double.address}; a key that is accepted: {double.new_key()}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m local.providers", description=__doc__)
    parser.add_argument("--port", type=int, default=8500)
    asyncio.run(serve(parser.parse_args().port))
