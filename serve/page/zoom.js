// Where a release differs from its photo, so that small faces can be looked at closely.

const SIDE = 96; // cells per side of the comparison
const SEEN = 24; // grey levels that count as a difference; file compression stays below

/**
 * The box {x, y, width, height}, in shares of the picture, of all that differs; null where nothing does, or where it is
 * so large that looking closer shows nothing more. Both images must be decoded.
 */
export function changedBox(before, after) {
  const [one, other] = [before, after].map(cells);
  let [left, top, right, bottom] = [SIDE, SIDE, -1, -1];
  for (let i = 0; i < SIDE * SIDE; i += 1) {
    if (![0, 1, 2].some((channel) => Math.abs(one[4 * i + channel] - other[4 * i + channel]) > SEEN)) continue;
    const x = i % SIDE, y = Math.floor(i / SIDE);
    [left, right, top, bottom] = [Math.min(left, x), Math.max(right, x), Math.min(top, y), Math.max(bottom, y)];
  }
  if (right < 0) return null;
  const margin = 0.5, width = (right - left + 1) / SIDE, height = (bottom - top + 1) / SIDE;
  const box = { x: left / SIDE - (margin * width) / 2, y: top / SIDE - (margin * height) / 2, width: width * (1 + margin), height: height * (1 + margin) };
  return Math.max(box.width, box.height) < 0.7 ? box : null;
}

function cells(image) {
  const canvas = Object.assign(document.createElement("canvas"), { width: SIDE, height: SIDE });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, SIDE, SIDE);
  return context.getImageData(0, 0, SIDE, SIDE).data;
}

/** The CSS transform, for an image whose origin is its top left corner, that fills the frame with `box`. */
export function closeUp(box) {
  if (!box) return "none";
  const scale = 1 / Math.max(box.width, box.height);
  const middle = (start, size) => Math.min(0, Math.max(1 - scale, 0.5 - scale * (start + size / 2)));
  return `translate(${100 * middle(box.x, box.width)}%, ${100 * middle(box.y, box.height)}%) scale(${scale})`;
}
