/** A server of files, for tests; any other server of files does as well. */

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname } from "node:path";

/** @type {Record<string, string>} */
const TYPES = {
  ".html": "text/html",
  ".css": "text/css",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".wasm": "application/wasm",
};

/**
 * Serve a folder on a free port of this machine.
 * @param {URL} folder
 * @returns {Promise<{address: string, close: () => void}>}
 */
export async function serve(folder) {
  const server = createServer(async (request, response) => {
    const path = new URL(request.url ?? "/", "http://localhost").pathname;
    const file = new URL(path === "/" ? "index.html" : path.slice(1), folder);
    try {
      if (request.method !== "GET" || !file.href.startsWith(folder.href)) throw new Error("not served");
      const content = await readFile(file);
      response.writeHead(200, { "Content-Type": TYPES[extname(file.pathname)] ?? "application/octet-stream" });
      response.end(content);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(undefined)));
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
  return { address: `http://127.0.0.1:${port}/`, close: () => server.close() };
}
