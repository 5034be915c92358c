// A share and its 95 % interval on a line from 0 to 100 %, with chance marked.

export const percent = (share) => `${Math.round(100 * share)}\u00a0%`;

export function drawInterval(svg, { value, low, high }, chance) {
  const draw = (tag, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    svg.append(element);
  };
  const at = (share) => `${(100 * share).toFixed(2)}%`;
  svg.replaceChildren();
  draw("line", { class: "axis", x1: "0%", x2: "100%", y1: 20, y2: 20 });
  if (chance !== null) draw("line", { class: "chance", x1: at(chance), x2: at(chance), y1: 2, y2: 38 });
  draw("line", { class: "range", x1: at(low), x2: at(high), y1: 20, y2: 20 });
  draw("circle", { class: "point", cx: at(value), cy: 20, r: 8 });
  svg.setAttribute("aria-label", `${percent(value)}, 95 % interval ${percent(low)} to ${percent(high)}${chance === null ? "" : `, guessing ${percent(chance)}`}`);
}
