// The program under test: on a free port, with the small golden model and its own data directory.
// scripts/test_clients sets the paths in the environment.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

/** Limit of the start on a busy machine. */
const START_MILLISECONDS = 120_000;

function variable(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: run scripts/test_clients`);
  return value;
}

/** The directory with `clip.mp4` (8 frames), and voices of 10 (`voice.wav`), 5 (`word.wav`) and 1200 frames (`long.wav`). */
export const clips = variable("LATENTSYNC_CLIPS");

/** Starts the program with these flags. `await server.stop()` stops it and removes its data. */
export async function startServer(...flags) {
  const data = await mkdtemp(join(tmpdir(), "latentsync-clients-"));
  const settings = [
    "serve", "--port", "0", "--device", "cpu",
    "--model", join(variable("LATENTSYNC_SHARED"), "golden/small"), "--data-dir", data,
  ];
  // Without settings from the environment of the user.
  const env = Object.entries(process.env).filter(([name]) => !/^(LATENTSYNC_|RUST_LOG$)/.test(name));
  const child = spawn(variable("LATENTSYNC_BIN"), [...settings, ...flags], {
    stdio: ["ignore", "ignore", "pipe"],
    // A flag overrides it.
    env: { ...Object.fromEntries(env), LATENTSYNC_STEPS: "1" },
  });
  const log = [];
  const server = { url: "", log, child, stop: () => stop(child, data) };
  const ended = once(child, "exit").then(([code]) => {
    throw new Error(`the program ended with ${code}:\n${log.join("\n")}`);
  });
  // Unused after the server is ready.
  ended.catch(() => {});
  createInterface({ input: child.stderr }).on("line", (line) => {
    log.push(line);
    server.url ||= /listening on (https?:\/\/\S+)/.exec(line)?.[1] ?? "";
  });
  try {
    await Promise.race([ready(server), ended]);
  } catch (error) {
    await server.stop();
    throw error;
  }
  return server;
}

async function ready(server) {
  const until = Date.now() + START_MILLISECONDS;
  while (Date.now() < until) {
    const answer = server.url && (await fetch(`${server.url}/readyz`).catch(() => null));
    if (answer?.ok) return;
    await sleep(100);
  }
  throw new Error(`the server is not ready:\n${server.log.join("\n")}`);
}

async function stop(child, data) {
  if (child.exitCode === null && child.signalCode === null) {
    const gone = once(child, "exit");
    child.kill("SIGTERM");
    const timer = setTimeout(() => child.kill("SIGKILL"), 20_000);
    await gone;
    clearTimeout(timer);
  }
  await rm(data, { recursive: true, force: true });
}
