"""A long line on one machine: a TCP relay that delays both ways and limits what comes back.

    python benchmarks/line.py LISTEN_PORT TARGET_PORT [--rtt 0.03] [--link 60e6] [--connection 20e6]

A new connection costs a round trip, as a handshake does. Bytes towards the client share one link and are limited for
each connection, too; they leave the relay at the moment at which the last of them would have crossed such a line.
"""

import argparse
import asyncio
import time
from dataclasses import dataclass

BLOCK_BYTES = 64 << 10
QUEUE_BLOCKS = 64


@dataclass
class Meter:
    """A pipe of a fixed rate: when it will have carried what it was given."""

    bytes_per_second: float
    free_at: float = 0.0

    def carry(self, n_bytes: int, now: float) -> float:
        """Return when `n_bytes` more will be through."""
        self.free_at = max(self.free_at, now) + n_bytes / self.bytes_per_second
        return self.free_at


class Line:
    """The relay."""

    def __init__(self, target_port: int, *, rtt_seconds: float, link: float, connection: float) -> None:
        self._target_port, self._one_way = target_port, rtt_seconds / 2
        self._link, self._connection = Meter(link), connection

    async def serve(self, port: int) -> None:
        """Relay until cancelled."""
        async with await asyncio.start_server(self._relay, "127.0.0.1", port, limit=2 * BLOCK_BYTES) as server:
            await server.serve_forever()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(2 * self._one_way)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.close()
            return
        there = self._carry(reader, far_writer, None)
        back = self._carry(far_reader, writer, Meter(self._connection))
        await asyncio.gather(there, back, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, own: Meter | None) -> None:
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUE_BLOCKS)
        delivery = asyncio.create_task(self._deliver(waiting, writer))
        try:
            while block := await reader.read(BLOCK_BYTES):
                now = time.monotonic()
                through = now if own is None else max(own.carry(len(block), now), self._link.carry(len(block), now))
                await waiting.put((through + self._one_way, block))
        except ConnectionError:
            pass
        await waiting.put((0.0, b""))
        await delivery

    async def _deliver(self, waiting: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter) -> None:
        try:
            while (item := await waiting.get())[1]:
                await asyncio.sleep(max(item[0] - time.monotonic(), 0.0))
                writer.write(item[1])
                await writer.drain()
        except ConnectionError:
            while (await waiting.get())[1]:  # nobody listens any more
                pass
        writer.close()


def main() -> None:
    """Run a line until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("listen", type=int)
    parser.add_argument("target", type=int)
    parser.add_argument("--rtt", type=float, default=0.03, help="seconds")
    parser.add_argument("--link", type=float, default=60e6, help="bytes a second, of all connections together")
    parser.add_argument("--connection", type=float, default=20e6, help="bytes a second of one connection")
    options = parser.parse_args()
    line = Line(options.target, rtt_seconds=options.rtt, link=options.link, connection=options.connection)
    asyncio.run(line.serve(options.listen))


if __name__ == "__main__":
    main()
