"""Run a script and note each heavy import and each address it looks up or connects to outside.

    python benchmarks/_watch.py LOG app.py

LOG gets one JSON line an event: {"event": "import" | "outside", "what": ..., "at": seconds}.
Python's own audit events are read, so nothing that goes through the interpreter is missed, and the
script runs unchanged. Loopback addresses and Unix sockets are not outside.
"""

import ipaddress
import json
import os
import runpy
import sys
import time

HEAVY = {"torch", "diffusers", "transformers", "peft", "accelerate"}
LOCAL_NAMES = {"", "localhost", "::", "0.0.0.0"}


def is_outside(address: object) -> bool:
    """Whether an address given to a socket call lies beyond this machine."""
    host = address[0] if isinstance(address, tuple) and address else address
    if isinstance(host, bytes):
        host = host.decode(errors="replace")
    if not isinstance(host, str) or host in LOCAL_NAMES or host.startswith("/"):
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True


def watch(log: str) -> None:
    """Append to `log` from now on. Audit hooks cannot be removed: use in a process of its own."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    seen: set[str] = set()

    def note(event: str, what: str) -> None:
        line = json.dumps({"event": event, "what": what, "at": time.time()}) + "\n"
        os.write(file, line.encode())

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "import":
            name = str(arguments[0]).partition(".")[0]
            if name in HEAVY and name not in seen:
                seen.add(name)
                note("import", name)
        elif event == "socket.getaddrinfo" and is_outside(arguments[0]):
            note("outside", f"look-up of {arguments[0]}")
        elif event == "socket.connect" and is_outside(arguments[1]):
            note("outside", f"connection to {arguments[1]}")

    sys.addaudithook(hook)


if __name__ == "__main__":
    log, script, *rest = sys.argv[1:]
    watch(log)
    sys.argv = [script, *rest]
    sys.path[0] = os.path.dirname(os.path.abspath(script))  # as if the script had been started
    runpy.run_path(script, run_name="__main__")
