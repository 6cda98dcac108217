// wavespeed's JavaScript client.
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { Client, WavespeedException, WavespeedSubmissionException } from "wavespeed";

import { startReceiver } from "./support/receiver.mjs";
import { clips, startServer } from "./support/server.mjs";
import { video } from "./support/video.mjs";

let server, receiver, client;

before(async () => {
  receiver = await startReceiver();
  server = await startServer("--allow-local-urls");
  client = new Client("key", { baseUrl: server.url });
});
after(async () => {
  receiver?.stop();
  await server?.stop();
});

const input = () => ({ video: `${receiver.url}/clip.mp4`, audio: `${receiver.url}/voice.wav` });

test("run with uploaded files", async () => {
  const [picture, voice] = await Promise.all(
    ["clip.mp4", "voice.wav"].map((name) => client.upload(join(clips, name))),
  );
  const { outputs } = await client.run("bytedance/latentsync", { video: picture, audio: voice }, { pollInterval: 0.1 });
  assert.equal(outputs.length, 1);
  assert.equal((await video(outputs[0])).frames, 10);
});

test("sync mode responds with the result", async () => {
  const { outputs } = await client.run("sync/lipsync-1.9.0-beta", input(), { enableSyncMode: true });
  // `cut_off` is the default: the output ends with the clip.
  assert.equal((await video(outputs[0])).frames, 8);
});

test("a failed prediction is reported, with and without an exception", async () => {
  const wrong = { ...input(), audio: `${receiver.url}/nothing.wav` };
  const run = client.run("bytedance/latentsync", wrong, { pollInterval: 0.1 });
  await assert.rejects(run, /Prediction failed.*nothing\.wav.*404/);
  const { outputs, detail } = await client.runNoThrow("bytedance/latentsync", wrong, { enableSyncMode: true });
  assert.equal(outputs, null);
  assert.equal(detail.status, "failed");
  assert.ok(detail.error instanceof WavespeedException);
  assert.match(detail.taskId, /^[0-9a-f-]{36}$/);
});

test("an invalid request is refused immediately", async () => {
  const run = client.run("sync/lipsync-1.9.0-beta", { ...input(), sync_mode: "sideways" });
  await assert.rejects(run, (error) => {
    assert.ok(error instanceof WavespeedSubmissionException);
    assert.match(error.message, /400.*sync_mode/s);
    return true;
  });
});
