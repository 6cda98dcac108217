// The video and the voice: a chosen or dropped file, or a URL. A file is uploaded at once, so that the form and the code
// samples have the URL that is sent to the server.

import { $, bytes, el, nameOf, ownFile } from "./dom.js";
import { upload } from "./server.js";

const MISMATCHES = { video: "neither a video nor a picture", audio: "neither sound nor a video with sound" };
const FAMILIES = { video: ["video/", "image/"], audio: ["audio/", "video/"] };
// Types that browsers do not know.
const TYPES = { mkv: "video/x-matroska", mka: "audio/x-matroska", ts: "video/mp2t", mxf: "application/mxf" };

const typeOf = (file) => file.type || TYPES[file.name.split(".").pop().toLowerCase()] || "application/octet-stream";

// One of the two fields. `changed` is called when its URL changes, `failed` with an error or null; `limit` returns the
// server's upload limit in bytes.
export class Medium {
  constructor(kind, { changed, failed, limit }) {
    Object.assign(this, { kind, changed, failed, limit });
    this.input = $(kind);
    this.file = $(`${kind}-file`);
    this.preview = $(`${kind}-preview`);
    // Resolves when no upload is running.
    this.ready = Promise.resolve();
    this.file.addEventListener("change", () => {
      if (this.file.files[0]) this.take(this.file.files[0]);
    });
    this.input.addEventListener("input", () => {
      this.stop();
      this.changed();
    });
    this.input.addEventListener("change", () => this.show());
  }

  get url() {
    return this.input.value.trim();
  }

  set url(url) {
    this.stop();
    this.input.value = url ?? "";
    this.show();
    this.changed();
  }

  // Whether the type of a file fits this field.
  suits(file) {
    return !file.type || FAMILIES[this.kind].some((family) => file.type.startsWith(family));
  }

  take(file) {
    this.url = "";
    this.failed(null);
    if (!this.suits(file)) return this.refuse(`${file.name} is ${MISMATCHES[this.kind]} (${file.type})`);
    if (file.size > this.limit()) {
      return this.refuse(`${file.name} has ${bytes(file.size)}; the server takes ${bytes(this.limit())} at most`);
    }
    this.ready = this.send(file);
  }

  refuse(text) {
    this.file.value = "";
    this.failed(new Error(text));
  }

  async send(file) {
    const sending = new AbortController();
    this.uploading = sending;
    const bar = el("progress", { max: 1, value: 0, "aria-label": `Uploading ${file.name}` });
    const stop = el("button", { type: "button", textContent: "Stop" });
    stop.addEventListener("click", () => (this.url = ""));
    this.preview.replaceChildren(el("p", {}, `Uploading ${file.name} (${bytes(file.size)})`), bar, stop);
    this.preview.hidden = false;
    try {
      const url = await upload(file, typeOf(file), (part) => (bar.value = part), sending.signal);
      if (this.uploading === sending) this.url = url;
    } catch (error) {
      if (this.uploading !== sending) return;
      this.url = "";
      this.failed(error);
    }
  }

  stop() {
    this.uploading?.abort();
    this.uploading = null;
    this.file.value = "";
  }

  // Shows a preview of a file of this server. Nothing is loaded from other hosts.
  show() {
    const own = ownFile(this.url);
    this.preview.hidden = !own;
    if (!own) return this.preview.replaceChildren();
    const name = nameOf(own);
    const element = /\.(png|jpe?g|gif|webp)$/i.test(name)
      ? el("img", { src: own, alt: name })
      : el(this.kind, { src: own, controls: true, preload: "metadata", playsInline: true, "aria-label": name });
    const note = el("p", {}, name);
    element.addEventListener("error", () => {
      element.remove();
      note.textContent = `${name}: this browser cannot play it, but the server may be able to read it.`;
    });
    const remove = el("button", { type: "button", "aria-label": `Remove ${name}`, textContent: "Remove" });
    remove.addEventListener("click", () => {
      this.url = "";
      this.file.focus();
    });
    this.preview.replaceChildren(element, note, remove);
  }
}

// Accepts dropped files: on a field for that field, elsewhere by their type.
export function acceptDrops(video, audio) {
  const over = (event) => {
    if (![...event.dataTransfer.types].includes("Files")) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  };
  const out = () => document.body.classList.remove("dropping");
  document.addEventListener("dragenter", over);
  document.addEventListener("dragover", over);
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) out();
  });
  document.addEventListener("drop", (event) => {
    const files = [...event.dataTransfer.files];
    if (!files.length) return;
    event.preventDefault();
    out();
    const field = event.target.closest?.(".medium");
    if (files.length === 1 && field) return (field.id === "video-field" ? video : audio).take(files[0]);
    const voice = files.find((file) => file.type.startsWith("audio/")) ?? files[1];
    const picture = files.find((file) => file !== voice);
    if (picture) video.take(picture);
    if (voice) audio.take(voice);
  });
}
