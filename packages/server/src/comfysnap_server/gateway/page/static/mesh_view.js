/** A 3D model to turn and zoom: by pointer, touch, wheel and keyboard. */

import { h } from "./dom.js";
import { readGlb, Unshowable } from "./glb.js";
import { MeshDrawing } from "./mesh_draw.js";

const MAX_BYTES = 100_000_000;
/** Browsers take the contexts of older drawings away from the 17th on. */
const MAX_DRAWINGS = 8;
const START = { yaw: 0.6, pitch: 0.35, distance: 3.5 };
const MAX_PITCH = 1.55;
const [MIN_DISTANCE, MAX_DISTANCE] = [1, 20];
const TURN = 0.2; // radians of an arrow key
const ZOOM = 1.2;
/** What a key does: yaw, pitch, and the factor of the distance. */
const KEYS = new Map([
  ["ArrowLeft", [-TURN, 0, 1]],
  ["ArrowRight", [TURN, 0, 1]],
  ["ArrowUp", [0, TURN, 1]],
  ["ArrowDown", [0, -TURN, 1]],
  ["+", [0, 0, 1 / ZOOM]],
  ["=", [0, 0, 1 / ZOOM]],
  ["-", [0, 0, ZOOM]],
]);

let drawings = 0;

class MeshView extends HTMLElement {
  #size;
  #read;
  #name;
  #onFail;
  #stop;
  #drawing;
  #canvas;
  #camera = { ...START };
  #pointers = new Map();
  #frame = 0;

  /** `read(signal)` is the file, asked for in sight; `onFail(why)` is called instead of throwing. */
  constructor(size, read, name, onFail) {
    super();
    [this.#size, this.#read, this.#name, this.#onFail] = [size, read, name, onFail];
  }

  connectedCallback() {
    if (this.#stop !== undefined) return; // moved
    const stop = new AbortController();
    this.#stop = stop;
    this.replaceChildren(h("p", { class: "unshown" }, "Loading the 3D model"));
    const observer = new IntersectionObserver(
      ([entry]) => {
        if (!entry.isIntersecting) return;
        observer.disconnect();
        this.#show(stop.signal);
      },
      { rootMargin: "500px" },
    );
    observer.observe(this);
    stop.signal.addEventListener("abort", () => observer.disconnect());
  }

  disconnectedCallback() {
    // the results are put in order by taking all out for a moment
    queueMicrotask(() => this.isConnected || this.#release());
  }

  async #show(signal) {
    try {
      if (this.#size > MAX_BYTES) throw new Unshowable("it is too large");
      const buffer = await this.#read(signal);
      if (signal.aborted) return;
      if (drawings >= MAX_DRAWINGS)
        throw new Unshowable(`${MAX_DRAWINGS} other 3D models are shown on this page`);
      const scene = readGlb(buffer);
      this.#start(scene, signal);
      this.ariaBusy = "true";
      await this.#drawing.addImages(scene.images);
      this.#redraw();
      this.ariaBusy = null;
    } catch (error) {
      if (signal.aborted) return;
      this.#release();
      this.#onFail(error instanceof Unshowable ? error.message : "it could not be loaded");
    }
  }

  #start(scene, signal) {
    const canvas = h("canvas", {
      tabindex: "0",
      role: "application",
      "aria-roledescription": "3D model",
    });
    this.#drawing = new MeshDrawing(canvas, scene);
    drawings += 1;
    this.#canvas = canvas;
    const vertices = counted(scene.vertices, "vertex", "vertices");
    const count = `${vertices}, ${counted(scene.triangles, "triangle", "triangles")}`;
    canvas.setAttribute(
      "aria-label",
      `${this.#name}: ${count}. Arrow keys turn it, plus and minus zoom, Home resets.`,
    );
    const isTouched = matchMedia("(pointer: coarse)").matches;
    const zoom = isTouched ? "pinch to zoom" : "click, then scroll to zoom";
    this.replaceChildren(canvas, h("p", { class: "hint" }, `${count}. Drag to turn; ${zoom}.`));
    this.#listen(canvas, signal);
    const sizes = new ResizeObserver(() => this.#redraw());
    sizes.observe(canvas);
    signal.addEventListener("abort", () => sizes.disconnect());
  }

  #listen(canvas, signal) {
    const on = (type, listener) =>
      canvas.addEventListener(type, listener, { signal, passive: false });
    on("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.#pointers.set(event.pointerId, [event.clientX, event.clientY]);
    });
    on("pointermove", (event) => this.#drag(event));
    for (const type of ["pointerup", "pointercancel"])
      on(type, (event) => this.#pointers.delete(event.pointerId));
    on("wheel", (event) => {
      // a page that is scrolled past the model goes on scrolling; ctrlKey is a pinch
      if (document.activeElement !== canvas && !event.ctrlKey) return;
      event.preventDefault();
      const pixels = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
      this.#move(0, 0, Math.exp(event.deltaY * pixels * (event.ctrlKey ? 0.01 : 0.001)));
    });
    on("keydown", (event) => {
      const move = KEYS.get(event.key);
      const isReset = event.key === "Home";
      if ((!move && !isReset) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      if (isReset) this.#camera = { ...START };
      this.#move(...(move ?? [0, 0, 1]));
    });
    on("webglcontextlost", () => {
      this.#release();
      this.#onFail("the browser stopped drawing it");
    });
  }

  #drag({ pointerId, clientX, clientY }) {
    const last = this.#pointers.get(pointerId);
    if (last === undefined) return;
    const before = this.#spread();
    this.#pointers.set(pointerId, [clientX, clientY]);
    if (this.#pointers.size > 1) {
      this.#move(0, 0, before / this.#spread());
      return;
    }
    const turn = Math.PI / Math.max(this.#canvas.clientHeight, 1);
    this.#move((last[0] - clientX) * turn, (clientY - last[1]) * turn, 1);
  }

  /** How far two fingers are apart, in pixels. */
  #spread() {
    const [one, other = one] = this.#pointers.values();
    return Math.max(Math.hypot(one[0] - other[0], one[1] - other[1]), 1);
  }

  #move(yaw, pitch, factor) {
    const { yaw: oldYaw, pitch: oldPitch, distance } = this.#camera;
    this.#camera = {
      yaw: oldYaw + yaw,
      pitch: between(oldPitch + pitch, -MAX_PITCH, MAX_PITCH),
      distance: between(distance * factor, MIN_DISTANCE, MAX_DISTANCE),
    };
    this.#redraw();
  }

  #redraw() {
    if (this.#frame !== 0 || this.#drawing === undefined) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0;
      const canvas = this.#canvas;
      const ratio = Math.min(devicePixelRatio, 2);
      const width = Math.max(Math.round(canvas.clientWidth * ratio), 1);
      const height = Math.max(Math.round(canvas.clientHeight * ratio), 1);
      if (canvas.width !== width) canvas.width = width;
      if (canvas.height !== height) canvas.height = height;
      this.#drawing.draw(this.#camera);
    });
  }

  #release() {
    this.#stop?.abort();
    this.#stop = undefined;
    this.#pointers.clear();
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    if (this.#drawing === undefined) return;
    this.#drawing.release();
    this.#drawing = undefined;
    drawings -= 1;
  }
}

customElements.define("mesh-view", MeshView);

/** The element of a GLB file of a size in bytes; see its constructor. */
export function meshView(...properties) {
  return new MeshView(...properties);
}

function counted(count, one, many) {
  return `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
}

function between(value, low, high) {
  return Math.min(Math.max(value, low), high);
}
