"""Sends the first SIZE bytes of FILE to every connection, over and over, on asyncio.

usage: asyncio_sender.py sendfile|read-write|read-all HOST PORT FILE SIZE
"""

import asyncio
import sys


async def main(way, host, port, path, size):
    loop = asyncio.get_running_loop()

    async def connected(_, writer):
        try:
            with open(path, "rb") as file:
                while True:
                    file.seek(0)
                    if way == "sendfile":
                        await loop.sendfile(writer.transport, file, 0, size, fallback=False)
                    elif way == "read-all":
                        writer.write(file.read(size))
                        await writer.drain()
                    else:
                        left = size
                        while left > 0:
                            block = file.read(min(left, 64 << 10))
                            left -= len(block)
                            writer.write(block)
                            await writer.drain()
        except (OSError, asyncio.SendfileNotAvailableError):
            # The peer's end.
            writer.transport.abort()

    server = await asyncio.start_server(connected, host, port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    way, host, port, path, size = sys.argv[1:]
    asyncio.run(main(way, host, int(port), path, int(size)))
