"""The server is killed while a client waits: the client sees nothing of it but a pause."""

import json
import threading
import time

import wavespeed

from support import PATIENCE
from support.curl import curl
from support.video import video

# Enough steps that the job is still running when the server is killed.
FLAGS = ["--allow-local-urls", "--steps", "40"]


def test_a_client_that_polls_gets_its_video(server, files):
    client = wavespeed.Client("key", base_url=server.url)
    inputs = {"video": f"{files.url}/clip.mp4", "audio": f"{files.url}/voice.wav"}
    accepted = curl("-d", json.dumps(inputs), f"{server.url}/api/v3/bytedance/latentsync")[1]["data"]["id"]
    results = []
    # What `run` does once it has submitted.
    waiting = threading.Thread(target=lambda: results.append(client._wait(accepted, PATIENCE, 0.2)))
    waiting.start()
    until = time.monotonic() + PATIENCE
    while client.get_result(accepted)["data"]["status"] != "processing" and time.monotonic() < until:
        time.sleep(0.05)
    server.kill_and_start_again()
    assert client.get_result(accepted)["data"]["status"] in ("created", "processing")
    waiting.join(PATIENCE)
    assert video(results[0]["outputs"][0]) == ("h264", 10, 0.4)
