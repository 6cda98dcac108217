"""sync.so's Python client."""

import hashlib
import hmac
import time

import httpx
import pytest
from sync import Sync
from sync.common import Audio, GenerationOptions, Video
from sync.core.api_error import ApiError

from support import TIMEOUT
from support.video import video

MODEL = "lipsync-2"


@pytest.fixture(scope="module")
def client(server):
    return Sync(base_url=server.url, api_key="key")


@pytest.fixture
def inputs(files):
    return [Video(url=f"{files.url}/clip.mp4"), Audio(url=f"{files.url}/voice.wav")]


def ended(client, generation):
    until = time.monotonic() + TIMEOUT
    while generation.status in ("PENDING", "PROCESSING"):
        assert time.monotonic() < until
        time.sleep(0.1)
        generation = client.generations.get(generation.id)
    return generation


def test_create_get_list(client, inputs):
    generation = client.generations.create(model=MODEL, input=inputs, options=GenerationOptions(sync_mode="loop"))
    assert generation.status == "PENDING"
    done = ended(client, generation)
    assert done.status == "COMPLETED"
    assert video(done.output_url) == ("h264", 10, 0.4)
    assert done.output_duration == 0.4
    assert done.model == MODEL and done.options.sync_mode == "loop" and done.created_at == generation.created_at
    assert generation.id in [one.id for one in client.generations.list(status=["COMPLETED"])]
    assert generation.id not in [one.id for one in client.generations.list(status=["FAILED"])]


def test_create_with_files(client, files):
    clip, voice = ((files.clips / name).read_bytes() for name in ("clip.mp4", "voice.wav"))
    generation = client.generations.create_with_files(
        model=MODEL,
        video=("clip.mp4", clip, "video/mp4"),
        audio=("voice.wav", voice, "audio/wav"),
    )
    # `cut_off` is the default: the output ends with the clip. (The client cannot send options with files.)
    assert video(ended(client, generation).output_url)[:2] == ("h264", 8)


def test_cost(client, inputs):
    assert client.generations.estimate_cost(model=MODEL, input=inputs)[0].estimated_generation_cost == 0


def test_webhook(client, server, files, inputs):
    generation = client.generations.create(
        model=MODEL, input=inputs, options=GenerationOptions(sync_mode="bounce"), webhook_url=f"{files.url}/hook"
    )
    message = files.next()
    secret = httpx.get(f"{server.url}/v2/webhook/secret", headers={"x-api-key": "key"}).json()["secret"]
    stamps = dict(part.split("=") for part in message.headers["sync-signature"].split(","))
    signed = f"{stamps['t']}.".encode() + message.body
    assert stamps["v1"] == hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
    assert abs(time.time() - int(stamps["t"])) < 300
    done = ended(client, generation)
    assert f'"outputUrl":"{done.output_url}"' in message.body.decode()


def test_failure(client, inputs, files):
    with pytest.raises(ApiError) as error:
        client.generations.create(model=MODEL, input=inputs[:1])
    assert error.value.status_code == 400
    with pytest.raises(ApiError) as error:
        client.generations.get("00000000-0000-0000-0000-000000000000")
    assert error.value.status_code == 404
    wrong = [Video(url=f"{files.url}/nothing.mp4"), inputs[1]]
    failed = ended(client, client.generations.create(model=MODEL, input=wrong))
    assert failed.status == "FAILED" and "404" in failed.error
