// Is it a real video, and how long is it?
import { execFile } from "node:child_process";
import { promisify } from "node:util";

const probe = ["-v", "error", "-print_format", "json", "-show_format", "-show_streams"];

/** What ffprobe says of a file or URL: its container, codecs, and lengths. */
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
