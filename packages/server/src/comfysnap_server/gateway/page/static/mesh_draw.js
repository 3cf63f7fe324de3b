/** Draws the meshes of a scene (glb.js) with WebGL 2. */

import { multiply, Unshowable } from "./glb.js";

/** In pixels; larger ones are made smaller. */
const MAX_TEXTURE = 2048;
const HALF_VIEW = 0.3; // radians
/** Attributes of a vertex by their place in the shader. */
const ATTRIBUTES = [
  ["positions", 3],
  ["normals", 3],
  ["uvs", 2],
  ["colors", 4],
];
const FIRST_OF_TRIANGLES = 4;

const VERTEX = `#version 300 es
layout(location = 0) in vec3 position;
layout(location = 1) in vec3 normal;
layout(location = 2) in vec2 uv;
layout(location = 3) in vec4 color;
uniform mat4 model;
uniform mat4 camera;
out vec3 v_place;
out vec3 v_normal;
out vec2 v_uv;
out vec4 v_color;
void main() {
  vec4 place = model * vec4(position, 1.0);
  v_place = place.xyz;
  v_normal = transpose(inverse(mat3(model))) * normal;
  v_uv = uv;
  v_color = color;
  gl_Position = camera * place;
  gl_PointSize = 2.0;
}`;

const FRAGMENT = `#version 300 es
precision highp float;
in vec3 v_place;
in vec3 v_normal;
in vec2 v_uv;
in vec4 v_color;
uniform vec4 factor;
uniform sampler2D image;
uniform vec3 eye;
uniform vec3 light;
uniform float cutoff;
uniform bool has_image, has_normals, is_unlit, is_blended;
out vec4 result;
void main() {
  vec4 base = factor * v_color;
  if (has_image) base *= texture(image, v_uv);
  if (base.a < cutoff) discard;
  vec3 lit = base.rgb;
  if (!is_unlit) {
    vec3 normal = has_normals ? v_normal : cross(dFdx(v_place), dFdy(v_place));
    normal = normalize(normal);
    if (dot(normal, eye - v_place) < 0.0) normal = -normal;
    lit *= 0.35 + 0.12 * normal.y + 0.65 * max(dot(normal, light), 0.0);
  }
  result = vec4(pow(clamp(lit, 0.0, 1.0), vec3(1.0 / 2.2)), is_blended ? base.a : 1.0);
}`;

export class MeshDrawing {
  #gl;
  #uniforms = {};
  #items;
  #textures = [];

  /** Everything but the pictures of textures; throws `Unshowable` without WebGL 2. */
  constructor(canvas, scene) {
    const gl = canvas.getContext("webgl2", { antialias: true });
    if (gl === null) throw new Unshowable("this browser has no WebGL 2");
    this.#gl = gl;
    this.#useProgram();
    const fit = fitted(scene);
    const loaded = new Map();
    this.#items = scene.items.map(({ primitive, matrix }) => {
      if (!loaded.has(primitive)) loaded.set(primitive, this.#load(primitive));
      return { ...loaded.get(primitive), model: new Float32Array(multiply(fit, matrix)) };
    });
    // what is seen through comes last
    this.#items.sort((one, other) => one.material.isBlended - other.material.isBlended);
    gl.enable(gl.DEPTH_TEST);
    gl.blendFuncSeparate(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA, gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  }

