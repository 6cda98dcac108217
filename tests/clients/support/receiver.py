"""A local server of the clips, which also receives webhooks."""

import http.server
import os
import pathlib
import queue
import threading
from typing import NamedTuple

from support import TIMEOUT


class Message(NamedTuple):
    path: str
    headers: dict
    body: bytes


class Receiver:
    """Serves the clips at `GET /NAME`. `next()` returns the next POST request."""

    def __init__(self):
        self.clips = pathlib.Path(os.environ["LATENTSYNC_CLIPS"])
        self._messages = queue.Queue()

    def next(self):
        return self._messages.get(timeout=TIMEOUT)

    def __enter__(self):
        receiver = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args):
                super().__init__(*args, directory=receiver.clips)

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver._messages.put(Message(self.path, headers, body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._http.shutdown()
        self._http.server_close()
