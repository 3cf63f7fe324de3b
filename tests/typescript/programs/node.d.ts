// What the programs use of Node.js, whose own types are not installed.
declare module "node:fs" {
  export function readFileSync(path: string, encoding: "utf8"): string;
  export function openAsBlob(path: string, options?: { type?: string }): Promise<Blob>;
}
declare module "node:fs/promises" {
  export function writeFile(path: string, content: Uint8Array): Promise<void>;
}
declare const process: {
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string | undefined>>;
};
