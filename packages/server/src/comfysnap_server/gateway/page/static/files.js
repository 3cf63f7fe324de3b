/** Input files: chosen, dropped, pasted or photographed; uploaded by their hash. */

import { ApiError, authorization, BASE, request, Unreachable } from "./api.js";
import { h, newId, sizeText } from "./dom.js";
import { sha256 } from "./sha256.js";

const ACCEPTED = { image: "image/*", mask: "image/*", video: "video/*", audio: "audio/*" };
const WORDS = { image: "an image", mask: "a mask image", video: "a video", audio: "an audio file" };

/** Files of this tab by hash, so that an earlier job can be run again with its files. */
const local = new Map();

/** The names of the files of this tab, by hash. */
export function localNames() {
  return new Map([...local].map(([hash, file]) => [hash, file.name]));
}

/** Upload the files of these inputs that the server lacks. */
export async function upload(fields, inputs, onProgress) {
  for (const field of fields) {
    if (field.type !== "file" || inputs[field.name] === undefined) continue;
    for (const value of field.list ? inputs[field.name] : [inputs[field.name]]) {
      const file = local.get(value.sha256);
      if (file !== undefined && !(await isThere(value.sha256))) {
        await put(value.sha256, file, (done) => onProgress(file, done));
      }
    }
  }
}

async function isThere(hash) {
  try {
    await request(`files/${hash}`, { method: "HEAD" });
    return true;
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return false;
    throw error;
  }
}

/** By XMLHttpRequest, as fetch does not say how much is sent. */
function put(hash, file, onProgress) {
  return new Promise((resolve, reject) => {
    const sending = new XMLHttpRequest();
    sending.open("PUT", new URL(`files/${hash}`, BASE));
    for (const [name, value] of Object.entries(authorization()))
      sending.setRequestHeader(name, value);
    sending.setRequestHeader("Content-Type", "application/octet-stream");
    sending.upload.onprogress = ({ loaded, total }) => onProgress(total > 0 ? loaded / total : 0);
    sending.onerror = () => reject(new Unreachable());
    sending.onload = () => {
      if (sending.status < 300) resolve();
      else reject(new ApiError(sending.status, problemIn(sending.responseText)));
    };
    sending.send(file);
  });
}

function problemIn(text) {
  try {
    return JSON.parse(text) ?? {};
  } catch {
    return {};
  }
}

/** A control for one file, or for a list of them. */
export class FileControl {
  #field;
  #states = [];
  #onChange;
  #input;
  #items = h("ul", { class: "files" });
  #drop;
  #busy = h("p", { class: "hint", role: "status" });

