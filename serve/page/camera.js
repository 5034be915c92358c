// "Take one": a picture from the camera, which is on only while its dialog is open.

import { $, make, Refusal } from "./common.js";

/** Wires the dialog; `take` gets the picture, `fail` a Refusal. Without a camera's interface the button stays hidden. */
export function listenToCamera(take, fail) {
  const dialog = $("shoot"), video = $("video");
  $("camera").hidden = !navigator.mediaDevices?.getUserMedia;
  $("camera").addEventListener("click", async () => {
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } } });
    } catch {
      fail(new Refusal({ title: "No camera", detail: "The browser gave no picture from a camera.", remedy: "Allow it for this page, or choose a photo instead.", status: 400 }));
      return;
    }
    video.srcObject = stream;
    dialog.addEventListener("close", () => stream.getTracks().forEach((track) => track.stop()), { once: true });
    dialog.showModal();
  });
  $("unshoot").addEventListener("click", () => dialog.close());
  $("snap").addEventListener("click", () => {
    const canvas = make("canvas", { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((blob) => { dialog.close(); take(blob); }, "image/jpeg", 0.95);
  });
}
