// The web page, in a browser, with the program.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, test } from "node:test";
import { promisify } from "node:util";

import { accessible, fits, openPage, startBrowser } from "./support/browser.mjs";
import { clips, startServer } from "./support/server.mjs";
import { video } from "./support/video.mjs";
import { startProxy } from "./support/proxy.mjs";

const [clip, voice, long] = ["clip.mp4", "voice.wav", "long.wav"].map((name) => join(clips, name));
const KEY = "a-key";
// Limit of every wait, for a busy machine.
const TIMEOUT = 240_000;

let browser, server, guarded, directory;

before(async () => {
  directory = await mkdtemp(join(tmpdir(), "latentsync-page-"));
  browser = await startBrowser();
  server = await startServer("--steps", "12");
  guarded = await startServer("--api-key", KEY, "--max-input", "2", "--jobs-per-key", "1");
});
after(async () => {
  await browser?.close();
  await Promise.all([server?.stop(), guarded?.stop()]);
  await rm(directory, { recursive: true, force: true });
});

afterEach(() => Promise.all(browser.contexts().map((context) => context.close())));

async function open(url = server.url, options) {
  const page = await openPage(browser, url, options);
  page.setDefaultTimeout(TIMEOUT);
  return page;
}

async function choose(page, videoFile = clip, voiceFile = voice) {
  await page.setInputFiles("#video-file", videoFile);
  await page.setInputFiles("#audio-file", voiceFile);
  await page.waitForSelector("#video-preview video");
  await page.waitForSelector("#audio-preview audio");
}

const done = (page) => page.waitForSelector("#result:not([hidden])");
const complaint = (page, field) =>
  page.waitForFunction((id) => document.getElementById(id).textContent, `${field}-error`).then((text) => text.jsonValue());

// Runs a program with the command `latentsync` on the path.
function execute(cwd, program, flags) {
  const env = { ...process.env, LATENTSYNC_API_KEY: KEY, PATH: `${join(directory, "bin")}:${process.env.PATH}` };
  return promisify(execFile)(program, flags, { cwd, env, timeout: TIMEOUT });
}

// Drops files on an element.
async function drop(page, place, files) {
  const contents = await Promise.all(
    files.map(async ([path, name, type]) => ({ name, type, base64: (await readFile(path)).toString("base64") })),
  );
  const data = await page.evaluateHandle((list) => {
    const transfer = new DataTransfer();
    for (const { name, type, base64 } of list) {
      const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
      transfer.items.add(new File([bytes], name, { type }));
    }
    return transfer;
  }, contents);
  for (const event of ["dragenter", "dragover", "drop"]) await page.dispatchEvent(place, event, { dataTransfer: data });
}

