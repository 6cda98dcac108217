"""fal by curl, as documented: the synchronous run."""

from support.curl import curl, head, shell
from support.pages import examples
from support.video import video


def test_the_documented_example(server, files):
    command = examples("fal-latentsync.txt", "bash")[0]
    for example, here in [
        ("https://fal.run", server.url),
        ("https://fal.media/files/koala/8teUPbRRMtAUTORDvqy0l.mp4", f"{files.url}/clip.mp4"),
        ("https://fal.media/files/lion/vyFWygmZsIZlUO4s0nr2n.wav", f"{files.url}/voice.wav"),
    ]:
        assert example in command
        command = command.replace(example, here)
    status, result = shell(command, FAL_KEY="id:secret")
    assert (status, result["video"]["content_type"]) == (200, "video/mp4")
    assert video(result["video"]["url"]) == ("h264", 10, 0.4)


def test_a_range_of_the_result(server, files):
    body = f'{{"video_url": "{files.url}/clip.mp4", "audio_url": "{files.url}/voice.wav"}}'
    _, result = curl("-d", body, f"{server.url}/fal/run/fal-ai/latentsync")
    url, size = result["video"]["url"], result["video"]["file_size"]
    assert head("-r", "10-19", url) == (206, 10)
    assert head("-r", f"{size}-", url)[0] == 416
    assert head(url) == (200, size)
