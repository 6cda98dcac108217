// The page: the form and what holds its parts together.

import { APIS, apiNamed, at, complaints, valuesOf } from "./apis.js";
import { $, el, pause } from "./dom.js";
import { History } from "./history.js";
import { JobView } from "./job.js";
import { Medium, acceptDrops } from "./media.js";
import { sample } from "./samples.js";
import { Failed, get, here, key, post, readiness } from "./server.js";

const FORM = "latentsync.form";
const LOOK_EVERY = 10_000;
const FIELDS = ["key", "video", "audio", "mode", "guidance_scale", "seed"];

// What the server says of itself: its model, steps, limits.
let settings = null;
let language = "curl";

const medium = (kind) =>
  new Medium(kind, {
    changed: () => {
      complain(kind, "");
      update();
    },
    failed: (error) => (error ? fail(error, kind) : complain(kind, "")),
    limit: () => settings?.max_upload ?? Infinity,
  });
const video = medium("video");
const audio = medium("audio");
const history = new History();
const view = new JobView({
  ended: (job) => {
    const field = job.error?.field;
    const { [field]: url } = valuesOf(apiNamed(job.api), job.body);
    if (field && values()[field] === url) complain(field, job.error.message);
    history.refresh().catch(() => {});
  },
  moved: (job) => history.update(job),
  again: (job) => {
    fill(apiNamed(job.api).name, valuesOf(apiNamed(job.api), job.body));
    $("input-title").scrollIntoView();
    $("run").focus({ preventScroll: true });
  },
});

const api = () => apiNamed($("api").value);

// The form's values. A seed that is no number goes as it is: the server says what is wrong with it.
function values() {
  const seed = $("seed").value.trim();
  const guidance = $("guidance_scale").value;
  return {
    video: video.url,
    audio: audio.url,
    mode: api().mode && $("mode").value,
    guidance_scale: guidance === "" ? undefined : Number(guidance),
    seed: seed === "" ? undefined : Number.isSafeInteger(Number(seed)) ? Number(seed) : seed,
  };
}

// Makes the form show an API's parameters.
function chooseApi(name, mode) {
  $("api").value = name;
  const { mode: modes, guided } = api();
  $("guidance_scale-field").hidden = $("seed-field").hidden = !guided;
  $("mode-field").hidden = !modes;
  if (modes) {
    $("mode-name").textContent = modes.field;
    $("mode").replaceChildren(...Object.keys(modes.texts).map((value) => el("option", { value }, value)));
    $("mode").value = modes.texts[mode] ? mode : modes.usual;
  }
  for (const field of ["mode", "guidance_scale", "seed"]) complain(field, "");
}

function fill(name, wanted) {
  chooseApi(name, wanted.mode);
  $("guidance_scale").value = wanted.guidance_scale ?? 1;
  $("seed").value = wanted.seed ?? "";
  video.url = wanted.video;
  audio.url = wanted.audio;
  update();
}

// Everything that follows from the form's values.
function update() {
  const now = values();
  const modes = api().mode;
  $("mode-hint").textContent = modes ? modes.texts[now.mode] : "";
  const guidance = Number($("guidance_scale").value);
  if (guidance) $("guidance-slider").value = guidance;
  sessionStorage.setItem(FORM, JSON.stringify({ api: api().name, values: now }));
  const server = here("").replace(/\/$/, "");
  const job = { api: api(), values: now, server, key: Boolean(key.get()), settings };
  $("code").textContent = sample(language, job);
}

// Puts a complaint next to its field, or takes it away.
function complain(field, text) {
  const place = $(`${field}-error`);
  place.textContent = text;
  if (text) $(field).setAttribute("aria-invalid", "true");
  else $(field).removeAttribute("aria-invalid");
}

// Says what went wrong where it belongs, and goes there.
function fail(error, field) {
  if (!(error instanceof Failed)) return complain(field, error.message);
  if (error.status === 401) {
    $("key-field").hidden = false;
    complain("key", key.get() ? error.message : "This server asks for an API key.");
    $("key").focus();
  } else if (field) {
    complain(field, error.message);
  } else {
    refuse(complaints(error.status, error.answer), error.message);
  }
}

