// Values of points where the pointer is, and tables that sort. The page is whole without this script.
const tip = document.getElementById("tip");
for (const title of document.querySelectorAll("figure path > title")) {
  const mark = title.parentNode;
  mark.dataset.tip = title.textContent;
  title.remove();
  mark.addEventListener("pointerenter", (event) => {
    tip.textContent = mark.dataset.tip;
    tip.hidden = false;
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.animate([{ left: Math.max(8, Math.min(event.clientX + 12, room)) + "px", top: event.clientY + 14 + "px" }],
      { fill: "forwards" });
  });
  mark.addEventListener("pointerleave", () => { tip.hidden = true; });
}
const place = (row, n) => {
  const cell = row.cells[n];
  return cell.dataset.sort === undefined ? cell.textContent : Number(cell.dataset.sort);
};
for (const head of document.querySelectorAll("thead th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    const order = (a, b) => {
      const [x, y] = [place(a, head.cellIndex), place(b, head.cellIndex)];
      if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1; // what has no number stays last
      const by = typeof x === "number" ? x - y : x.localeCompare(y);
      return down ? -by : by;
    };
    for (const body of head.closest("table").tBodies) {
      body.append(...[...body.querySelectorAll("tr:not(.group)")].sort(order));
    }
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
  });
}
