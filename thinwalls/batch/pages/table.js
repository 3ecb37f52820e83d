"use strict";
// Sorts and filters the table. Without this script the table is whole, in the order of the class.
const table = document.querySelector("table.class");
const body = table.tBodies[0];
const rows = [...body.rows];
const find = document.querySelector("#find"), show = document.querySelector("#show");
const told = document.querySelector("#told");

function filter() {
  const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  let seen = 0;
  for (const row of rows) {
    const who = row.dataset.find.toLowerCase();
    const states = row.dataset.states.split(" ");
    row.hidden = !words.every(word => who.includes(word)) || !(show.value === "" || states.includes(show.value));
    seen += row.hidden ? 0 : 1;
  }
  told.textContent = `${seen} of ${rows.length} shown`;
}

function sort(head) {
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const place = Number(head.dataset.place);
  const value = row => row.cells[place].dataset.sort;
  const number = head.dataset.kind === "number";
  const order = (a, b) => number ? value(a) - value(b) : value(a).localeCompare(value(b));
  // Sorting is stable: equal rows stay as they were.
  const sorted = [...rows].sort((a, b) => down ? order(b, a) : order(a, b));
  body.append(...sorted);
}

for (const head of table.querySelectorAll("th[data-place]")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  button.addEventListener("click", () => sort(head));
  head.append(button);
}
find.addEventListener("input", filter);
show.addEventListener("change", filter);
document.querySelector(".controls").hidden = false;
filter();