test("two files are dropped, the job runs, and the result is played, sought and downloaded", async () => {
  const page = await open();
  await drop(page, "main", [[voice, "my voice.wav", "audio/wav"], [clip, "clip.mp4", "video/mp4"]]);
  await page.waitForSelector("#video-preview video");
  await page.waitForSelector("#audio-preview audio");
  assert.match(await page.inputValue("#audio"), /\/media\/[0-9a-f-]{36}\/my_voice\.wav$/);
  await accessible(page);

  await page.evaluate(() => {
    globalThis.seen = new Set();
    const look = () => {
      seen.add(document.getElementById("status").textContent);
      const bar = document.querySelector("[data-stage=denoise_latents] progress");
      if (bar && bar.value > 0 && bar.value < 1) seen.add("denoising");
    };
    new MutationObserver(look).observe(document.getElementById("job"), { subtree: true, childList: true, attributes: true, characterData: true });
  });
  await page.fill("#seed", "7");
  await page.click("#run");
  await page.waitForSelector("#status.running");
  await accessible(page);
  await done(page);
  const seen = await page.evaluate(() => [...seen]);
  assert.ok(seen.includes("Running.") && seen.includes("denoising"), seen.join(" | "));
  assert.match(await page.textContent("#status"), /^Done in /);
  assert.match(await page.textContent("#log"), /fetching the video and the voice.*denoise_latents/s);
  assert.match(await page.textContent("#facts"), /0\.4 s, 10 frames.*Seed7/);
  await accessible(page);

  await page.reload();
  await done(page);
  // The player requests ranges when it seeks in a longer video; this one is loaded completely.
  const part = await page.evaluate(async () => {
    const url = document.getElementById("output").currentSrc;
    const answer = await fetch(url, { cache: "no-store", headers: { range: "bytes=10-19" } });
    return [answer.status, (await answer.arrayBuffer()).byteLength];
  });
  assert.deepEqual(part, [206, 10]);
  await page.click("#both");
  await page.waitForFunction(() => ["original", "output"].every((id) => document.getElementById(id).currentTime > 0.1));
  const sought = await page.evaluate(async () => {
    const output = document.getElementById("output");
    output.pause();
    const done = new Promise((resolve) => output.addEventListener("seeked", resolve, { once: true }));
    output.currentTime = 0.2;
    await done;
    return [output.currentTime, output.videoWidth > 0];
  });
  assert.deepEqual(sought, [0.2, true]);

  const [download] = await Promise.all([page.waitForEvent("download"), page.click("#download")]);
  assert.equal(download.suggestedFilename(), "clip-latentsync.mp4");
  const file = join(directory, "download.mp4");
  await download.saveAs(file);
  const { codec, frames } = await video(file);
  assert.deepEqual([codec, frames], ["h264", 10]);

  await page.fill("#seed", "8");
  await page.click("#again");
  assert.equal(await page.inputValue("#seed"), "7");
  assert.match(await page.inputValue("#video"), /clip\.mp4$/);
  page.assertClean();
});

test("a job survives a lost connection and a reload, and is cancelled while it runs and while it waits", async () => {
  const proxy = await startProxy(server.url);
  try {
    const page = await open(proxy.url);
    await choose(page, clip, long);
    await page.click("#run");
    await page.waitForSelector("#status.running");
    const running = new URL(page.url()).hash;
    await page.click("#run");
    await page.waitForFunction((other) => location.hash !== other, running);
    await page.waitForFunction(() => document.getElementById("status").textContent === "Waiting: next in the queue.");
    await page.click("#cancel");
    await page.waitForSelector("#status.cancelled");

    await page.click(`#history a[href="${running}"]`);
    await page.waitForSelector("#status.running");
    const lines = await page.locator("#log li").count();
    proxy.cut();
    await page.waitForFunction(() => document.getElementById("status").textContent.includes("broke off"));
    await page.click("#run");
    await page.waitForFunction(() => document.getElementById("form-error").textContent.includes("does not answer"));
    proxy.restore();
    await page.waitForFunction(() => document.getElementById("status").textContent === "Running.");
    const again = await page.locator("#log li").allTextContents();
    assert.ok(again.length >= lines && new Set(again).size === again.length, again.join("\n"));

    await page.reload();
    await page.waitForSelector("#status.running");
    assert.equal(new URL(page.url()).hash, running);
    assert.equal(await page.locator(`#history a[href="${running}"][aria-current=true]`).count(), 1);
    assert.match(await page.inputValue("#audio"), /long\.wav$/);
    await page.click("#cancel");
    await page.waitForSelector("#status.cancelled");
    assert.equal(await page.isVisible("#work"), false);
    page.assertClean();
  } finally {
    proxy.stop();
  }
});

