// The attribute table: what was read in the face (private, for the person whose photo it is) and what was released.

import { $, make } from "./common.js";
import { plain } from "./words.js";

/** Fills both tables for one face. `probabilities` (0 to 1) and `attributes` (yes or no) as read. */
export function fillTables(names, { released, unprotected }, { probabilities, attributes }) {
  const groups = { painted: [], outside: [] };
  for (const name of names) groups[unprotected.includes(name) ? "outside" : "painted"].push(row(name, probabilities[name], attributes[name], released[name]));
  for (const [id, rows] of Object.entries(groups)) {
    $(id).hidden = !rows.length;
    $(id).tHead.replaceChildren(make("tr", {}, ...["Attribute", "Read (private)", "Released"].map((text) => make("th", { scope: "col" }, text))));
    $(id).tBodies[0].replaceChildren(...rows);
  }
  const differ = groups.painted.filter(({ className }) => className).length;
  $("attributes-summary").textContent = `${differ} of ${groups.painted.length} painted attributes were released differently from what was read.`;
}

function row(name, probability, was, value) {
  const differs = was !== value;
  const tell = (yes) => make("span", { className: yes ? "" : "no" }, yes ? "yes" : "no");
  const read = make("td", {}, tell(was), make("span", { className: "share" }, `${Math.round(100 * probability)} %`));
  const out = make("td", {}, tell(value));
  if (differs) out.append(make("span", { className: "changed-mark" }, "changed"));
  return make("tr", { className: differs ? "changed" : "" }, make("th", { scope: "row" }, plain(name)), read, out);
}

/** One button per face, when there are several. */
export function chooseFace(count, chosen, choose) {
  const box = $("faces");
  box.hidden = count < 2;
  if (box.querySelectorAll("label").length === count) {
    box.querySelectorAll("input")[chosen].checked = true;
    return;
  }
  box.replaceChildren(box.querySelector("legend"), ...Array.from({ length: count }, (_, face) => {
    const input = make("input", { type: "radio", name: "face", value: face, checked: face === chosen });
    input.addEventListener("change", () => choose(face));
    return make("label", {}, input, make("span", {}, String(face + 1)));
  }));
}
