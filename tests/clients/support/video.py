"""Is it a real video, and how long is it?"""

import json
import subprocess


def video(url, *options):
    """What ffprobe says of a file or URL: (codec, frames, seconds of the voice)."""
    command = ["ffprobe", "-v", "error", "-print_format", "json", "-show_format", "-show_streams", *options, url]
    told = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    streams = {stream["codec_type"]: stream for stream in told["streams"]}
    assert "mp4" in told["format"]["format_name"]
    picture = streams["video"]
    return picture["codec_name"], int(picture["nb_frames"]), round(float(streams["audio"]["duration"]), 2)