test("errors are shown at their field, in the words of the server", async () => {
  const page = await open();
  await page.click("#run");
  assert.match(await complaint(page, "video"), /Choose a video/);
  assert.equal(await page.evaluate(() => document.activeElement.id), "video");
  const text = join(directory, "notes.txt");
  await writeFile(text, "no video");
  await drop(page, "#video-field", [[text, "notes.txt", "text/plain"]]);
  assert.match(await complaint(page, "video"), /notes\.txt is neither a video nor a picture/);
  await accessible(page);

  await choose(page);
  assert.equal(await page.textContent("#video-error"), "");
  await page.fill("#guidance_scale", "3");
  await page.fill("#seed", "seven");
  await page.click("#run");
  assert.equal(await complaint(page, "guidance_scale"), "Input should be less than or equal to 2");
  assert.match(await complaint(page, "seed"), /valid integer/);
  assert.equal(await page.getAttribute("#seed", "aria-invalid"), "true");
  assert.equal(await page.evaluate(() => document.activeElement.id), "guidance_scale");
  await page.selectOption("#api", "eachlabs");
  await page.click("#run");
  assert.match(await complaint(page, "guidance_scale"), /must be between 1 and 2/);
  await page.fill("#guidance_scale", "1.5");
  await page.fill("#seed", "");

  // An error that is found when the job runs.
  await page.selectOption("#api", "fal");
  await page.fill("#video", "http://127.0.0.1:1/v.mp4");
  await page.click("#run");
  await page.waitForSelector("#status.failed");
  assert.match(await complaint(page, "video"), /127\.0\.0\.1/);
  await accessible(page);
  page.assertClean();
});

test("a key is requested, kept for the tab only, and its limits are shown", async () => {
  const page = await open(guarded.url);
  await page.waitForSelector("#key-field:not([hidden])");
  assert.equal(await page.evaluate(() => document.activeElement.id), "key");
  await accessible(page);
  await page.fill("#key", "wrong");
  await page.press("#key", "Tab");
  await page.waitForFunction(() => document.getElementById("key-error").textContent.includes("invalid API key"));
  await page.fill("#key", KEY);
  await page.press("#key", "Tab");
  await page.waitForFunction(() => !document.getElementById("key-error").textContent);
  assert.ok(!(await page.textContent("#code")).includes(KEY));
  assert.match(await page.textContent("#code"), /Authorization: Key \$LATENTSYNC_API_KEY/);
  const kept = await page.evaluate(() => [JSON.stringify({ ...sessionStorage }), localStorage.length, document.cookie]);
  assert.ok(kept[0].includes(KEY));
  assert.deepEqual(kept.slice(1), [0, ""]);

  const large = join(directory, "large.mp4");
  await writeFile(large, Buffer.alloc(3 << 20));
  await page.setInputFiles("#video-file", large);
  assert.match(await complaint(page, "video"), /large\.mp4 has 3\.1 MB; the server takes 2\.1 MB at most/);

  await choose(page, clip, long);
  await page.click("#run");
  await page.waitForSelector("#status.running");
  await page.click("#run");
  await page.waitForFunction(() => document.getElementById("form-error").textContent.startsWith("1 jobs of this key"));
  await page.click("#cancel");
  await page.waitForSelector("#status.cancelled");
  page.assertClean();

  const other = await open(guarded.url);
  await other.waitForSelector("#key-field:not([hidden])");
  assert.equal(await other.inputValue("#key"), "");
});

test("everything works with the keyboard alone", async () => {
  const page = await open();
  // Registered before the first key press: file choosers must be intercepted in time.
  page.on("filechooser", () => {});
  await page.waitForSelector("#server.ready");
  const tab = async (wanted) => {
    for (let presses = 0; presses < 60; presses += 1) {
      await page.keyboard.press("Tab");
      const id = await page.evaluate(() => document.activeElement.id);
      if (id === wanted) return;
    }
    assert.fail(`Tab does not lead to ${wanted}`);
  };
  for (const [field, file] of [["video", clip], ["audio", voice]]) {
    await tab(`${field}-file`);
    const [chooser] = await Promise.all([page.waitForEvent("filechooser"), page.keyboard.press("Space")]);
    await chooser.setFiles(file);
    await page.waitForSelector(`#${field}-preview ${field}`);
  }
  await tab("api");
  await page.keyboard.press("j");
  assert.equal(await page.inputValue("#api"), "jogg");
  await tab("mode");
  await page.keyboard.press("ArrowDown");
  assert.equal(await page.inputValue("#mode"), "normal_reverse");
  await page.keyboard.press("Control+Enter");
  await done(page);
  assert.match(await page.textContent("#facts"), /JoggAI/);
  await tab("download");
  await tab("tab-curl");
  await page.keyboard.press("ArrowRight");
  assert.match(await page.textContent("#code"), /^import json.*"playback_type": "normal_reverse"/s);
  await tab("copy");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.getElementById("copied").textContent);
  page.assertClean();
});

