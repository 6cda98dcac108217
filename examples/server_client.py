#!/usr/bin/env python3
"""A client of `latentsync serve` that needs only Python's standard library.

    latentsync serve --model demo &
    python3 examples/server_client.py --server http://127.0.0.1:8188 clip.mp4 voice.wav out.mp4

It uploads both files, submits a job to the server's fal queue API, polls its status, and downloads the result.
"""

import argparse
import json
import mimetypes
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

POLL_SECONDS = 1.0


class Client:
    """Requests with the API key, if the server has keys."""

    def __init__(self, server, key):
        self.server = server.rstrip("/")
        self.headers = {"Authorization": f"Key {key}"} if key else {}

    def call(self, method, url, body=None):
        """Sends JSON, returns JSON. An error status raises with the server's explanation."""
        data = None if body is None else json.dumps(body).encode()
        headers = self.headers | ({"Content-Type": "application/json"} if data else {})
        request = urllib.request.Request(url, data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise SystemExit(f"error: {method} {url}: {error.code}: {error.read().decode()}") from error

    def upload(self, path):
        """Stores a file on the server and returns its URL."""
        kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
        ticket = self.call(
            "POST",
            f"{self.server}/storage/upload/initiate",
            {"file_name": path.name, "content_type": kind},
        )
        with path.open("rb") as file:
            request = urllib.request.Request(
                ticket["upload_url"],
                data=file,
                headers={"Content-Type": kind, "Content-Length": str(path.stat().st_size)},
                method="PUT",
            )
            urllib.request.urlopen(request).close()
        return ticket["file_url"]

    def run(self, body):
        """Submits a job and returns its result."""
        job = self.call("POST", f"{self.server}/fal/queue/fal-ai/latentsync", body)
        status = None
        while status != "COMPLETED":
            state = self.call("GET", job["status_url"])
            if state["status"] != status:
                status = state["status"]
                print(f"{job['request_id']}: {status}", file=sys.stderr)
            if status != "COMPLETED":
                time.sleep(POLL_SECONDS)
        # A failed job is completed too: then this is the error status.
        return self.call("GET", job["response_url"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", default="http://127.0.0.1:8188")
    parser.add_argument("--key", default=os.environ.get("LATENTSYNC_API_KEY"), help="default: LATENTSYNC_API_KEY")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("video", type=Path)
    parser.add_argument("audio", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()

    client = Client(arguments.server, arguments.key)
    result = client.run(
        {
            "video_url": client.upload(arguments.video),
            "audio_url": client.upload(arguments.audio),
            "seed": arguments.seed,
        }
    )
    with urllib.request.urlopen(result["video"]["url"]) as video, arguments.out.open("wb") as out:
        while block := video.read(1 << 20):
            out.write(block)
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