function refuse(list, otherwise) {
  const known = (name) => FIELDS.includes(name) && !$(`${name}-field`).hidden;
  const placed = list.filter(({ field }) => known(field));
  placed.forEach(({ field, text }) => complain(field, text));
  const rest = list.filter(({ field }) => !known(field)).map(({ text }) => text);
  $("form-error").textContent = rest.join(" ") || (placed.length ? "" : otherwise);
  const first = FIELDS.find((name) => placed.some(({ field }) => field === name));
  if (first) $(first).focus();
}

async function run() {
  const button = $("run");
  // Not `disabled`, which would take the focus away.
  if (button.ariaBusy === "true") return;
  button.ariaBusy = "true";
  for (const field of FIELDS) complain(field, "");
  $("form-error").textContent = "";
  try {
    await Promise.all([video.ready, audio.ready]);
    if (!video.url || !audio.url) {
      if (!audio.url) complain("audio", "Choose a voice, or give its URL.");
      if (!video.url) complain("video", "Choose a video, or give its URL.");
      $(video.url ? "audio" : "video").focus();
      return;
    }
    const { submit, id, body } = api();
    const answer = await post(submit, body(values()));
    const refused = complaints(200, answer);
    if (refused.length) return refuse(refused);
    location.hash = at(answer, id);
    $("job").scrollIntoView({ block: "nearest" });
    $("job-title").focus({ preventScroll: true });
  } catch (error) {
    fail(error);
  } finally {
    button.ariaBusy = "false";
    look();
  }
}

// Shows the job that the address names.
function showNamed() {
  const id = location.hash.slice(1);
  history.mark(id);
  if (/^[0-9a-f-]{36}$/.test(id) && id !== view.id) view.show(id);
}

// What the server asks no key for: is it there, is it ready.
async function look() {
  const now = await readiness();
  const waiting = now?.queued ? `, ${now.queued} waiting` : "";
  const text = now ? `${now.status}${waiting}` : "not answering";
  if ($("server").textContent !== text) $("server").textContent = text;
  $("server").className = now ? (now.status === "ready" ? "ready" : "busy") : "gone";
  if (now && !settings) await greet();
}

// What the server tells those with a key.
async function greet() {
  try {
    settings = await get("local/server");
    $("key-field").hidden = !key.get();
    complain("key", "");
    await history.refresh();
    update();
    showNamed();
  } catch (error) {
    if (error.status === 401) fail(error);
  }
}

function chooseLanguage(name) {
  language = name;
  for (const tab of $("tabs").children) {
    const chosen = tab.dataset.language === name;
    tab.ariaSelected = String(chosen);
    tab.tabIndex = chosen ? 0 : -1;
    if (chosen) $("code").setAttribute("aria-labelledby", tab.id);
  }
  update();
}

async function copy() {
  let copied = true;
  try {
    await navigator.clipboard.writeText($("code").textContent);
  } catch {
    // Browsers lend the clipboard to secure pages only; to others the old way is open.
    getSelection().selectAllChildren($("code"));
    copied = document.execCommand("copy");
  }
  $("copied").textContent = copied ? "Copied." : "This browser does not copy; the text is selected.";
  await pause(3000);
  $("copied").textContent = "";
}

function listen() {
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    run();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run();
  });
  $("api").addEventListener("change", () => {
    chooseApi($("api").value, $("mode").value);
    update();
  });
  $("guidance-slider").addEventListener("input", () => ($("guidance_scale").value = $("guidance-slider").value));
  $("form").addEventListener("input", update);
  for (const field of ["mode", "guidance_scale", "seed"]) {
    $(`${field}-field`).addEventListener("input", () => complain(field, ""));
  }
  $("key").addEventListener("change", () => {
    key.set($("key").value.trim());
    settings = null;
    look();
  });
  $("tabs").addEventListener("click", (event) => chooseLanguage(event.target.dataset.language ?? language));
  $("tabs").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const tabs = [...$("tabs").children];
    const next = tabs[(tabs.indexOf(event.target) + step + tabs.length) % tabs.length];
    next.focus();
    chooseLanguage(next.dataset.language);
  });
  $("copy").addEventListener("click", copy);
  addEventListener("hashchange", showNamed);
  acceptDrops(video, audio);
}

$("api").append(...APIS.map(({ name, label }) => el("option", { value: name }, label)));
$("key").value = key.get();
const left = JSON.parse(sessionStorage.getItem(FORM) ?? "null");
fill(left?.api ?? APIS[0].name, left?.values ?? {});
listen();
chooseLanguage(language);
look();
setInterval(() => document.hidden || look(), LOOK_EVERY);
