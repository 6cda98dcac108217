// fal's JavaScript client, with its proxy setting.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createHash, createPublicKey, randomBytes, verify } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import { ApiError, createFalClient, ValidationError } from "@fal-ai/client";

import { example } from "./support/pages.mjs";
import { startReceiver } from "./support/receiver.mjs";
import { clips, startServer } from "./support/server.mjs";
import { video } from "./support/video.mjs";

const APP = "fal-ai/latentsync";
/** Frames of the voice. The clip is shorter, and plays forward and backward. */
const FRAMES = 10;
let server, receiver, fal;

before(async () => {
  receiver = await startReceiver();
  server = await startServer("--allow-local-urls");
  fal = createFalClient({ credentials: "id:secret", proxyUrl: { url: `${server.url}/fal/proxy`, when: "always" } });
});
after(async () => {
  receiver?.stop();
  await server?.stop();
});

const input = (audio = "voice.wav") => ({
  video_url: `${receiver.url}/clip.mp4`,
  audio_url: `${receiver.url}/${audio}`,
});

async function checkVideo(data, frames = FRAMES) {
  const { content_type: type, file_size: size, url } = data.video;
  assert.equal(type, "video/mp4");
  assert.equal((await (await fetch(url)).arrayBuffer()).byteLength, size);
  const seen = await video(url);
  assert.equal(seen.codec, "h264");
  assert.equal(seen.frames, frames);
}

test("the documented example runs", async () => {
  // With local addresses, and the proxy setting of the client.
  const code = (await example("fal-latentsync.txt", "javascript"))
    .replace(/"https:[^"]*\.mp4"/, JSON.stringify(input().video_url))
    .replace(/"https:[^"]*\.wav"/, JSON.stringify(input().audio_url))
    .replace(/(import .*;)/, `$1\nfal.config(${JSON.stringify({ proxyUrl: { url: `${server.url}/fal/proxy`, when: "always" } })});`);
  const script = join(clips, "example.mjs");
  await writeFile(script, code);
  const { stdout } = await promisify(execFile)(process.execPath, [script]);
  const url = /url: '([^']+)'/.exec(stdout);
  assert.ok(url, stdout);
  assert.equal((await video(url[1])).frames, FRAMES);
});

test("subscribe with streaming: all states, each log line once", async () => {
  const seen = [];
  const result = await fal.subscribe(APP, {
    input: { ...input(), seed: 7, guidance_scale: 1.5, loop_mode: "loop" },
    mode: "streaming",
    logs: true,
    onQueueUpdate: (update) => seen.push(structuredClone(update)),
  });
  assert.equal(seen.at(-1).status, "COMPLETED");
  assert.ok(seen.some((update) => update.status === "IN_PROGRESS"));
  const lines = seen.at(-1).logs.map((line) => line.message);
  assert.ok(lines.length > 0);
  assert.equal(new Set(lines).size, lines.length, lines.join("\n"));
  assert.equal(result.requestId, seen[0].request_id);
  await checkVideo(result.data);
});

test("run with files instead of URLs: the client uploads them", async () => {
  const file = async (name, type) => new File([await readFile(join(clips, name))], name, { type });
  const result = await fal.run(APP, {
    input: { video_url: await file("clip.mp4", "video/mp4"), audio_url: await file("voice.wav", "audio/wav") },
  });
  await checkVideo(result.data);
});

test("stream ends with the result", async () => {
  const stream = await fal.stream(APP, { input: input() });
  const events = [];
  for await (const event of stream) events.push(event);
  await checkVideo(await stream.done());
  assert.ok(events.length > 0);
});

test("a file beyond 90 MB is uploaded in parts", async () => {
  const content = randomBytes(91 * 1024 * 1024);
  const url = await fal.storage.upload(new Blob([content], { type: "video/mp4" }));
  const back = Buffer.from(await (await fetch(url)).arrayBuffer());
  assert.ok(back.equals(content));
});

test("a running and a waiting job are cancelled", async () => {
  const [running, waiting] = [
    await fal.queue.submit(APP, { input: input("long.wav") }),
    await fal.queue.submit(APP, { input: input(), priority: "low" }),
  ];
  const events = await fal.queue.streamStatus(APP, { requestId: running.request_id });
  await new Promise((resolve) => events.on("data", ({ status }) => status === "IN_PROGRESS" && resolve()));
  const { queue_position: position } = await fal.queue.status(APP, { requestId: waiting.request_id });
  assert.equal(position, 0);
  for (const { request_id: requestId } of [waiting, running]) {
    await fal.queue.cancel(APP, { requestId });
    const status = await fal.queue.subscribeToStatus(APP, { requestId });
    assert.equal(status.error_type, "client_cancelled");
    await assert.rejects(fal.queue.result(APP, { requestId }), (error) => {
      return error instanceof ApiError && error.status === 499;
    });
  }
});

test("errors in fields become the client's validation error", async () => {
  const wrong = { audio_url: input().audio_url, guidance_scale: 3 };
  await assert.rejects(fal.subscribe(APP, { input: wrong }), (error) => {
    assert.ok(error instanceof ValidationError);
    assert.equal(error.getFieldErrors("video_url")[0].type, "missing");
    assert.equal(error.getFieldErrors("guidance_scale")[0].type, "less_than_equal");
    return true;
  });
});

test("a missing video is reported at its field", async () => {
  const wrong = { ...input(), video_url: `${receiver.url}/nothing.mp4` };
  await assert.rejects(fal.subscribe(APP, { input: wrong }), (error) => {
    assert.equal(error.status, 422);
    assert.deepEqual(error.body.detail[0].loc, ["body", "video_url"]);
    assert.equal(error.body.detail[0].type, "file_download_error");
    return true;
  });
});

test("a webhook is verified as documented", async () => {
  const { request_id: id } = await fal.queue.submit(APP, { input: input(), webhookUrl: `${receiver.url}/hook` });
  const { headers, body } = await receiver.next();
  const of = (name) => headers[`x-fal-webhook-${name}`];
  assert.ok(Math.abs(Date.now() / 1000 - Number(of("timestamp"))) < 300);
  const digest = createHash("sha256").update(body).digest("hex");
  const message = [of("request-id"), of("user-id"), of("timestamp"), digest].join("\n");
  const { keys } = await (await fetch(`${server.url}/.well-known/jwks.json`)).json();
  const signed = (text) => keys.some((jwk) => {
    const key = createPublicKey({ key: jwk, format: "jwk" });
    return verify(null, Buffer.from(text), key, Buffer.from(of("signature"), "hex"));
  });
  assert.ok(signed(message));
  assert.ok(!signed(`${message}0`));
  const content = JSON.parse(body);
  assert.deepEqual([content.request_id, content.status, of("request-id")], [id, "OK", id]);
  await checkVideo(content.payload);
});
