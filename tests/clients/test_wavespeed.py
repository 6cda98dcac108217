"""wavespeed's Python client, and the curl commands of its documentation."""

import hashlib
import hmac
import json
import re
import time

import pytest
import wavespeed

from support.curl import curl, shell
from support.pages import page
from support.video import video

LATENTSYNC = "bytedance/latentsync"
LIPSYNC = "sync/lipsync-1.9.0-beta"


@pytest.fixture(scope="module")
def client(server):
    return wavespeed.Client("key", base_url=server.url)


@pytest.fixture
def inputs(files):
    return {"video": f"{files.url}/clip.mp4", "audio": f"{files.url}/voice.wav"}


def test_run(client, inputs):
    outputs = client.run(LATENTSYNC, inputs, poll_interval=0.1)["outputs"]
    assert [video(output) for output in outputs] == [("h264", 10, 0.4)]


def test_both_uploads(client, server, files):
    clip = client.upload(str(files.clips / "clip.mp4"))
    # Current clients do not use the older upload.
    url = f"{server.url}/api/v3/media/upload/binary"
    status, answer = curl("-H", "Authorization: Bearer key", "-F", f"file=@{files.clips / 'voice.wav'}", url)
    assert status == 200
    voice = answer["data"]["download_url"]
    result = client.run_no_throw(LATENTSYNC, {"video": clip, "audio": voice}, enable_sync_mode=True)
    assert result["status"] == "completed"
    assert video(result["outputs"][0]) == ("h264", 10, 0.4)


# The clip has 8 frames; the voice lasts 10 of them, or 5.
@pytest.mark.parametrize(
    "sync_mode, voice, frames",
    [
        (None, "voice.wav", 8),
        ("cut_off", "voice.wav", 8),
        ("cut_off", "word.wav", 5),
        ("bounce", "voice.wav", 10),
        ("loop", "voice.wav", 10),
        ("silence", "voice.wav", 10),
        ("silence", "word.wav", 8),
        ("remap", "voice.wav", 10),
        ("remap", "word.wav", 5),
    ],
)
def test_sync_modes(client, files, sync_mode, voice, frames):
    inputs = {"video": f"{files.url}/clip.mp4", "audio": f"{files.url}/{voice}"}
    if sync_mode:
        inputs["sync_mode"] = sync_mode
    outputs = client.run(LIPSYNC, inputs, poll_interval=0.1)["outputs"]
    assert video(outputs[0])[:2] == ("h264", frames)


def test_failure(client, inputs, files):
    with pytest.raises(RuntimeError, match="nothing.mp4.*404"):
        client.run(LATENTSYNC, inputs | {"video": f"{files.url}/nothing.mp4"}, poll_interval=0.1)
    with pytest.raises(RuntimeError, match="HTTP 400.*audio"):
        client.run(LATENTSYNC, {"video": inputs["video"]})
    result = client.run_no_throw(LIPSYNC, inputs | {"video": inputs["audio"]}, poll_interval=0.1)
    assert result["status"] == "failed" and result["outputs"] is None
    assert result["error"]


def curl_of(page_name, body, server):
    """The two documented commands, for the local server and with `body`."""
    text = page(page_name)
    submit, get = re.findall(r"^(curl .*?)$(?![^\n]*\\\n)", re.sub(r"\\\n", " ", text), re.MULTILINE)
    assert "https://api.wavespeed.ai" in submit and "https://api.wavespeed.ai" in get
    submit = re.sub(r"--data-raw '.*", "", submit) + f"--data-raw '{json.dumps(body)}'"
    return [command.replace("https://api.wavespeed.ai", server.url) for command in (submit, get)]


@pytest.mark.parametrize(
    "page_name, model, frames",
    [("wavespeed-bytedance-latentsync.txt", LATENTSYNC, 10), ("wavespeed-sync-lipsync-1.9.0-beta.txt", LIPSYNC, 8)],
)
def test_the_documented_curl_commands_and_the_webhook(server, files, inputs, page_name, model, frames):
    submit, get = curl_of(page_name, inputs | {"webhook_url": f"{files.url}/hook"}, server)
    status, accepted = shell(submit, WAVESPEED_API_KEY="key")
    assert (status, accepted["code"], accepted["data"]["model"], accepted["data"]["outputs"]) == (200, 200, model, [])
    message = files.next()
    _, secret = curl("-H", "Authorization: Bearer key", f"{server.url}/api/v3/webhook/secret")
    key = secret["data"]["secret"].removeprefix("whsec_").encode()
    moment = message.headers["webhook-timestamp"]
    signed = f"{message.headers['webhook-id']}.{moment}.".encode() + message.body
    assert message.headers["webhook-signature"] == "v3," + hmac.new(key, signed, hashlib.sha256).hexdigest()
    assert abs(time.time() - int(moment)) < 300
    answer = json.loads(message.body)
    data = shell(get, WAVESPEED_API_KEY="key", requestId=accepted["data"]["id"])[1]["data"]
    assert answer["id"] == data["id"] == accepted["data"]["id"]
    assert answer["status"] == data["status"] == "completed"
    assert answer["outputs"] == data["outputs"]
    assert data["timings"]["inference"] > 0 and data["has_nsfw_contents"] == [False]
    assert video(data["outputs"][0])[:2] == ("h264", frames)


def test_a_documented_body_without_inputs_is_refused(server):
    submit = curl_of("wavespeed-sync-lipsync-1.9.0-beta.txt", {"sync_mode": "cut_off"}, server)[0]
    status, answer = shell(submit, WAVESPEED_API_KEY="key")
    assert (status, answer["code"]) == (400, 400)


def test_predictions_are_listed_and_deleted(client, server, inputs):
    def call(path, **body):
        command = ("-H", "Authorization: Bearer key", "-H", "Content-Type: application/json", "-d", json.dumps(body))
        status, answer = curl(*command, f"{server.url}/api/v3/predictions{path}")
        assert (status, answer["code"]) == (200, 200)
        return answer["data"]

    client.run(LATENTSYNC, inputs, poll_interval=0.1)
    newest = call("", model=LATENTSYNC, status="completed", page_size=1)
    assert newest["total"] > 1 and len(newest["items"]) == 1
    one = newest["items"][0]["id"]
    assert call("/delete", ids=[one])["deleted_count"] == 1
    assert call("", model=LATENTSYNC, status="completed")["total"] == newest["total"] - 1
    with pytest.raises(RuntimeError, match="404"):
        client.get_result(one)
