/**
 * Plays a video through the built page in a headless Chromium, and saves what a user would save.
 *
 *     node test/browser.js VIDEO refined.json
 *     node test/browser.js VIDEO refined.json --stop-after 40 --picture page.png --width 400
 *     node test/browser.js VIDEO.y4m refined.json --stop-after 40 --camera
 *
 * It plays the video twice, the first time for a few pictures. With --camera, a webcam shows the video again and again.
 * Without --height, the picture shows the whole page.
 *
 * CHROMIUM names the browser (chromium by default). The script fails where the page reports a problem, or asks anybody
 * but its own server for anything.
 */

import { execFileSync } from "node:child_process";
import { parseArgs } from "node:util";

import { chromium } from "playwright-core";

import { serve } from "./server.js";

const DIST = new URL("../dist/", import.meta.url);
// The longest time without a new frame, and for loading the models.
const STALLED_MS = 120_000;
const LOADING_MS = 120_000;
// A webcam that shows a file, and WebGPU without a graphics card.
const IMITATED_CAMERA = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"];
const IMITATED_WEBGPU = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"];

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    "stop-after": { type: "string", default: "0" },
    picture: { type: "string" },
    width: { type: "string", default: "1240" },
    height: { type: "string" },
    engine: { type: "string", default: "automatic" },
    place: { type: "string", default: "automatic" },
    focal: { type: "string" },
    camera: { type: "boolean", default: false },
    lifted: { type: "boolean", default: false },
    "own-bones": { type: "boolean", default: false },
    dark: { type: "boolean", default: false },
  },
});
const [video, target] = positionals;
const stopAfter = Number(values["stop-after"]);
const size = { width: Number(values.width), height: 900 };

/** The path of the browser. */
function browserPath() {
  const name = process.env.CHROMIUM ?? "chromium";
  return name.includes("/") ? name : execFileSync("which", [name], { encoding: "utf8" }).trim();
}

/** @type {string[]} */
const faults = [];
const server = await serve(DIST);
const browser = await chromium.launch({
  executablePath: browserPath(),
  // A container has no sandbox for a browser of root, and no graphics card.
  args: [
    "--no-sandbox",
    "--enable-unsafe-swiftshader",
    ...(values.engine === "webgpu" ? IMITATED_WEBGPU : []),
    ...(values.camera ? [...IMITATED_CAMERA, `--use-file-for-fake-video-capture=${video}`] : []),
  ],
});
try {
  const page = await browser.newPage({
    viewport: size,
    deviceScaleFactor: size.width < 600 ? 2 : 1,
    colorScheme: values.dark ? "dark" : "light",
    acceptDownloads: true,
  });
  page.on("pageerror", (error) => faults.push(`the page threw: ${error.message}`));
  page.on("request", (request) => {
    const own = request.url().startsWith(server.address) && request.method() === "GET";
    if (own || /^(blob|data):/.test(request.url())) return;
    faults.push(`the page asked ${request.method()} ${request.url()}`);
  });
  page.on("response", (response) => {
    if (response.status() >= 400) faults.push(`${response.url()}: ${response.status()}`);
  });
  page.on("console", (message) => {
    if (message.type() === "error") faults.push(`the page logged: ${message.text()}`);
  });
  await page.goto(server.address);
  const idle = page.locator('#status[data-status="idle"]');
  await idle.waitFor({ timeout: LOADING_MS });
  for (const setting of /** @type {const} */ (["engine", "place"])) {
    if (values[setting] === "automatic") continue;
    await page.locator("summary").click();
    await page.locator(`#${setting}`).selectOption(values[setting]);
    await page.locator("#camera:disabled").waitFor();
    await page.locator("#camera:enabled").waitFor({ timeout: LOADING_MS });
    await page.locator("summary").click();
  }
  if (values.focal !== undefined) {
    await page.locator("#focal-unit").selectOption("pixels");
    await page.locator("#focal").fill(values.focal);
  }
  await page.locator("summary").click();
  await page.locator("#all").check();
  await page.locator("#show-lifted").setChecked(values.lifted);
  await page.locator("#pool-shape").setChecked(!values["own-bones"]);
  await page.locator("summary").click();
  const frames = () => page.evaluate(() => /** @type {any} */ (globalThis).refinerLog.frames);
  const stop = page.locator("#stop");
  // A few pictures first: the second video must not know of them.
  for (const last of [3, stopAfter]) {
    await page.evaluate(() => Object.assign(globalThis, { earlierLog: /** @type {any} */ (globalThis).refinerLog }));
    if (values.camera) await page.locator("#camera").click();
    else await page.locator("#file").setInputFiles(video);
    const begun = () => page.evaluate(() => {
      const { refinerLog, earlierLog } = /** @type {any} */ (globalThis);
      return refinerLog !== earlierLog;
    });
    // The policy of the page refuses Playwright's waitForFunction, which makes code of text.
    while (!(await begun())) {
      if (await page.locator("#problem").isVisible()) throw new Error("the video was not opened");
      await page.waitForTimeout(50);
    }
    for (let seen = -1, since = Date.now(); await stop.isVisible(); ) {
      const now = await frames();
      if (now !== seen) [seen, since] = [now, Date.now()];
      if (Date.now() - since > STALLED_MS) throw new Error(`the page stopped at frame ${seen}`);
      if (last && now >= last) break;
      await page.waitForTimeout(50);
    }
  }
  if (values.picture !== undefined) {
    const clip = values.height === undefined ? undefined : { x: 0, y: 0, ...size, height: Number(values.height) };
    await page.screenshot({ path: values.picture, fullPage: true, clip });
  }
  if (await stop.isVisible()) await stop.click();
  await idle.waitFor({ timeout: LOADING_MS });
  const problem = page.locator("#problem");
  if (await problem.isVisible()) faults.push(`the page says: ${await problem.textContent()}`);
  const download = page.waitForEvent("download");
  await page.locator("#save").click();
  await (await download).saveAs(target);
  process.stdout.write(`${await frames()} frames; engine: ${await page.locator("#engine-result").textContent()}\n`);
} catch (error) {
  faults.push(String(error));
} finally {
  await browser.close();
  server.close();
}
if (faults.length) {
  process.stderr.write(`${faults.join("\n")}\n`);
  process.exitCode = 1;
}
