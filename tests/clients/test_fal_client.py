"""fal's Python client. It supports https only, and reads its hosts from the environment when it is imported."""

import asyncio
import importlib
import os

import httpx
import pytest

from support import certificate
from support.pages import examples
from support.server import Server
from support.video import video

APP = "fal-ai/latentsync"
# Frames of the voice. The clip is shorter, and plays forward and backward.
FRAMES = 10


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    authority, certificate_file, key = certificate.make(tmp_path_factory.mktemp("tls"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(authority))
        with Server("--allow-local-urls", "--tls-cert", certificate_file, "--tls-key", key) as running:
            yield running


@pytest.fixture(scope="module")
def fal(server):
    host = server.url.removeprefix("https://")
    os.environ |= {"FAL_KEY": "id:secret", "FAL_RUN_HOST": host, "FAL_QUEUE_RUN_HOST": f"{host}/fal/queue"}
    fal_client = importlib.import_module("fal_client")
    # The environment does not set the hosts of uploads.
    fal_client.client.REST_URL = server.url
    fal_client.client.CDN_URL = server.url
    return fal_client


@pytest.fixture
def arguments(files):
    return {"video_url": f"{files.url}/clip.mp4", "audio_url": f"{files.url}/voice.wav"}


def length(result):
    return video(result["video"]["url"], "-tls_verify", "0")


def test_the_documented_example(fal, arguments, capsys):
    code = examples("fal-latentsync.txt", "python")[0]
    theirs = {"video_url": "koala/8teUPbRRMtAUTORDvqy0l.mp4", "audio_url": "lion/vyFWygmZsIZlUO4s0nr2n.wav"}
    for name, example in theirs.items():
        assert example in code
        code = code.replace(f"https://fal.media/files/{example}", arguments[name])
    names = {}
    exec(code, names)
    lines = capsys.readouterr().out.splitlines()
    # Log lines, then the result.
    assert len(lines) > 1 and lines[-1] == str(names["result"])
    assert length(names["result"]) == ("h264", FRAMES, 0.4)


def test_all_states_are_reported_and_the_log_grows(fal, arguments):
    handle = fal.submit(APP, arguments | {"seed": 7}, priority="low", hint="here", start_timeout=120)
    events = list(handle.iter_events(with_logs=True))
    assert isinstance(events[-1], fal.Completed)
    assert any(isinstance(event, fal.InProgress) for event in events)
    assert events[-1].logs and events[-1].metrics["inference_time"] > 0
    assert length(handle.get()) == ("h264", FRAMES, 0.4)


def test_run_with_uploads(fal, files):
    # Without a fallback to the older storage, which would hide a failure.
    names = ("clip.mp4", "voice.wav")
    uploaded = [fal.upload_file(str(files.clips / name), fallback_repository=[]) for name in names]
    result = fal.run(APP, {"video_url": uploaded[0], "audio_url": uploaded[1]})
    assert length(result) == ("h264", FRAMES, 0.4)


def test_run_with_data_uris(fal, files):
    data = [fal.encode_file(str(files.clips / name)) for name in ("clip.mp4", "voice.wav")]
    result = fal.run(APP, {"video_url": data[0], "audio_url": data[1], "loop_mode": "loop"})
    assert length(result) == ("h264", FRAMES, 0.4)


def test_stream(fal, arguments):
    events = list(fal.stream(APP, arguments))
    assert length(events[-1]) == ("h264", FRAMES, 0.4)


def test_a_file_beyond_100_mb_is_uploaded_in_parts(fal, server, tmp_path):
    content = os.urandom(1 << 20) * 101
    path = tmp_path / "big.mp4"
    path.write_bytes(content)
    assert httpx.get(fal.upload_file(str(path), fallback_repository=[])).content == content


def test_the_older_storage(fal):
    url = fal.upload(b"RIFF....WAVE", "audio/wav", "voice.wav", repository="fal", fallback_repository=[])
    assert httpx.get(url).content == b"RIFF....WAVE"


def test_cancel_while_it_runs(fal, arguments, files):
    handle = fal.submit(APP, arguments | {"audio_url": f"{files.url}/long.wav"})
    for event in handle.iter_events():
        if isinstance(event, fal.InProgress):
            handle.cancel()
            break
    events = list(handle.iter_events())
    assert events[-1].error_type == "client_cancelled"
    with pytest.raises(fal.client.FalClientHTTPError) as error:
        handle.get()
    assert error.value.status_code == 499


def test_errors_name_the_field(fal, arguments):
    with pytest.raises(fal.client.FalClientHTTPError) as error:
        fal.subscribe(APP, arguments | {"loop_mode": "bounce"})
    assert error.value.status_code == 422
    assert error.value.response.json()["detail"][0]["loc"] == ["body", "loop_mode"]
    with pytest.raises(fal.client.FalClientHTTPError) as error:
        fal.subscribe(APP, arguments | {"video_url": arguments["audio_url"]})
    assert error.value.response.json()["detail"][0]["loc"] == ["body", "video_url"]


def test_the_asynchronous_client(fal, arguments):
    result = asyncio.run(fal.AsyncClient().subscribe(APP, arguments))
    assert length(result) == ("h264", FRAMES, 0.4)
