"""JoggAI by curl, after the tables of its documentation and the calls of its official runner."""

import hashlib
import hmac
import json
import time

import pytest

from support import TIMEOUT
from support.curl import curl, head
from support.video import video

KEY = ("-H", "x-api-key: key")
NONE = "00000000-0000-0000-0000-000000000000"


def create(server, request, base="/open/v2"):
    return curl(*KEY, "-d", json.dumps(request), f"{server.url}{base}/create_lip_sync_video")


def ended(server, task, base="/open/v2"):
    until = time.monotonic() + TIMEOUT
    while time.monotonic() < until:
        status, answer = curl(*KEY, f"{server.url}{base}/lip_sync_video/{task}")
        assert (status, answer["code"], answer["data"]["task_id"]) == (200, 0, task)
        if answer["data"]["status"] in ("success", "failed"):
            return answer["data"]
        assert answer["data"]["status"] in ("pending", "processing")
        time.sleep(0.2)
    raise TimeoutError(task)


# The clip has 8 frames; the voice lasts 10 of them, or 5.
@pytest.mark.parametrize(
    "playback_type, voice, frames",
    [
        (None, "voice.wav", 8),
        ("normal", "word.wav", 5),
        ("normal_reverse", "voice.wav", 10),
        ("normal_reverse", "word.wav", 8),
        ("normal_reverse_by_audio", "voice.wav", 10),
        ("normal_reverse_by_audio", "word.wav", 5),
    ],
)
def test_playback_types(server, files, playback_type, voice, frames):
    request = {"video_url": f"{files.url}/clip.mp4", "audio_url": f"{files.url}/{voice}"}
    if playback_type:
        request["playback_type"] = playback_type
    status, answer = create(server, request)
    assert (status, answer["code"], answer["msg"], answer["data"]["status"]) == (200, 0, "Success", "pending")
    task = ended(server, answer["data"]["task_id"])
    assert task["status"] == "success"
    assert abs(task["completed_at"] - time.time()) < 600 and task["created_at"] <= task["completed_at"]
    result = task["data"]
    assert video(result["result_url"])[:2] == ("h264", frames)
    assert result["duration_seconds"] == pytest.approx(frames / 25, abs=0.001)
    status, size = head(result["cover_url"])
    assert status == 200 and size > 1000


def test_upload_create_find(server, files):
    urls = {}
    for field, name, kind in [("video_url", "clip.mp4", "video/mp4"), ("audio_url", "voice.wav", "audio/wav")]:
        path = files.clips / name
        request = {"filename": name, "content_type": kind, "file_size": path.stat().st_size}
        _, answer = curl(*KEY, "-d", json.dumps(request), f"{server.url}/v2/upload/asset")
        assert answer["code"] == 0
        put = ("-X", "PUT", "-H", f"Content-Type: {kind}", "--data-binary", f"@{path}")
        assert head(*put, answer["data"]["sign_url"])[0] == 200
        urls[field] = answer["data"]["asset_url"]
    _, answer = create(server, urls, "/v2")
    task = answer["data"]["task_id"]
    assert ended(server, task, "/v2")["status"] == "success"
    query = [part for field, url in urls.items() for part in ("--data-urlencode", f"{field}={url}")]
    _, found = curl(*KEY, "-G", *query, f"{server.url}/v2/lip_sync_video")
    assert found["data"]["task_id"] == task
    _, found = curl(*KEY, "-G", *query, "-d", "playback_type=normal_reverse", f"{server.url}/v2/lip_sync_video")
    assert found["code"] == 10104


def test_failure(server, files):
    request = {"video_url": f"{files.url}/clip.mp4", "audio_url": f"{files.url}/voice.wav"}
    for wrong in [{"video_url": request["video_url"]}, request | {"playback_type": "sideways"}, request | {"audio_url": 5}]:
        status, answer = create(server, wrong)
        assert (status, answer["code"]) == (200, 40000) and answer["msg"]
    status, answer = curl(*KEY, f"{server.url}/open/v2/lip_sync_video/{NONE}")
    assert (status, answer["code"]) == (200, 10104)
    _, answer = create(server, request | {"video_url": f"{files.url}/nothing.mp4"})
    task = ended(server, answer["data"]["task_id"])
    assert task["status"] == "failed" and "404" in task["error"]["message"]


def test_a_webhook_endpoint(server, files):
    request = {"url": f"{files.url}/jogg", "events": ["generated_video_success"], "status": "enabled"}
    _, answer = curl(*KEY, "-d", json.dumps(request), f"{server.url}/v2/endpoint")
    endpoint = answer["data"]
    inputs = {"video_url": f"{files.url}/clip.mp4", "audio_url": f"{files.url}/word.wav"}
    # The endpoint does not subscribe to failures.
    assert create(server, inputs | {"video_url": f"{files.url}/nothing.mp4"})[1]["code"] == 0
    _, answer = create(server, inputs)
    message = files.next()
    signature = hmac.new(endpoint["secret"].encode(), message.body, hashlib.sha256).hexdigest()
    assert message.headers["x-webhook-signature"] == signature
    body = json.loads(message.body)
    assert (message.path, body["event"]) == ("/jogg", "generated_video_success")
    assert body["data"]["task_id"] == answer["data"]["task_id"]
    assert video(body["data"]["data"]["result_url"])[:2] == ("h264", 5)
    _, known = curl(*KEY, f"{server.url}/v2/endpoints")
    assert [one["endpoint_id"] for one in known["data"]["endpoints"]] == [endpoint["endpoint_id"]]
    assert curl(*KEY, "-X", "DELETE", f"{server.url}/v2/endpoint/{endpoint['endpoint_id']}")[1]["code"] == 0
    assert curl(*KEY, f"{server.url}/v2/endpoints")[1]["data"]["endpoints"] == []
