/** JSON whose whole numbers stay exact. Pure. */

const TOKEN = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;

/** Parse JSON; whole numbers that JavaScript cannot hold, such as seeds, become their digits. */
export function parse(text) {
  return JSON.parse(/\d{16}/.test(text) ? text.replace(TOKEN, exact) : text);
}

function exact(token) {
  const isWhole = /^-?\d+$/.test(token);
  return isWhole && !Number.isSafeInteger(Number(token)) ? `"${token}"` : token;
}