test("the page fits a small phone screen in dark mode", async () => {
  const options = { viewport: { width: 320, height: 640 }, isMobile: true, hasTouch: true, colorScheme: "dark" };
  const page = await open(server.url, options);
  await page.waitForSelector("#server.ready");
  await fits(page);
  await accessible(page);
  await choose(page);
  await page.tap("#run");
  await page.waitForSelector("#status.running");
  await fits(page);
  await done(page);
  await fits(page);
  await accessible(page);
  for (const name of ["python", "javascript", "cli"]) {
    await page.tap(`#tab-${name}`);
    await fits(page);
  }
  page.assertClean();
});

test("every code sample runs unchanged and gives the result of the page", async (context) => {
  const quick = await startServer();
  context.after(() => quick.stop());
  await mkdir(join(directory, "bin"));
  await symlink(process.env.LATENTSYNC_BIN, join(directory, "bin", "latentsync"));
  const commands = {
    curl: ["bash", "-c"],
    python: ["python3", "-c"],
    javascript: ["node", "--input-type=module", "-e"],
    cli: ["bash", "-c"],
  };
  const results = {};
  const runAll = async (name, samples) => {
    for (const [language, code] of samples) {
      const own = await mkdtemp(join(directory, `${name}-${language}-`));
      const [program, ...flags] = commands[language];
      await execute(own, program, [...flags, code]);
      // These APIs cut the voice: the output ends with the video.
      const { frames } = await video(join(own, "out.mp4"));
      assert.equal(frames, /^(wavespeed-lipsync|jogg|sync-so)$/.test(name) ? 8 : 10, `${name} ${language}`);
      if (/^fal/.test(name)) results[`${name} ${language}`] = await readFile(join(own, "out.mp4"));
    }
  };
  const ready = async (page) => {
    await choose(page);
    await page.fill("#guidance_scale", "1.5");
    await page.fill("#seed", "7");
    await page.waitForFunction(() => document.getElementById("code").textContent.includes("voice.wav"));
  };
  const shown = async (page, languages) => {
    const samples = [];
    for (const language of languages) {
      await page.click(`#tab-${language}`);
      samples.push([language, await page.textContent("#code")]);
    }
    return samples;
  };

  const page = await open(quick.url);
  await ready(page);
  const apis = await page.locator("#api option").evaluateAll((options) => options.map(({ value }) => value));
  assert.equal(apis.length, 6);
  const all = {};
  for (const api of apis) {
    await page.selectOption("#api", api);
    // The other APIs have no command-line sample.
    const own = /^(fal|wavespeed-lipsync|jogg)$/.test(api);
    all[api] = await shown(page, Object.keys(commands).slice(0, own ? 4 : 3));
  }
  const locked = await open(guarded.url);
  await locked.fill("#key", KEY);
  await locked.press("#key", "Tab");
  await ready(locked);
  all["fal with a key"] = await shown(locked, ["curl", "python", "javascript"]);
  await Promise.all(Object.entries(all).map(([name, samples]) => runAll(name, samples)));

  // The same seed gives the same file with every client.
  assert.equal(Object.keys(results).length, 7);
  for (const [name, bytes] of Object.entries(results)) assert.ok(bytes.equals(results["fal curl"]), name);
  // The history also lists jobs that other programs sent.
  await page.reload();
  await page.waitForFunction((count) => document.querySelectorAll("#history .completed").length === count, 18);
  page.assertClean();
  locked.assertClean();
});
