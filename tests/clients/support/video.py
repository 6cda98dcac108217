"""Checks that a result is a video, and reads its length."""

import json
import subprocess


def video(url, *options):
    """(codec, frames, seconds of audio) of a file or URL, by ffprobe."""
    command = ["ffprobe", "-v", "error", "-print_format", "json", "-show_format", "-show_streams", *options, url]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    streams = {stream["codec_type"]: stream for stream in answer["streams"]}
    assert "mp4" in answer["format"]["format_name"]
    picture = streams["video"]
    return picture["codec_name"], int(picture["nb_frames"]), round(float(streams["audio"]["duration"]), 2)
