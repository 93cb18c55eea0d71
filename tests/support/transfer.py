"""Bytes over one TCP connection, as processes of a lab's hosts: `receive ADDRESS PORT` prints what came and how fast,
`send ADDRESS PORT BYTES` connects (again, until someone listens) and sends. Standard library only."""

from __future__ import annotations

import json
import socket
import sys
import time

CHUNK = 1 << 18


def receive(address: str, port: int) -> None:
    """Take one connection to its end; print {"bytes", "seconds"}, the time from the first byte to the last."""
    buffer = memoryview(bytearray(CHUNK))
    with socket.create_server((address, port)) as server:
        connection, _ = server.accept()
        with connection:
            total = connection.recv_into(buffer)
            began = time.monotonic()
            while count := connection.recv_into(buffer):
                total += count
            print(json.dumps({"bytes": total, "seconds": time.monotonic() - began}))


def send(address: str, port: int, size: int) -> None:
    """Send `size` bytes."""
    while True:
        try:
            connection = socket.create_connection((address, port))
            break
        except ConnectionRefusedError:
            time.sleep(0.01)
    with connection:
        chunk = bytes(CHUNK)
        while size:
            size -= connection.send(memoryview(chunk)[:size])


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        receive(sys.argv[2], int(sys.argv[3]))
    else:
        send(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
