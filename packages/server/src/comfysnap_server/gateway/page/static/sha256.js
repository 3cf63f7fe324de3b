/** SHA-256 of a file. Pure. */

const PIECE = 4 * 1024 * 1024;
/** The browser hashes a file only as a whole, in memory. */
const WHOLE = 64 * 1024 * 1024;

/** The hash of a Blob as hex, also on plain http, where the browser has no hash of its own. */
export async function sha256(blob, subtle = globalThis.crypto?.subtle) {
  if (subtle && blob.size <= WHOLE) {
    return hex(new Uint8Array(await subtle.digest("SHA-256", await blob.arrayBuffer())));
  }
  const hash = new Sha256();
  for (let start = 0; start < blob.size; start += PIECE) {
    hash.add(new Uint8Array(await blob.slice(start, start + PIECE).arrayBuffer()));
  }
  return hex(hash.end());
}

function hex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const K = new Int32Array(64);
const START = new Int32Array(8);
for (let number = 2, found = 0; found < 64; number += 1) {
  if (
    Array.from({ length: number - 2 }, (_, index) => index + 2).some((one) => number % one === 0)
  ) {
    continue;
  }
  K[found] = fraction(Math.cbrt(number));
  if (found < 8) START[found] = fraction(Math.sqrt(number));
  found += 1;
}

function fraction(root) {
  return Math.floor((root - Math.floor(root)) * 2 ** 32);
}

/** FIPS 180-4, in pieces. Plain assignments, as this is the work of seconds for large files. */
class Sha256 {
  #state = START.slice();
  #words = new Int32Array(64);
  #rest = new Uint8Array(0);
  #length = 0;

  add(bytes) {
    this.#length += bytes.length;
    const given = this.#rest.length === 0 ? bytes : joined(this.#rest, bytes);
    const view = new DataView(given.buffer, given.byteOffset, given.length);
    const whole = given.length - (given.length % 64);
    for (let start = 0; start < whole; start += 64) mix(this.#state, this.#words, view, start);
    this.#rest = given.slice(whole);
  }

  end() {
    const length = this.#length;
    const padding = new Uint8Array(((119 - (length % 64)) % 64) + 9);
    const view = new DataView(padding.buffer);
    padding[0] = 0x80;
    view.setUint32(padding.length - 8, Math.floor(length / 2 ** 29));
    view.setUint32(padding.length - 4, (length * 8) >>> 0);
    this.add(padding);
    const digest = new DataView(new ArrayBuffer(32));
    this.#state.forEach((word, index) => digest.setInt32(4 * index, word));
    return new Uint8Array(digest.buffer);
  }
}

function joined(one, other) {
  const all = new Uint8Array(one.length + other.length);
  all.set(one);
  all.set(other, one.length);
  return all;
}

function mix(state, words, view, start) {
  for (let i = 0; i < 16; i += 1) words[i] = view.getInt32(start + 4 * i);
  for (let i = 16; i < 64; i += 1) {
    const early = words[i - 15];
    const late = words[i - 2];
    const s0 = turned(early, 7) ^ turned(early, 18) ^ (early >>> 3);
    const s1 = turned(late, 17) ^ turned(late, 19) ^ (late >>> 10);
    words[i] = (words[i - 16] + s0 + words[i - 7] + s1) | 0;
  }
  let a = state[0];
  let b = state[1];
  let c = state[2];
  let d = state[3];
  let e = state[4];
  let f = state[5];
  let g = state[6];
  let h = state[7];
  for (let i = 0; i < 64; i += 1) {
    const s1 = turned(e, 6) ^ turned(e, 11) ^ turned(e, 25);
    const first = (h + s1 + ((e & f) ^ (~e & g)) + K[i] + words[i]) | 0;
    const s0 = turned(a, 2) ^ turned(a, 13) ^ turned(a, 22);
    const second = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    h = g;
    g = f;
    f = e;
    e = (d + first) | 0;
    d = c;
    c = b;
    b = a;
    a = (first + second) | 0;
  }
  state[0] += a;
  state[1] += b;
  state[2] += c;
  state[3] += d;
  state[4] += e;
  state[5] += f;
  state[6] += g;
  state[7] += h;
}

function turned(word, by) {
  return (word >>> by) | (word << (32 - by));
}
