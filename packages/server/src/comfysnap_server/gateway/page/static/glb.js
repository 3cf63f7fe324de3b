/** A binary glTF 2.0 file (GLB) as meshes to draw. Nothing that the file says is trusted. */

/** Why a file is not shown, as the end of a sentence. */
export class Unshowable extends Error {}

const MAGIC = 0x46546c67;
const JSON_CHUNK = 0x4e4f534a;
const BIN_CHUNK = 0x004e4942;
const MAX_JSON_BYTES = 16 * 1024 * 1024;
const MAX_VERTICES = 5_000_000;
const MAX_INDICES = 15_000_000;
/** Meshes times places where they are drawn. */
const MAX_ITEMS = 10_000;
const MAX_IMAGES = 32;

const TRIANGLES = 4;
const READABLE = new Set(["KHR_materials_unlit", "KHR_mesh_quantization", "EXT_texture_webp"]);
const UNREADABLE = new Map([
  ["KHR_draco_mesh_compression", "it is compressed with Draco"],
  ["EXT_meshopt_compression", "it is compressed with meshopt"],
  ["KHR_texture_basisu", "its textures are KTX2"],
]);
const IMAGES = new Set(["image/png", "image/jpeg", "image/webp"]);
const WRAPS = new Set([33071, 33648, 10497]);
const REPEAT = 10497;
const WIDTHS = new Map([
  ["SCALAR", 1],
  ["VEC2", 2],
  ["VEC3", 3],
  ["VEC4", 4],
]);
/** Size in bytes, how it is read, and what 1 is where integers stand for fractions. */
const COMPONENTS = new Map([
  [5120, [1, "getInt8", 127]],
  [5121, [1, "getUint8", 255]],
  [5122, [2, "getInt16", 32767]],
  [5123, [2, "getUint16", 65535]],
  [5125, [4, "getUint32", 4294967295]],
  [5126, [4, "getFloat32", 1]],
]);
const INDEX_TYPES = new Set([5121, 5123, 5125]);
const IDENTITY = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1];

/**
 * The scene of a file: `{ items: [{ primitive, matrix }], images: [{ type, bytes }], vertices,
 * triangles, min, max }`. Throws nothing but `Unshowable`.
 */
export function readGlb(buffer) {
  try {
    return new Reader(buffer).scene();
  } catch (error) {
    if (error instanceof Unshowable) throw error;
    throw new Unshowable("the file is damaged", { cause: error });
  }
}

/** The product of two matrices of 4 by 4, column by column. */
export function multiply(a, b) {
  const product = new Array(16);
  for (let column = 0; column < 4; column += 1)
    for (let row = 0; row < 4; row += 1) {
      let sum = 0;
      for (let k = 0; k < 4; k += 1) sum += a[k * 4 + row] * b[column * 4 + k];
      product[column * 4 + row] = sum;
    }
  return product;
}

class Reader {
  #json;
  #bin;
  #primitives = new Map();
  #images = new Map();
  #vertices = 0;
  #indices = 0;

  constructor(buffer) {
    const { json, bin } = chunks(buffer);
    this.#json = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(json));
    this.#bin = new DataView(bin.buffer, bin.byteOffset, bin.byteLength);
    for (const name of this.#json.extensionsRequired ?? []) {
      if (READABLE.has(name)) continue;
      throw new Unshowable(
        UNREADABLE.get(name) ?? `it needs the glTF extension ${String(name).slice(0, 60)}`,
      );
    }
  }

  scene() {
    const items = [];
    const total = { vertices: 0, triangles: 0, indices: 0 };
    const box = newBox();
    for (const { mesh, matrix } of this.#placed()) {
      for (const primitive of this.#mesh(mesh)) {
        const count = primitive.indices?.length ?? primitive.positions.length / 3;
        total.vertices += primitive.positions.length / 3;
        total.triangles += trianglesOf(primitive.mode, count);
        total.indices += count;
        items.push({ primitive, matrix });
        growBy(box, primitive.box, matrix);
        if (items.length > MAX_ITEMS || total.indices > MAX_INDICES) throw tooLarge();
      }
    }
    if (items.length === 0) throw new Unshowable("it has no meshes");
    const images = [...this.#images.values()];
    const { vertices, triangles } = total;
    return { items, images, vertices, triangles, ...box };
  }

  /** Each mesh of the scene with its place. */
  *#placed() {
    const { nodes = [], scenes, scene } = this.#json;
    const isChild = new Set(nodes.flatMap((node) => node.children ?? []));
    const roots = scenes
      ? (this.#entry("scenes", scene ?? 0).nodes ?? [])
      : [...nodes.keys()].filter((index) => !isChild.has(index));
    const left = roots.map((index) => ({ index, above: IDENTITY }));
    const seen = new Set();
    while (left.length > 0) {
      const { index, above } = left.pop();
      const node = this.#entry("nodes", index);
      if (seen.has(index)) throw damaged(); // a loop, or two parents
      seen.add(index);
      const matrix = multiply(above, ownMatrix(node));
      // joints place a mesh with a skin, which is shown at rest
      if (node.mesh !== undefined)
        yield { mesh: node.mesh, matrix: node.skin === undefined ? matrix : IDENTITY };
      for (const child of node.children ?? []) left.push({ index: child, above: matrix });
      if (left.length > nodes.length) throw damaged();
    }
  }

  #mesh(index) {
    const known = this.#primitives.get(index);
    if (known) return known;
    const read = this.#entry("meshes", index).primitives.map((one) => this.#primitive(one));
    this.#primitives.set(index, read);
    return read;
  }

