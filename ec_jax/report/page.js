"use strict";

// Titles of columns become buttons: up, down, and the order of the page again.
// Cells without a number stay at the end of a column of numbers.
const words = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
const next = { none: "ascending", ascending: "descending", descending: "none" };

function compare(column, sign) {
  return (a, b) => {
    const [x, y] = [a.cells[column], b.cells[column]];
    const [m, n] = [x.dataset.value, y.dataset.value];
    if (m === undefined && n === undefined) {
      const [dashX, dashY] = [x.textContent === "–", y.textContent === "–"];
      return dashX - dashY || sign * words.compare(x.textContent, y.textContent);
    }
    if (m === undefined || n === undefined) return m === undefined ? 1 : -1;
    return sign * (Number(m) - Number(n));
  };
}

function makeSortable(table) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const order = next[head.getAttribute("aria-sort")];
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", order);
      const sign = order === "descending" ? -1 : 1;
      const rows = order === "none" ? original : [...original].sort(compare(column, sign));
      body.append(...rows);
    });
  });
}

document.querySelectorAll("table[data-sortable]").forEach(makeSortable);
