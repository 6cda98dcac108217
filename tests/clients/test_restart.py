"""The server is killed and restarted while a client polls: the client gets its result."""

import json
import threading
import time

import wavespeed

from support import TIMEOUT
from support.curl import curl
from support.video import video

# Enough steps that the job is still running when the server is killed.
FLAGS = ["--allow-local-urls", "--steps", "40"]


def test_a_client_that_polls_gets_its_video(server, files):
    client = wavespeed.Client("key", base_url=server.url)
    inputs = {"video": f"{files.url}/clip.mp4", "audio": f"{files.url}/voice.wav"}
    accepted = curl("-d", json.dumps(inputs), f"{server.url}/api/v3/bytedance/latentsync")[1]["data"]["id"]
    results = []
    # The polling part of `run`.
    waiting = threading.Thread(target=lambda: results.append(client._wait(accepted, TIMEOUT, 0.2)))
    waiting.start()
    until = time.monotonic() + TIMEOUT
    while client.get_result(accepted)["data"]["status"] != "processing" and time.monotonic() < until:
        time.sleep(0.05)
    server.kill_and_start_again()
    assert client.get_result(accepted)["data"]["status"] in ("created", "processing")
    waiting.join(TIMEOUT)
    assert video(results[0]["outputs"][0]) == ("h264", 10, 0.4)