  #primitive({ attributes, indices, mode = TRIANGLES, material }) {
    check(isWhole(mode) && mode <= 6);
    const positions = this.#floats(attributes.POSITION, [3]);
    const count = positions.length / 3;
    this.#vertices += count;
    const read = {
      mode,
      positions,
      box: boxOf(positions),
      normals: this.#optional(attributes.NORMAL, [3], count),
      colors: withAlpha(this.#optional(attributes.COLOR_0, [3, 4], count), count),
      indices: indices === undefined ? null : this.#indicesOf(indices, count),
      material: this.#material(material),
      uvs: null,
    };
    const { texture } = read.material;
    if (texture) read.uvs = this.#optional(attributes[`TEXCOORD_${texture.set}`], [2], count);
    if (this.#vertices > MAX_VERTICES || this.#indices > MAX_INDICES) throw tooLarge();
    return read;
  }

  #optional(accessor, widths, count) {
    if (accessor === undefined) return null;
    const read = this.#floats(accessor, widths);
    check(widths.some((width) => read.length === width * count));
    return read;
  }

  #floats(index, widths) {
    const { count, width, stride, offset, size, method, one } = this.#accessor(index, widths);
    const read = new Float32Array(count * width);
    for (let at = 0; at < count; at += 1)
      for (let part = 0; part < width; part += 1) {
        const value = this.#bin[method](offset + at * stride + part * size, true) / one;
        read[at * width + part] = one === 1 ? value : Math.max(value, -1);
      }
    return read;
  }

  #indicesOf(index, vertices) {
    check(INDEX_TYPES.has(this.#entry("accessors", index).componentType));
    const { count, stride, offset, method } = this.#accessor(index, [1]);
    this.#indices += count;
    const read = new Uint32Array(count);
    for (let at = 0; at < count; at += 1) {
      const vertex = this.#bin[method](offset + at * stride, true);
      check(vertex < vertices);
      read[at] = vertex;
    }
    return read;
  }

  /** Where the numbers of an accessor are; all of them lie in the file. */
  #accessor(index, widths) {
    const accessor = this.#entry("accessors", index);
    if (accessor.sparse !== undefined) throw new Unshowable("it has sparse accessors");
    const width = WIDTHS.get(accessor.type);
    const [bytes, method, one] = COMPONENTS.get(accessor.componentType);
    check(widths.includes(width));
    const view = this.#view(accessor.bufferView);
    const { byteOffset = 0, count } = accessor;
    const size = bytes * width;
    const stride = view.stride || size;
    check(isWhole(byteOffset) && isWhole(count) && count > 0 && stride >= size);
    check(byteOffset + (count - 1) * stride + size <= view.length);
    if (count > MAX_INDICES || (count > MAX_VERTICES && width > 1)) throw tooLarge();
    return {
      count,
      width,
      stride,
      offset: view.offset + byteOffset,
      size: bytes,
      method,
      one: accessor.normalized === true ? one : 1,
    };
  }

  #view(index) {
    const view = this.#entry("bufferViews", index);
    const { buffer, byteOffset: offset = 0, byteLength: length, byteStride: stride = 0 } = view;
    if (buffer !== 0 || this.#entry("buffers", 0).uri !== undefined)
      throw new Unshowable("a part of it is in another file");
    check(isWhole(offset) && isWhole(length) && isWhole(stride));
    check(offset + length <= this.#bin.byteLength);
    return { offset, length, stride };
  }

  #material(index) {
    const material = index === undefined ? {} : this.#entry("materials", index);
    const surface = material.pbrMetallicRoughness ?? {};
    const { baseColorFactor: color = [1, 1, 1, 1], baseColorTexture } = surface;
    check(isNumbers(color, 4));
    return {
      color: [...color],
      texture: baseColorTexture === undefined ? null : this.#texture(baseColorTexture),
      isBlended: material.alphaMode === "BLEND",
      cutoff: material.alphaMode === "MASK" ? Number(material.alphaCutoff ?? 0.5) : 0,
      isUnlit: material.extensions?.KHR_materials_unlit !== undefined,
    };
  }

  /** A texture; null without its image where that is in another file or of another type. */
  #texture({ index, texCoord: set = 0 }) {
    const { sampler, source, extensions } = this.#entry("textures", index);
    const image = this.#image(extensions?.EXT_texture_webp?.source ?? source);
    if (image === null) return null;
    check(isWhole(set));
    const { wrapS, wrapT } = sampler === undefined ? {} : this.#entry("samplers", sampler);
    const wrap = [wrapS, wrapT].map((one) => (WRAPS.has(one) ? one : REPEAT));
    return { image, set, wrap };
  }

  #image(index) {
    if (index === undefined) return null;
    const { bufferView, mimeType: type } = this.#entry("images", index);
    if (bufferView === undefined || !IMAGES.has(type)) return null;
    if (!this.#images.has(index)) {
      const { offset, length } = this.#view(bufferView);
      const bytes = new Uint8Array(this.#bin.buffer, this.#bin.byteOffset + offset, length);
      this.#images.set(index, { type, bytes });
      if (this.#images.size > MAX_IMAGES) throw new Unshowable("it has too many textures");
    }
    return [...this.#images.keys()].indexOf(index);
  }

  #entry(list, index) {
    check(isWhole(index));
    const entry = this.#json[list][index];
    check(typeof entry === "object" && entry !== null);
    return entry;
  }
}

