"""eachlabs by curl, as documented."""

import hashlib
import hmac
import json
import re
import time

import pytest

from support import TIMEOUT
from support.curl import curl, shell
from support.pages import examples
from support.video import video

KEY = ("-H", "X-API-Key: key")


def body(files, **more):
    inputs = {"video_url": f"{files.url}/clip.mp4", "audio_url": f"{files.url}/voice.wav"}
    return json.dumps({"model": "latentsync", "input": inputs, **more})


def ended(server, prediction):
    """The prediction, when it is no longer `processing`."""
    poll = examples("eachlabs-latentsync.txt", "bash")[1]
    assert "https://api.eachlabs.ai/v1/prediction/{PREDICTION_ID}" in poll
    poll = poll.replace("https://api.eachlabs.ai", server.url).replace("{PREDICTION_ID}", prediction)
    until = time.monotonic() + TIMEOUT
    while time.monotonic() < until:
        status, answer = shell(poll)
        assert (status, answer["predictionID"]) == (200, prediction)
        if answer["status"] != "processing":
            return answer
        time.sleep(0.2)
    raise TimeoutError(prediction)


def test_the_documented_examples(server, files):
    create = examples("eachlabs-latentsync.txt", "bash")[0].replace("https://api.eachlabs.ai", server.url)
    create = re.sub(r"https://storage\S*?\.mp4", f"{files.url}/clip.mp4", create)
    create = re.sub(r"https://storage\S*?\.mp3", f"{files.url}/voice.wav", create)
    assert "/v1/prediction/ " in create and "googleapis" not in create
    status, created = shell(create)
    assert (status, created["status"], created["message"]) == (200, "success", "Prediction created successfully")
    done = ended(server, created["predictionID"])
    assert done["status"] == "success" and done["metrics"]["predict_time"] > 0
    assert video(done["output"]) == ("h264", 10, 0.4)


def test_run(server, files):
    status, done = curl(*KEY, "-d", body(files), f"{server.url}/v1/prediction/run")
    assert (status, done["status"]) == (200, "success")
    assert video(done["output"]) == ("h264", 10, 0.4)


@pytest.mark.parametrize("clip, expected", [("clip.mp4", "succeeded"), ("nothing.mp4", "failed")])
def test_webhook_with_a_secret_and_its_log(server, files, clip, expected):
    request = json.loads(body(files, webhook_url=f"{files.url}/hook", webhook_secret="hush"))
    request["input"]["video_url"] = f"{files.url}/{clip}"
    _, created = curl(*KEY, "-d", json.dumps(request), f"{server.url}/v1/prediction")
    message = files.next()
    signature = hmac.new(b"hush", message.body, hashlib.sha256).hexdigest()
    assert message.headers["x-webhook-signature"] == signature
    answer = json.loads(message.body)
    assert (answer["exec_id"], answer["status"]) == (created["predictionID"], expected)
    assert bool(answer["output"]) == (expected == "succeeded") and bool(answer["error"]) == (expected == "failed")
    # The server may record the receiver's response a little later.
    until = time.monotonic() + TIMEOUT
    while True:
        status, log = curl(*KEY, f"{server.url}/v1/webhooks/{answer['exec_id']}")
        if log["attempts"][-1]["status"] == "SUCCESS" or time.monotonic() > until:
            break
        time.sleep(0.1)
    assert (status, log["execution_id"], log["url"]) == (200, answer["exec_id"], f"{files.url}/hook")
    assert log["attempts"][-1]["status_code"] == 200
    _, every = curl(*KEY, f"{server.url}/v1/webhooks")
    assert answer["exec_id"] in [one["execution_id"] for one in every["webhooks"]]


def test_cancel(server, files):
    request = json.loads(body(files))
    request["input"]["audio_url"] = f"{files.url}/long.wav"
    _, created = curl(*KEY, "-d", json.dumps(request), f"{server.url}/v1/prediction/")
    url = f"{server.url}/v1/prediction/{created['predictionID']}/cancel"
    status, answer = curl(*KEY, "-X", "POST", url)
    assert (status, answer["status"]) == (200, "cancelled")
    assert ended(server, created["predictionID"])["status"] == "cancelled"
    status, answer = curl(*KEY, "-X", "POST", url)
    assert (status, answer["status"]) == (400, "error")


def test_failure(server, files):
    def post(request):
        return curl(*KEY, "-d", json.dumps(request), f"{server.url}/v1/prediction/")

    request = json.loads(body(files))
    for wrong, expected in [
        (request | {"model": "other"}, 404),
        (request | {"input": {}}, 400),
        (request | {"input": request["input"] | {"guidance_scale": 3}}, 400),
        (request | {"input": request["input"] | {"video_url": "data:video/mp4;base64,AAAA"}}, 400),
    ]:
        status, answer = post(wrong)
        assert (status, answer["status"]) == (expected, "error")
        assert answer["message"] and answer["details"]
    status, answer = curl(*KEY, f"{server.url}/v1/prediction/00000000-0000-0000-0000-000000000000")
    assert (status, answer["status"]) == (404, "error")
    status, created = post(request | {"input": request["input"] | {"video_url": request["input"]["audio_url"]}})
    answer = ended(server, created["predictionID"])
    assert answer["status"] == "error" and answer["message"] and answer["details"]
