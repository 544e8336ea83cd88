"""The watcher behind "no outside requests" and "no torch loaded" sees what it is there to see."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import _watch
from benchmarks._watch import is_outside

SCRIPT = """
import importlib, socket
for host in ("127.0.0.1", "host.invalid"):
    try:
        socket.getaddrinfo(host, 80)
    except OSError:
        pass
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname()).close()
server.close()
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
    try:
        probe.connect(("192.0.2.1", 9))
    except OSError:
        pass
importlib.import_module("accelerate.logging")
"""


@pytest.mark.parametrize(
    ("address", "outside"),
    [
        (("127.0.0.1", 80), False),
        (("::1", 80, 0, 0), False),
        ("localhost", False),
        (b"localhost", False),
        (None, False),
        ("/run/socket", False),
        (("10.0.0.8", 443), True),
        (("2001:db8::1", 443, 0, 0), True),
        ("host.example", True),
        (b"host.example", True),
    ],
)
def test_only_addresses_beyond_this_machine_are_outside(address, outside):
    assert is_outside(address) is outside


@pytest.mark.slow
def test_watcher_notes_lookups_connections_and_heavy_imports(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    log = tmp_path / "log.jsonl"
    command = [sys.executable, _watch.__file__, str(log), str(script)]
    subprocess.run(command, check=True, timeout=120)
    notes = [json.loads(line) for line in log.read_text().splitlines()]
    outside = [note["what"] for note in notes if note["event"] == "outside"]
    imports = [note["what"] for note in notes if note["event"] == "import"]
    assert outside == ["look-up of host.invalid", "connection to ('192.0.2.1', 9)"]
    assert {"accelerate", "torch"} <= set(imports)