function newBox() {
  return { min: [Infinity, Infinity, Infinity], max: [-Infinity, -Infinity, -Infinity] };
}

function grow({ min, max }, axis, value) {
  check(Number.isFinite(value));
  if (value < min[axis]) min[axis] = value;
  if (value > max[axis]) max[axis] = value;
}

function boxOf(positions) {
  const box = newBox();
  for (let at = 0; at < positions.length; at += 1) grow(box, at % 3, positions[at]);
  return box;
}

/** Grow a box by the corners of another one, placed by a matrix. */
function growBy(box, { min, max }, matrix) {
  for (let corner = 0; corner < 8; corner += 1) {
    const [x, y, z] = [0, 1, 2].map((axis) => ((corner >> axis) & 1 ? max : min)[axis]);
    for (let axis = 0; axis < 3; axis += 1) {
      const [a, b, c, d] = [0, 4, 8, 12].map((column) => matrix[column + axis]);
      grow(box, axis, a * x + b * y + c * z + d);
    }
  }
}

function chunks(buffer) {
  const view = new DataView(buffer);
  if (buffer.byteLength < 20 || view.getUint32(0, true) !== MAGIC)
    throw new Unshowable("it is not a GLB file");
  const version = view.getUint32(4, true);
  if (version !== 2) throw new Unshowable(`it is glTF ${version}, not 2`);
  const end = view.getUint32(8, true);
  if (end > buffer.byteLength) throw new Unshowable("the file is cut off");
  let json;
  let bin;
  for (let at = 12; at + 8 <= end; ) {
    const length = view.getUint32(at, true);
    const type = view.getUint32(at + 4, true);
    check(at + 8 + length <= end);
    if (type === JSON_CHUNK) json ??= new Uint8Array(buffer, at + 8, length);
    if (type === BIN_CHUNK) bin ??= new Uint8Array(buffer, at + 8, length);
    at += 8 + length + (-length & 3);
  }
  if (json.byteLength > MAX_JSON_BYTES) throw tooLarge();
  return { json, bin: bin ?? new Uint8Array() };
}

function ownMatrix(node) {
  if (node.matrix !== undefined) {
    check(isNumbers(node.matrix, 16));
    return node.matrix;
  }
  const { translation: t = [0, 0, 0], rotation: q = [0, 0, 0, 1], scale: s = [1, 1, 1] } = node;
  check(isNumbers(t, 3) && isNumbers(q, 4) && isNumbers(s, 3));
  const [x, y, z, w] = q;
  const columns = [
    [1 - 2 * (y * y + z * z), 2 * (x * y + z * w), 2 * (x * z - y * w)],
    [2 * (x * y - z * w), 1 - 2 * (x * x + z * z), 2 * (y * z + x * w)],
    [2 * (x * z + y * w), 2 * (y * z - x * w), 1 - 2 * (x * x + y * y)],
  ];
  const scaled = columns.flatMap((column, axis) => [...column.map((one) => one * s[axis]), 0]);
  return [...scaled, ...t, 1];
}

function trianglesOf(mode, count) {
  if (mode < TRIANGLES) return 0; // points and lines
  return mode === TRIANGLES ? Math.floor(count / 3) : Math.max(count - 2, 0);
}

function withAlpha(colors, count) {
  if (colors === null || colors.length === count * 4) return colors;
  const read = new Float32Array(count * 4).fill(1);
  for (let at = 0; at < count; at += 1) read.set(colors.subarray(at * 3, at * 3 + 3), at * 4);
  return read;
}

function isWhole(value) {
  return Number.isInteger(value) && value >= 0 && value < 2 ** 32;
}

function isNumbers(value, length) {
  return Array.isArray(value) && value.length === length && value.every(Number.isFinite);
}

function check(isTrue) {
  if (!isTrue) throw damaged();
}

function damaged() {
  return new Unshowable("the file is damaged");
}

function tooLarge() {
  return new Unshowable("it is too large");
}
