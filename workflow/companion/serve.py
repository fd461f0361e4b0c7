"""Build the book and serve it to browsers on this machine; the port is reserved before the build starts."""

from __future__ import annotations

import argparse
import errno
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from companion import build, parameters, site
from companion.plainly import Refusal

HOST = "127.0.0.1"
_REASONS = {errno.EADDRINUSE: "which another program uses", errno.EACCES: "which only an administrator can use"}


def bound(port: int | str) -> ThreadingHTTPServer:
    """A server of the site at this port; 0 is any that is free.

    Refused when the port is in use, not allowed, or no port.
    """
    try:
        return ThreadingHTTPServer((HOST, int(port)), partial(SimpleHTTPRequestHandler, directory=site.HTML))
    except (OSError, OverflowError, ValueError) as error:
        why = _REASONS.get(getattr(error, "errno", None), "which cannot be used")
        raise Refusal(f"PORT is {port}, {why}; it must be a free port from 1024 to 65535") from error


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", default=8000)
    parser.add_argument("--profile", default=parameters.QUICK)
    parser.add_argument("--cores", default="all")
    asked = parser.parse_args(arguments)
    with bound(asked.port) as server:
        build.main(["--profile", asked.profile, "--cores", asked.cores])
        print(f"http://localhost:{server.server_port}/ (stop with Ctrl-C)", flush=True)
        server.serve_forever()
    return 0
