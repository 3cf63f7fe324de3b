/** Outputs of a job as pictures, videos, audio, 3D models, text, or something to download. */

import { authorization, BASE, hasKey, linkTo, request } from "./api.js";
import { copyButton, h, newId, prose, sizeText } from "./dom.js";
import { labelOf } from "./fields.js";
import { meshView } from "./mesh_view.js";

/** What a browser shows as a picture; others are downloads. */
const SHOWN = new Set(["png", "jpeg", "webp", "gif", "avif", "apng", "bmp", "svg+xml"]);
const NAMES = {
  "model/gltf-binary": "3D model, binary glTF",
  "model/gltf+json": "3D model, glTF",
  "model/obj": "3D model, OBJ",
  "model/stl": "3D model, STL",
};

/** 3D models whose type is that of any file. */
const MODELS = /\.(ply|fbx|usdz|splat|spz|ksplat)$/i;

/** Whether a value is a file that a job made. */
export function isFile(value) {
  return (
    typeof value === "object" &&
    value !== null &&
    typeof value.sha256 === "string" &&
    "url" in value
  );
}

/** One output: a file, a list of files, a text or JSON. */
export function outputView(job, name, value, description) {
  const values = Array.isArray(value) ? value : [value];
  const areFiles = values.length > 0 && values.every(isFile);
  const title = newId("output");
  const body = areFiles
    ? h(
        "div",
        { class: values.length > 1 ? "files-view many" : "files-view" },
        values.map((file, index) => {
          const which = values.length > 1 ? ` ${index + 1} of ${values.length}` : "";
          return fileView(job, file, `${labelOf(name)}${which}`);
        }),
      )
    : textView(value, name);
  return h(
    "section",
    { class: "output", "aria-labelledby": title },
    h("h3", { id: title }, labelOf(name)),
    description ? h("p", { class: "hint" }, prose(description)) : null,
    body,
  );
}

/** The first picture among the outputs of a job, if there is one. */
export function firstPicture(job) {
  const files = Object.values(job.outputs ?? {})
    .flat()
    .filter(isFile);
  return files.find(isPicture);
}

/** A picture of a job, loaded when it comes into sight. */
export function pictureOf(job, file, alt) {
  const image = h("img", { alt, loading: "lazy" });
  const path = new URL(`outputs/${job}/${encodeURIComponent(file.name)}`, BASE);
  if (!isOwn(file)) image.src = file.url;
  else if (hasKey()) whenSeen(image, async () => (image.src = await privateUrl(path)));
  else image.src = path.href;
  return image;
}

function textView(value, name) {
  const texts = (Array.isArray(value) ? value : [value]).map((one) =>
    typeof one === "string" ? one : JSON.stringify(one, null, 2),
  );
  return h(
    "div",
    { class: "stack" },
    texts.map((text) => {
      const area = h("pre", { tabindex: "0", role: "group", "aria-label": labelOf(name) }, text);
      return h(
        "div",
        { class: "text-view" },
        area,
        copyButton(() => text, labelOf(name)),
      );
    }),
  );
}

function fileView(job, file, alt) {
  const type = file.content_type.split(";")[0].trim();
  const about = [NAMES[type] ?? type, sizeText(file.size)].join(", ");
  const caption = h(
    "figcaption",
    {},
    h("span", { class: "file-name" }, file.name, " ", h("span", { class: "hint" }, about)),
    downloadLink(job, file),
  );
  return h("figure", {}, mediaView(job, file, type, alt), caption);
}

function mediaView(job, file, type, alt) {
  if (isPicture(file)) {
    const image = pictureOf(job, file, alt);
    const button = h(
      "button",
      { type: "button", class: "picture", onclick: () => enlarge(image) },
      image,
    );
    image.addEventListener("error", () => button.replaceWith(unshown()));
    return button;
  }
  if (type.startsWith("model/") || MODELS.test(file.name)) return modelView(job, file, type, alt);
  const tag = type.startsWith("video/") ? "video" : type.startsWith("audio/") ? "audio" : undefined;
  if (tag === undefined) return unshown();
  const media = h(tag, {
    controls: true,
    loop: tag === "video",
    playsinline: true,
    "aria-label": alt,
  });
  media.addEventListener("error", () => media.replaceWith(unshown()));
  const address = isOwn(file) ? linkTo(job, file.name) : Promise.resolve(file.url);
  address.then(
    (url) => (media.src = url),
    () => media.replaceWith(unshown()),
  );
  return media;
}

function modelView(job, file, type, alt) {
  if (type !== "model/gltf-binary") return unshown("of 3D models, only GLB files are");
  // its address is not one that scripts of this page may read
  if (!isOwn(file)) return unshown("3D models in a bucket are not");
  const path = `outputs/${job}/${encodeURIComponent(file.name)}`;
  const load = async (signal) =>
    (await request(path, { signal, cache: "default" })).arrayBuffer();
  const view = meshView(file.size, load, alt, (why) => view.replaceWith(unshown(why)));
  return view;
}

function unshown(why) {
  const reason = why ? `: ${why}` : "";
  return h("p", { class: "unshown" }, `This cannot be shown here${reason}. Download it instead.`);
}

function isPicture(file) {
  const [kind, type] = file.content_type.split(";")[0].trim().split("/");
  return kind === "image" && SHOWN.has(type);
}

function isOwn(file) {
  return !/^https?:/.test(file.url) || file.url.startsWith(BASE.href);
}

function downloadLink(job, file) {
  if (!isOwn(file))
    return h("a", { class: "button", href: file.url, download: file.name }, "Download");
  const href = new URL(`outputs/${job}/${encodeURIComponent(file.name)}`, BASE).href;
  const link = h("a", { class: "button", href, download: file.name }, "Download");
  link.setAttribute("aria-label", `Download ${file.name}`);
  link.addEventListener("click", async (event) => {
    if (!hasKey()) return;
    event.preventDefault();
    const signed = h("a", { href: await linkTo(job, file.name), download: file.name });
    document.body.append(signed);
    signed.click();
    signed.remove();
  });
  return link;
}

function enlarge(image) {
  const dialog = h(
    "dialog",
    {
      class: "lightbox",
      "aria-label": image.alt,
      onclose: () => dialog.remove(),
      onclick: () => dialog.close(),
    },
    h("img", { src: image.src, alt: image.alt }),
    h("button", { type: "button" }, "Close"),
  );
  document.body.append(dialog);
  dialog.showModal();
}

/** Images cannot send a key. */
async function privateUrl(path) {
  const response = await fetch(path, { headers: authorization() });
  if (!response.ok) return "data:,";
  return URL.createObjectURL(await response.blob());
}

function whenSeen(element, action) {
  const load = ([entry]) => {
    if (!entry.isIntersecting) return;
    observer.disconnect();
    action().catch(() => (element.src = "data:,"));
  };
  const observer = new IntersectionObserver(load, { rootMargin: "1000px" });
  observer.observe(element);
}
