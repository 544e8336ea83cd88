"""`python -m tests.ui.toy PORT` serves the app over the toy catalogue."""

import sys

import app
from engine.core.catalog import discover
from engine.runners import local

if __name__ == "__main__":
    demo = app.build(discover("tests.ui.toy"), local, "tests.ui.toy.panels")
    demo.launch(**app.LAUNCH, server_port=int(sys.argv[1]), quiet=True)
