/** Pictures with time-stamps, from a webcam or a video file. */

// A video file that must not lose a picture plays at this rate, and waits for each picture.
const SLOW = 0.25;

/** Why a webcam does not open, in words. @type {Record<string, string>} */
const REFUSALS = {
  NotAllowedError: "the page may not use the webcam: allow it in the browser's settings of this page",
  NotFoundError: "there is no webcam; open a video instead",
  NotReadableError: "another program uses the webcam",
};

/**
 * Takes a picture with its time-stamp in seconds.
 * @typedef {(timestamp: number) => Promise<void>} Take
 */

/** Whether the browser tells when a video shows a new picture. */
export function canFollowVideos() {
  return "requestVideoFrameCallback" in HTMLVideoElement.prototype;
}

/**
 * Open a webcam in a video element.
 * @param {HTMLVideoElement} video
 */
export async function openCamera(video) {
  const wanted = { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30 } };
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: wanted, audio: false });
  } catch (error) {
    const name = error instanceof DOMException ? error.name : "";
    throw new Error(REFUSALS[name] ?? `the webcam cannot be opened: ${error}`, { cause: error });
  }
  await ready(video);
}

/**
 * Open a video file in a video element. Rejects where the browser cannot play it.
 * @param {HTMLVideoElement} video
 * @param {string} address
 */
export async function openFile(video, address) {
  video.src = address;
  await ready(video);
}

/**
 * Let go of the webcam or the file.
 * @param {HTMLVideoElement} video
 */
export function close(video) {
  video.pause();
  if (video.srcObject instanceof MediaStream) for (const track of video.srcObject.getTracks()) track.stop();
  if (video.src.startsWith("blob:")) URL.revokeObjectURL(video.src);
  video.srcObject = null;
  video.removeAttribute("src");
  video.load();
}

/** @param {HTMLVideoElement} video */
async function ready(video) {
  if (video.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA) return;
  await new Promise((resolve, reject) => {
    video.addEventListener("loadeddata", resolve, { once: true });
    video.addEventListener("error", () => reject(new Error("the browser cannot play this video")), { once: true });
  });
}

/**
 * Play the video of an element, and take its pictures one after the other.
 *
 * A picture that comes while the last one is still being taken is left out, unless `all`: the video then plays slowly
 * and stops for each picture. `done` resolves at the end of the video, or after `stop` was called.
 *
 * @param {HTMLVideoElement} video
 * @param {boolean} all whether no picture may be left out; for files alone
 * @param {Take} take
 * @returns {{done: Promise<void>, stop: () => void, missed: () => number}}
 */
export function play(video, all, take) {
  let [stopped, busy, missed, seen] = [false, false, 0, 0];
  const live = video.srcObject !== null;
  /** @type {() => void} */
  let end = () => {};
  /** @type {(error: unknown) => void} */
  let fail = () => {};
  /** @type {Promise<void>} */
  const done = new Promise((resolve, reject) => ([end, fail] = [resolve, reject]));
  const stop = () => {
    stopped = true;
    if (!busy) end();
  };

  /** @type {VideoFrameRequestCallback} */
  const onPicture = async (now, metadata) => {
    if (stopped) return;
    video.requestVideoFrameCallback(onPicture);
    if (busy) return;
    busy = true;
    if (seen > 0) missed += Math.max(metadata.presentedFrames - seen - 1, 0);
    seen = metadata.presentedFrames;
    if (all) video.pause();
    try {
      await take(live ? (metadata.captureTime ?? now) / 1000 : metadata.mediaTime);
    } catch (error) {
      stopped = true;
      fail(error);
      return;
    }
    busy = false;
    if (stopped || video.ended) end();
    else if (all) video.play().catch(fail);
  };

  // Those that the browser's decoder lost.
  const lost = () => video.getVideoPlaybackQuality().droppedVideoFrames;
  const lostBefore = lost();
  const onEnd = () => stop();
  video.addEventListener("ended", onEnd, { once: true });
  video.playbackRate = all ? SLOW : 1;
  video.requestVideoFrameCallback(onPicture);
  video.play().catch(fail);
  return {
    done: done.finally(() => video.removeEventListener("ended", onEnd)),
    stop,
    missed: () => missed + lost() - lostBefore,
  };
}
