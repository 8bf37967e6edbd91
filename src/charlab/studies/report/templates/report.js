// Sort a table by the column whose heading is clicked: ascending, then descending. Rows without a key stay last.
for (const heading of document.querySelectorAll(".charlab-report th")) {
  heading.querySelector("button").onclick = () => {
    const body = heading.closest("table").tBodies[0];
    const column = heading.cellIndex;
    const descending = heading.getAttribute("aria-sort") === "ascending";
    for (const other of heading.parentElement.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const compare = (a, b) => {
      const [left, right] = [a, b].map((row) => row.cells[column].dataset.key);
      if (left === "" || right === "") return (left === "") - (right === "");
      const [x, y] = [Number(left), Number(right)];
      const order = Number.isNaN(x) || Number.isNaN(y) ? left.localeCompare(right) : x - y;
      return descending ? -order : order;
    };
    body.append(...[...body.rows].sort(compare));
  };
}