  constructor(field, { id, describedBy, onChange }) {
    this.#field = field;
    this.#onChange = onChange;
    const accept = ACCEPTED[field.kind];
    this.#input = h("input", {
      type: "file",
      id,
      accept,
      multiple: field.list,
      class: "visually-hidden",
      "aria-describedby": describedBy,
      onchange: () => this.#chosen(),
    });
    const what = WORDS[field.kind] ?? "a file";
    this.#drop = h(
      "div",
      {
        class: "drop",
        ondragover: (event) => {
          event.preventDefault();
          this.#drop.classList.add("over");
        },
        ondragleave: () => this.#drop.classList.remove("over"),
        ondrop: (event) => {
          event.preventDefault();
          event.stopPropagation();
          this.#drop.classList.remove("over");
          this.take(event.dataTransfer.files);
        },
      },
      this.#input,
      h("label", { for: id, class: "button" }, `Choose ${what}`),
      accept === "image/*" ? this.#cameraButton(what) : null,
      h("button", { type: "button", class: "quiet", onclick: () => this.#askUrl() }, "From a URL"),
      h("span", { class: "hint" }, "or drop or paste it here"),
    );
    this.element = h("div", { class: "file-control" }, this.#items, this.#drop, this.#busy);
    this.#show();
  }

  get state() {
    return this.#field.list ? [...this.#states] : (this.#states[0] ?? null);
  }

  set state(state) {
    this.#states = this.#field.list ? [...state] : state === null ? [] : [state];
    this.#show();
  }

  get input() {
    return this.#input;
  }

  /** Whether a file of this type may be meant for it. */
  accepts(file) {
    const accept = ACCEPTED[this.#field.kind];
    return accept === undefined || file.type.startsWith(accept.slice(0, -1));
  }

  get isFull() {
    return this.#states.length >= (this.#field.list ? this.#field.maxItems : 1);
  }

  /** Take files, as many as there is room for; one that is alone replaces the one before. */
  async take(files) {
    const given = [...files].slice(0, this.#field.list ? files.length : 1);
    for (const file of given) {
      this.#busy.textContent = `Reading ${file.name}`;
      try {
        const hash = await sha256(file);
        local.set(hash, file);
        this.#add({ sha256: hash });
      } catch {
        this.#busy.textContent = `${file.name} cannot be read.`;
        return;
      }
    }
    this.#busy.textContent = "";
  }

  #chosen() {
    const files = [...this.#input.files];
    this.#input.value = ""; // the same file can be chosen again
    this.take(files);
  }

  #add(state) {
    if (!this.#field.list) this.#states = [state];
    else if (!this.isFull) this.#states.push(state);
    this.#show();
    this.#onChange();
  }

  #remove(index) {
    this.#states.splice(index, 1);
    this.#show();
    this.#onChange();
    this.#input.focus();
  }

  #show() {
    for (const element of this.#items.querySelectorAll("[src^='blob:']"))
      URL.revokeObjectURL(element.src);
    this.#items.replaceChildren(
      ...this.#states.map((state, index) => {
        const file = local.get(state.sha256);
        const name = file?.name ?? state.url ?? "A file from an earlier job";
        const about = file ? sizeText(file.size) : (state.sha256?.slice(0, 12) ?? "");
        const remove = () => this.#remove(index);
        return h(
          "li",
          {},
          file ? viewOf(file) : null,
          h("span", { class: "file-name" }, name, " ", h("span", { class: "hint" }, about)),
          h(
            "button",
            { type: "button", class: "quiet", "aria-label": `Remove ${name}`, onclick: remove },
            "Remove",
          ),
        );
      }),
    );
    this.#items.hidden = this.#states.length === 0;
    this.#drop.hidden = this.#field.list && this.isFull;
  }

  #askUrl() {
    const id = newId("url");
    const input = h("input", { id, type: "url", placeholder: "https://", required: true });
    const dialog = h(
      "dialog",
      { "aria-labelledby": `${id}-title`, onclose: () => dialog.remove() },
      h(
        "form",
        {
          method: "dialog",
          onsubmit: (event) => {
            event.preventDefault();
            dialog.close();
            this.#add({ url: input.value.trim() });
          },
        },
        h("h2", { id: `${id}-title` }, "A file from a URL"),
        h("label", { for: id }, "URL"),
        input,
        h("p", { class: "hint" }, "The server downloads it; it must be public."),
        h(
          "p",
          { class: "actions" },
          h("button", { type: "button", onclick: () => dialog.close() }, "Close"),
          h("button", { class: "primary" }, "Use it"),
        ),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
  }

  /** A live picture where the browser has a camera for pages, else the phone's own camera. */
  #cameraButton(what) {
    if (navigator.mediaDevices?.getUserMedia) {
      const take = () =>
        photograph(
          (file) => this.take([file]),
          (text) => (this.#busy.textContent = text),
        );
      return h("button", { type: "button", class: "quiet", onclick: take }, "Camera");
    }
    if (!matchMedia("(pointer: coarse)").matches) return null;
    const id = newId("camera");
    const input = h("input", {
      type: "file",
      id,
      accept: "image/*",
      capture: "environment",
      class: "visually-hidden",
      "aria-label": `Photograph ${what}`,
      onchange: () => this.take(input.files),
    });
    return h("span", {}, input, h("label", { for: id, class: "button quiet" }, "Camera"));
  }
}

function viewOf(file) {
  const src = URL.createObjectURL(file);
  if (file.type.startsWith("image/")) return h("img", { src, alt: "" });
  if (file.type.startsWith("video/")) return h("video", { src, muted: true, controls: true });
  if (file.type.startsWith("audio/")) return h("audio", { src, controls: true });
  return null;
}

async function photograph(onFile, onProblem) {
  onProblem("");
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    onProblem("The camera cannot be used.");
    return;
  }
  const video = h("video", { autoplay: true, playsinline: true });
  video.muted = true;
  video.srcObject = stream;
  const title = newId("camera");
  const dialog = h(
    "dialog",
    {
      class: "camera",
      "aria-labelledby": title,
      onclose: () => {
        for (const track of stream.getTracks()) track.stop();
        dialog.remove();
      },
    },
    h("h2", { id: title }, "Camera"),
    video,
    h(
      "p",
      { class: "actions" },
      h("button", { type: "button", onclick: () => dialog.close() }, "Close"),
      h("button", { type: "button", class: "primary", onclick: shoot }, "Take the picture"),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();

  function shoot() {
    if (video.videoWidth === 0) return;
    const canvas = h("canvas", { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((blob) => {
      dialog.close();
      onFile(new File([blob], "camera.png", { type: "image/png" }));
    }, "image/png");
  }
}
