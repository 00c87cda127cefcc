"use strict";
// The table is whole without this: here it is searched, narrowed and sorted.
const find = document.getElementById("find");
const flag = document.getElementById("flag");
const found = document.getElementById("found");
const body = document.querySelector("#calls tbody");
const rows = Array.from(body.rows, (row) => ({
  row, text: row.textContent.toLowerCase(), flags: row.querySelector(".f").textContent.split(" ").filter(Boolean),
}));

const names = new Set(rows.flatMap((each) => each.flags.map((own) => own.split(":")[0])));
for (const name of Array.from(names).sort()) flag.add(new Option(name, name));

function narrow() {
  const wanted = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const each of rows) {
    const fits = wanted.every((word) => each.text.includes(word))
      && (!flag.value || each.flags.some((own) => own.split(":")[0] === flag.value));
    each.row.hidden = !fits;
    if (fits) shown += 1;
  }
  found.textContent = shown + " of " + rows.length + " calls";
}

function value(row, column) {
  const cell = row.cells[column];
  const own = cell.dataset.v ?? cell.textContent.trim();
  const number = Number(own);
  return own !== "" && !Number.isNaN(number) ? number : own.toLowerCase();
}

function compare(a, b) {
  if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
  return typeof a === "number" ? -1 : 1;
}

for (const button of document.querySelectorAll("#calls thead button")) {
  button.addEventListener("click", () => {
    const column = Number(button.dataset.by);
    const heading = button.closest("th");
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const other of document.querySelectorAll("#calls th[aria-sort]")) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const keyed = rows.map((each) => [value(each.row, column), each.row]);
    keyed.sort((a, b) => (down ? -1 : 1) * compare(a[0], b[0]));
    body.append(...keyed.map((pair) => pair[1]));
  });
}

find.addEventListener("input", narrow);
flag.addEventListener("change", narrow);
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !/^(INPUT|SELECT)$/.test(event.target.tagName)) { find.focus(); event.preventDefault(); }
});
