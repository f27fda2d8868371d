"""Show the built book on this machine: python tools/serve.py [port]."""

from __future__ import annotations

import functools
import http.server
import sys
from pathlib import Path

PAGES = Path(__file__).resolve().parents[1] / "_build" / "html"


class Server(http.server.ThreadingHTTPServer):
    """A server that thinks nothing of a browser which goes away in the middle of an answer."""

    request_queue_size = 128  # a browser opens many connections at once

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files as they are, never from the browser's cache, and no line in the terminal for each of them."""

    def end_headers(self):
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def send_head(self):
        try:
            return super().send_head()
        except ValueError:  # no file can have this name, as with a zero byte in it
            self.send_error(http.HTTPStatus.BAD_REQUEST, "No file can have this name")
            return None

    def log_message(self, format, *args):
        pass


def main(arguments: list[str]) -> int:
    try:
        port = int(arguments[0]) if arguments else 8000
        server = Server(("127.0.0.1", port), functools.partial(Handler, directory=str(PAGES)))
    except (ValueError, OverflowError):
        print(f"{arguments[0]!r} is not a port; name one from 1024 to 65535", file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"Port {port} cannot be opened ({error.strerror}): something else may be serving there.\n"
            f"Choose another one: make serve PORT={port + 1}",
            file=sys.stderr,
        )
        return 1
    with server:
        if not (PAGES / "index.html").is_file():
            print("There is no built book in _build/html to show. Build it first: make book", file=sys.stderr)
            return 1
        print(f"The book is at http://127.0.0.1:{server.server_port} (Ctrl-C stops)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
