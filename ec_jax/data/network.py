"""Whether a host can be reached, found out in seconds."""

import contextlib
import socket
import threading

PROBE_SECONDS = 3.0  # for a host's name and a connection to it


def reachable(host: str, port: int) -> bool:
    """Whether a connection can be made within ``PROBE_SECONDS``."""
    made = threading.Event()

    def connect():
        with contextlib.suppress(OSError):
            socket.create_connection((host, port), PROBE_SECONDS).close()
            made.set()

    # Looking up a name knows no timeout, and a host with many addresses gets one for each.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return made.is_set()
