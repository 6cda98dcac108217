// Checks that a result is a video, and reads its length.
import { execFile } from "node:child_process";
import { promisify } from "node:util";

const probe = ["-v", "error", "-print_format", "json", "-show_format", "-show_streams"];

/** Container, codec and lengths of a file or URL, by ffprobe. */
export async function video(url) {
  const { stdout } = await promisify(execFile)("ffprobe", [...probe, url]);
  const { format, streams } = JSON.parse(stdout);
  const picture = streams.find((stream) => stream.codec_type === "video");
  const sound = streams.find((stream) => stream.codec_type === "audio");
  return {
    container: format.format_name,
    codec: picture?.codec_name,
    frames: Number(picture?.nb_frames),
    seconds: Number(picture?.duration),
    voice: Number(sound?.duration),
  };
}
