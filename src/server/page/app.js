// The page: the form, and the connections between its parts.

import { APIS, apiNamed, at, errorsOf, valuesOf } from "./apis.js";
import { $, el, pause } from "./dom.js";
import { History } from "./history.js";
import { JobView } from "./job.js";
import { Medium, acceptDrops } from "./media.js";
import { sample } from "./samples.js";
import { Failed, get, here, key, post, readiness } from "./server.js";

const FORM = "latentsync.form";
const POLL_INTERVAL = 10_000;
const FIELDS = ["key", "video", "audio", "mode", "guidance_scale", "seed"];

// The server's settings: model, steps, limits.
let settings = null;
let language = "curl";

const medium = (kind) =>
  new Medium(kind, {
    changed: () => {
      showError(kind, "");
      update();
    },
    failed: (error) => (error ? fail(error, kind) : showError(kind, "")),
    limit: () => settings?.max_upload ?? Infinity,
  });
const video = medium("video");
const audio = medium("audio");
const history = new History();
const view = new JobView({
  ended: (job) => {
    const field = job.error?.field;
    const { [field]: url } = valuesOf(apiNamed(job.api), job.body);
    if (field && values()[field] === url) showError(field, job.error.message);
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

// The form's values. A seed that is not a number is sent as text, for the server to report.
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

// Selects an API and shows its parameters.
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
  for (const field of ["mode", "guidance_scale", "seed"]) showError(field, "");
}

function fill(name, wanted) {
  chooseApi(name, wanted.mode);
  $("guidance_scale").value = wanted.guidance_scale ?? 1;
  $("seed").value = wanted.seed ?? "";
  video.url = wanted.video;
  audio.url = wanted.audio;
  update();
}

// Updates everything that depends on the form's values.
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

// Shows an error next to its field; an empty text removes it.
function showError(field, text) {
  const element = $(`${field}-error`);
  element.textContent = text;
  if (text) $(field).setAttribute("aria-invalid", "true");
  else $(field).removeAttribute("aria-invalid");
}

// Shows an error at the field that it belongs to, and focuses the field.
function fail(error, field) {
  if (!(error instanceof Failed)) return showError(field, error.message);
  if (error.status === 401) {
    $("key-field").hidden = false;
    showError("key", key.get() ? error.message : "This server requires an API key.");
    $("key").focus();
  } else if (field) {
    showError(field, error.message);
  } else {
    refuse(errorsOf(error.status, error.answer), error.message);
  }
}

function refuse(list, otherwise) {
  const known = (name) => FIELDS.includes(name) && !$(`${name}-field`).hidden;
  const placed = list.filter(({ field }) => known(field));
  placed.forEach(({ field, text }) => showError(field, text));
  const rest = list.filter(({ field }) => !known(field)).map(({ text }) => text);
  $("form-error").textContent = rest.join(" ") || (placed.length ? "" : otherwise);
  const first = FIELDS.find((name) => placed.some(({ field }) => field === name));
  if (first) $(first).focus();
}

async function run() {
  const button = $("run");
  // `disabled` would remove the focus.
  if (button.ariaBusy === "true") return;
  button.ariaBusy = "true";
  for (const field of FIELDS) showError(field, "");
  $("form-error").textContent = "";
  try {
    await Promise.all([video.ready, audio.ready]);
    if (!video.url || !audio.url) {
      if (!audio.url) showError("audio", "Choose a voice, or give its URL.");
      if (!video.url) showError("video", "Choose a video, or give its URL.");
      $(video.url ? "audio" : "video").focus();
      return;
    }
    const { submit, id, body } = api();
    const answer = await post(submit, body(values()));
    const refused = errorsOf(200, answer);
    if (refused.length) return refuse(refused);
    location.hash = at(answer, id);
    $("job").scrollIntoView({ block: "nearest" });
    $("job-title").focus({ preventScroll: true });
  } catch (error) {
    fail(error);
  } finally {
    button.ariaBusy = "false";
    pollServer();
  }
}

// Shows the job in the URL's fragment.
function showLinkedJob() {
  const id = location.hash.slice(1);
  history.mark(id);
  if (/^[0-9a-f-]{36}$/.test(id) && id !== view.id) view.show(id);
}

// Polls the readiness of the server, which needs no key.
async function pollServer() {
  const now = await readiness();
  const waiting = now?.queued ? `, ${now.queued} waiting` : "";
  const text = now ? `${now.status}${waiting}` : "not answering";
  if ($("server").textContent !== text) $("server").textContent = text;
  $("server").className = now ? (now.status === "ready" ? "ready" : "busy") : "gone";
  if (now && !settings) await connect();
}

// Loads the settings and the jobs, which need the key.
async function connect() {
  try {
    settings = await get("local/server");
    $("key-field").hidden = !key.get();
    showError("key", "");
    await history.refresh();
    update();
    showLinkedJob();
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
    // The clipboard API exists on secure pages only; the old command works on others.
    getSelection().selectAllChildren($("code"));
    copied = document.execCommand("copy");
  }
  $("copied").textContent = copied ? "Copied." : "Copying failed. The text is selected.";
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
    $(`${field}-field`).addEventListener("input", () => showError(field, ""));
  }
  $("key").addEventListener("change", () => {
    key.set($("key").value.trim());
    settings = null;
    pollServer();
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
  addEventListener("hashchange", showLinkedJob);
  acceptDrops(video, audio);
}

$("api").append(...APIS.map(({ name, label }) => el("option", { value: name }, label)));
$("key").value = key.get();
const saved = JSON.parse(sessionStorage.getItem(FORM) ?? "null");
fill(saved?.api ?? APIS[0].name, saved?.values ?? {});
listen();
chooseLanguage(language);
pollServer();
setInterval(() => document.hidden || pollServer(), POLL_INTERVAL);
