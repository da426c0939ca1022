"use strict";
// Headings become buttons that sort their table; without this the tables stand as they are.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const heads = Array.from(table.tHead.rows[0].cells);
  if (body.rows.length < 2) continue;
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => {
        const cell = row.cells[column];
        return "sort" in cell.dataset ? Number(cell.dataset.sort) : cell.textContent.trim();
      };
      const isNumber = head.classList.contains("number");
      const order = (a, b) => {
        const [x, y] = [value(a), value(b)];
        // What has no number comes last, whichever way it is sorted.
        if (isNumber && (typeof x !== "number" || typeof y !== "number")) {
          return (typeof x !== "number") - (typeof y !== "number");
        }
        const sign = down ? -1 : 1;
        return sign * (isNumber ? x - y : String(x).localeCompare(String(y), "en", { numeric: true }));
      };
      body.append(...Array.from(body.rows).sort(order));
    });
  });
}