  /** Decode the pictures of textures; those that cannot be decoded are left out. */
  async addImages(images) {
    for (const [index, { type, bytes }] of images.entries()) {
      const picture = await decoded(new Blob([bytes], { type })).catch(() => null);
      if (picture === null) continue;
      if (!this.#gl.isContextLost()) this.#textures[index] = this.#texture(picture);
      picture.close();
    }
  }

  /** Draw, seen from angles in radians and a distance in radii of what is drawn. */
  draw({ yaw, pitch, distance }) {
    const gl = this.#gl;
    const { width, height } = gl.canvas;
    const { matrix, eye, light } = seenFrom(yaw, pitch, distance, width / height);
    gl.viewport(0, 0, width, height);
    gl.depthMask(true);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.uniformMatrix4fv(this.#uniforms.camera, false, matrix);
    gl.uniform3fv(this.#uniforms.eye, eye);
    gl.uniform3fv(this.#uniforms.light, light);
    for (const item of this.#items) this.#drawItem(item);
  }

  /** Give the memory of the graphics card back. */
  release() {
    this.#gl.getExtension("WEBGL_lose_context")?.loseContext();
  }

  #drawItem({ vertices, mode, count, isIndexed, hasNormals, hasUvs, material, model }) {
    const gl = this.#gl;
    const uniforms = this.#uniforms;
    const { color, texture, isBlended, cutoff, isUnlit } = material;
    const image = hasUvs && texture ? this.#textures[texture.image] : undefined;
    gl.uniformMatrix4fv(uniforms.model, false, model);
    gl.uniform4fv(uniforms.factor, color);
    gl.uniform1f(uniforms.cutoff, cutoff);
    gl.uniform1i(uniforms.has_image, image !== undefined);
    gl.uniform1i(uniforms.has_normals, hasNormals);
    gl.uniform1i(uniforms.is_unlit, isUnlit || mode < FIRST_OF_TRIANGLES);
    gl.uniform1i(uniforms.is_blended, isBlended);
    if (isBlended) gl.enable(gl.BLEND);
    else gl.disable(gl.BLEND);
    gl.depthMask(!isBlended);
    if (image !== undefined) {
      gl.bindTexture(gl.TEXTURE_2D, image);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, texture.wrap[0]);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, texture.wrap[1]);
    }
    gl.bindVertexArray(vertices);
    if (isIndexed) gl.drawElements(mode, count, gl.UNSIGNED_INT, 0);
    else gl.drawArrays(mode, 0, count);
  }

  #useProgram() {
    const gl = this.#gl;
    const program = gl.createProgram();
    for (const [kind, source] of [
      [gl.VERTEX_SHADER, VERTEX],
      [gl.FRAGMENT_SHADER, FRAGMENT],
    ]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS))
      throw new Unshowable("this browser's WebGL 2 does not work");
    gl.useProgram(program);
    const count = gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS);
    for (let index = 0; index < count; index += 1) {
      const { name } = gl.getActiveUniform(program, index);
      this.#uniforms[name] = gl.getUniformLocation(program, name);
    }
  }

  #load(primitive) {
    const gl = this.#gl;
    const { mode, indices, material } = primitive;
    const vertices = gl.createVertexArray();
    gl.bindVertexArray(vertices);
    for (const [place, [name, width]] of ATTRIBUTES.entries()) {
      if (primitive[name] === null) continue;
      gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
      gl.bufferData(gl.ARRAY_BUFFER, primitive[name], gl.STATIC_DRAW);
      gl.enableVertexAttribArray(place);
      gl.vertexAttribPointer(place, width, gl.FLOAT, false, 0, 0);
    }
    if (indices !== null) {
      gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
      gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, indices, gl.STATIC_DRAW);
    }
    gl.vertexAttrib4f(3, 1, 1, 1, 1); // the colour of vertices without one
    return {
      vertices,
      mode,
      count: indices?.length ?? primitive.positions.length / 3,
      isIndexed: indices !== null,
      hasNormals: primitive.normals !== null,
      hasUvs: primitive.uvs !== null,
      material,
    };
  }

  #texture(picture) {
    const gl = this.#gl;
    const texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.SRGB8_ALPHA8, gl.RGBA, gl.UNSIGNED_BYTE, picture);
    gl.generateMipmap(gl.TEXTURE_2D);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_LINEAR);
    return texture;
  }
}

async function decoded(blob) {
  const options = { premultiplyAlpha: "none", colorSpaceConversion: "none" };
  const picture = await createImageBitmap(blob, options);
  const share = MAX_TEXTURE / Math.max(picture.width, picture.height);
  if (share >= 1) return picture;
  const [resizeWidth, resizeHeight] = [picture.width, picture.height].map((side) =>
    Math.max(Math.round(side * share), 1),
  );
  try {
    return await createImageBitmap(picture, { ...options, resizeWidth, resizeHeight });
  } finally {
    picture.close();
  }
}

/** The matrix that puts a scene into the unit sphere. */
function fitted({ min, max }) {
  const half = min.map((low, axis) => max[axis] / 2 - low / 2);
  const scale = 1 / (Math.hypot(...half) || 1);
  const [x, y, z] = min.map((low, axis) => -(low + half[axis]) * scale);
  return [scale, 0, 0, 0, 0, scale, 0, 0, 0, 0, scale, 0, x, y, z, 1];
}

function seenFrom(yaw, pitch, distance, aspect) {
  const [sy, cy, sp, cp] = [Math.sin(yaw), Math.cos(yaw), Math.sin(pitch), Math.cos(pitch)];
  const right = [cy, 0, -sy];
  const up = [-sp * sy, cp, -sp * cy];
  const back = [cp * sy, sp, cp * cy];
  const columns = [0, 1, 2].flatMap((axis) => [right[axis], up[axis], back[axis], 0]);
  const view = [...columns, 0, 0, -distance, 1];
  const f = Math.min(1, aspect) / Math.tan(HALF_VIEW);
  const near = Math.max(distance - 1.1, 0.01);
  const far = distance + 1.1;
  const depth = [(near + far) / (near - far), (2 * near * far) / (near - far)];
  const projection = [f / aspect, 0, 0, 0, 0, f, 0, 0, 0, 0, depth[0], -1, 0, 0, depth[1], 0];
  const light = back.map((one, axis) => one + 0.5 * up[axis] - 0.4 * right[axis]);
  return {
    matrix: new Float32Array(multiply(projection, view)),
    eye: back.map((one) => one * distance),
    light: light.map((one) => one / Math.hypot(...light)),
  };
}
