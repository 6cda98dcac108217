// fal's JavaScript client in a web page of another origin, like a front end in development.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

import { startBrowser } from "./support/browser.mjs";
import { startReceiver } from "./support/receiver.mjs";
import { startServer } from "./support/server.mjs";
import { video } from "./support/video.mjs";

const here = fileURLToPath(new URL(".", import.meta.url));
let browser, server, receiver, page;

before(async () => {
  receiver = await startReceiver();
  server = await startServer("--allow-local-urls");
  browser = await startBrowser();
  page = await browser.newPage();
  await page.goto(receiver.url);
  const { outputFiles } = await build({
    stdin: { contents: 'export { createFalClient } from "@fal-ai/client";', resolveDir: here },
    bundle: true,
    write: false,
    format: "iife",
    globalName: "client",
  });
  await page.addScriptTag({ content: outputFiles[0].text });
});
after(async () => {
  await browser?.close();
  receiver?.stop();
  await server?.stop();
});

// Runs in the page: uploads the files, follows the job by `mode`, and fetches the result.
async function subscribe({ proxyUrl, origin, mode }) {
  const file = async (name, type) => new Blob([await (await fetch(`${origin}/${name}`)).arrayBuffer()], { type });
  const fal = globalThis.client.createFalClient({ proxyUrl });
  const states = [];
  const result = await fal.subscribe("fal-ai/latentsync", {
    input: { video_url: await file("clip.mp4", "video/mp4"), audio_url: await file("voice.wav", "audio/wav") },
    mode,
    logs: true,
    onQueueUpdate: ({ status }) => states.push(status),
  });
  const bytes = (await (await fetch(result.data.video.url)).arrayBuffer()).byteLength;
  return { ...result, states, bytes };
}

for (const mode of ["polling", "streaming"]) {
  test(`subscribe, ${mode}, with files`, async () => {
    const result = await page.evaluate(subscribe, { proxyUrl: `${server.url}/fal/proxy`, origin: receiver.url, mode });
    assert.equal(result.states.at(-1), "COMPLETED");
    // The id comes in a header that the server must expose to the page.
    assert.match(result.requestId, /^[0-9a-f-]{36}$/);
    assert.equal(result.bytes, result.data.video.file_size);
    assert.equal((await video(result.data.video.url)).frames, 10);
  });
}
