"""The program under test: on a free port, with the small golden model and its own data directory."""

import os
import pathlib
import re
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.request

# Limit of the start on a busy machine.
START_SECONDS = 120


class Server:
    """`with Server("--flag") as server:` starts the program, waits until it is ready, and stops it at the end."""

    def __init__(self, *flags):
        self.flags = flags
        self.log = []
        self.url = None

    def __enter__(self):
        self._data = tempfile.TemporaryDirectory(prefix="latentsync-clients-")
        self._start("0")
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._data.cleanup()

    def kill_and_start_again(self):
        """Kills the program with SIGKILL, and starts it with the same data on the same port."""
        self.process.kill()
        self.process.wait()
        self._start(self.url.rsplit(":", 1)[1])

    def _start(self, port):
        model = pathlib.Path(os.environ["LATENTSYNC_SHARED"]) / "golden/small"
        settings = ["--port", port, "--device", "cpu", "--model", model, "--data-dir", self._data.name]
        # Without settings from the environment of the user.
        env = {name: value for name, value in os.environ.items() if not re.match("LATENTSYNC_|RUST_LOG$", name)}
        # A flag overrides it.
        env["LATENTSYNC_STEPS"] = "1"
        self.process = subprocess.Popen(
            [os.environ["LATENTSYNC_BIN"], "serve", *settings, *self.flags],
            env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        listening = threading.Event()
        threading.Thread(target=self._read, args=(self.process.stderr, listening), daemon=True).start()
        listening.wait(START_SECONDS)
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise

    def _read(self, lines, listening):
        for line in lines:
            self.log.append(line)
            if found := re.search(r"listening on (https?://\S+)", line):
                self.url = found[1]
                listening.set()
        # The program has ended: stop waiting for its address.
        listening.set()

    def _wait(self):
        until = time.monotonic() + START_SECONDS
        # The clients check the certificate.
        context = ssl._create_unverified_context()
        while self.url and self.process.poll() is None and time.monotonic() < until:
            try:
                urllib.request.urlopen(f"{self.url}/readyz", context=context).close()
                return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError("the server is not ready:\n" + "".join(self.log))
