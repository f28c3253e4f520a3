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
    const body = head.closest("table").tBodies[0];
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [place(a, head.cellIndex), place(b, head.cellIndex)];
      const order = typeof x === typeof y ? (typeof x === "number" ? x - y : x.localeCompare(y)) : typeof x === "number" ? -1 : 1;
      return down ? -order : order;
    });
    for (const row of rows) row.classList.remove("group");
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...rows);
  });
}
