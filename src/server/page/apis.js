// The hosted APIs as data: request bodies, paths, and where the responses have the fields that the page needs.

const LOOP_MODES = {
  pingpong: "Voice longer: the video plays forward, backward, forward … Video longer: it ends with the voice.",
  loop: "Voice longer: the video repeats. Video longer: it ends with the voice.",
};

const SYNC_MODES = {
  bounce: LOOP_MODES.pingpong,
  loop: LOOP_MODES.loop,
  cut_off: "The longer one is cut.",
  silence: "Voice longer: the last frame is held. Video longer: the voice is followed by silence.",
  remap: "The video is slowed down or sped up to the voice's length.",
};

const PLAYBACK_TYPES = {
  normal: "The longer one is cut.",
  normal_reverse: "Voice longer: forward, backward, forward … Video longer: the voice is followed by silence.",
  normal_reverse_by_audio: "Voice longer: forward, backward, forward … Video longer: it ends with the voice.",
};

const mode = (field, texts, usual) => ({ field, texts, usual });

// `body` makes a request body of the form's values (undefined if empty); `input` is the part of a body that has them.
// `id`, `state` and `output` are paths to fields of responses, `running` the states of an unfinished job. `ID` in a URL
// path is replaced by the job's identifier.
export const APIS = [
  {
    name: "fal",
    label: "fal · fal-ai/latentsync",
    submit: "/fal/queue/fal-ai/latentsync",
    status: "/fal-ai/latentsync/requests/ID/status",
    result: "/fal-ai/latentsync/requests/ID",
    body: (v) => ({
      video_url: v.video,
      audio_url: v.audio,
      guidance_scale: v.guidance_scale,
      seed: v.seed,
      loop_mode: v.mode,
    }),
    guided: true,
    mode: mode("loop_mode", LOOP_MODES, "pingpong"),
    id: ["request_id"],
    state: ["status"],
    running: ["IN_QUEUE", "IN_PROGRESS"],
    output: ["video", "url"],
  },
  {
    name: "eachlabs",
    label: "eachlabs · latentsync",
    submit: "/v1/prediction/",
    status: "/v1/prediction/ID",
    body: (v) => ({
      model: "latentsync",
      input: {
        video_url: v.video,
        audio_url: v.audio,
        guidance_scale: v.guidance_scale,
        seed: v.seed,
        loop_mode: v.mode,
      },
    }),
    input: (body) => body.input,
    guided: true,
    mode: mode("loop_mode", LOOP_MODES, "pingpong"),
    id: ["predictionID"],
    state: ["status"],
    running: ["processing"],
    output: ["output"],
  },
  {
    name: "wavespeed-latentsync",
    label: "wavespeed · bytedance/latentsync",
    submit: "/api/v3/bytedance/latentsync",
    status: "/api/v3/predictions/ID/result",
    body: (v) => ({ audio: v.audio, video: v.video }),
    id: ["data", "id"],
    state: ["data", "status"],
    running: ["created", "processing"],
    output: ["data", "outputs", 0],
  },
  {
    name: "wavespeed-lipsync",
    label: "wavespeed · sync/lipsync-1.9.0-beta",
    submit: "/api/v3/sync/lipsync-1.9.0-beta",
    status: "/api/v3/predictions/ID/result",
    body: (v) => ({ video: v.video, audio: v.audio, sync_mode: v.mode }),
    mode: mode("sync_mode", SYNC_MODES, "cut_off"),
    id: ["data", "id"],
    state: ["data", "status"],
    running: ["created", "processing"],
    output: ["data", "outputs", 0],
  },
  {
    name: "jogg",
    label: "JoggAI · create_lip_sync_video",
    submit: "/open/v2/create_lip_sync_video",
    status: "/open/v2/lip_sync_video/ID",
    body: (v) => ({ video_url: v.video, audio_url: v.audio, playback_type: v.mode }),
    mode: mode("playback_type", PLAYBACK_TYPES, "normal"),
    id: ["data", "task_id"],
    state: ["data", "status"],
    running: ["pending", "processing"],
    output: ["data", "data", "result_url"],
  },
  {
    name: "sync-so",
    label: "sync.so · v2/generate",
    submit: "/v2/generate",
    status: "/v2/generate/ID",
    body: (v) => ({
      model: "lipsync-1.9.0-beta",
      input: [
        { type: "video", url: v.video },
        { type: "audio", url: v.audio },
      ],
      options: v.mode && { sync_mode: v.mode },
    }),
    input: (body) => ({
      video: body.input.find((input) => input.type === "video")?.url,
      audio: body.input.find((input) => input.type === "audio")?.url,
      ...body.options,
    }),
    mode: mode("sync_mode", SYNC_MODES, "cut_off"),
    id: ["id"],
    state: ["status"],
    running: ["PENDING", "PROCESSING"],
    output: ["outputUrl"],
  },
];

export const apiNamed = (name) => APIS.find((api) => api.name === name) ?? APIS[0];

// The value at a path in a response.
export const at = (answer, path) => path.reduce((value, key) => value?.[key], answer);

// The form's values of a request body.
export function valuesOf(api, body) {
  const input = api.input?.(body) ?? body;
  return {
    video: input.video_url ?? input.video,
    audio: input.audio_url ?? input.audio,
    guidance_scale: input.guidance_scale,
    seed: input.seed,
    mode: api.mode && input[api.mode.field],
  };
}

// The form field of each API field, where the names differ.
const FIELDS = {
  video_url: "video",
  audio_url: "audio",
  loop_mode: "mode",
  sync_mode: "mode",
  playback_type: "mode",
};

// The errors in a response: the server's messages, each with its form field or null. Empty for a success.
export function errorsOf(status, answer) {
  const failed = status >= 400 || (answer?.code && answer.code !== 200);
  if (!failed) return [];
  const ofField = (name, text) => ({ field: FIELDS[name] ?? name, text });
  if (Array.isArray(answer?.detail)) {
    return answer.detail.map(({ loc, msg }) => ofField(String(loc.at(-1)), msg));
  }
  const text = [answer?.detail, answer?.details, answer?.message, answer?.msg].find((message) => message);
  const message = text ?? `the server answered ${status}`;
  const named = /^`(?:[\w[\]]+\.)*(\w+)` /.exec(message);
  return [ofField(named?.[1] ?? null, message)];
}
