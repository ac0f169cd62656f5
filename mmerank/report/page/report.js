"use strict";
// A table per run, sorted and filtered here; text goes in as text, never as markup.
const STEP = 50;

function element(name, parent, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  if (parent) parent.append(made);
  return made;
}

// Words for text; for numbers also >5, >=5, <3, <=3, 2..4, =1.
function test(filter) {
  const range = filter.match(/^\s*(-?[\d.]+)\s*\.\.\s*(-?[\d.]+)\s*$/);
  if (range) return (value) => typeof value === "number" && value >= Number(range[1]) && value <= Number(range[2]);
  const compared = filter.match(/^\s*(>=|<=|>|<|=)\s*(-?[\d.]+(?:e-?\d+)?)\s*$/i);
  if (compared) {
    const bound = Number(compared[2]);
    const holds = { ">": (x) => x > bound, "<": (x) => x < bound, ">=": (x) => x >= bound, "<=": (x) => x <= bound, "=": (x) => x === bound };
    return (value) => typeof value === "number" && holds[compared[1]](value);
  }
  const words = filter.trim().toLowerCase();
  return (value) => value !== null && String(value).toLowerCase().includes(words);
}

function order(a, b) {
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), undefined, { numeric: true });
}

function show(run, parent, several) {
  if (several) element("h3", parent, run.run);
  const withText = run.texts.length > 0;
  const heads = ["id", ...run.columns, ...(withText ? ["text"] : [])];
  const rows = run.rows.map((row) => [run.ids[row[0]], ...row.slice(1), ...(withText ? [run.texts[row[0]]] : [])]);
  const box = element("div", parent, undefined, "examples");
  const table = element("table", box);
  const head = element("thead", table);
  const titles = element("tr", head);
  const filters = element("tr", head);
  const body = element("tbody", table);
  const count = element("p", parent, undefined, "note");
  const more = element("button", parent, "show more", "more");
  more.type = "button";
  let sorted = -1;
  let up = true;
  let limit = STEP;
  const inputs = heads.map((title, column) => {
    const cell = element("th", titles, undefined, rows.length && typeof rows[0][column] === "string" ? "name" : "");
    const button = element("button", cell, title, title.length > 10 ? "long" : "");
    button.type = "button";
    button.addEventListener("click", () => {
      up = sorted === column ? !up : true;
      sorted = column;
      draw();
    });
    const input = element("input", element("th", filters));
    input.setAttribute("aria-label", "filter " + title);
    input.placeholder = "filter";
    input.addEventListener("input", () => {
      limit = STEP;
      draw();
    });
    return input;
  });
  more.addEventListener("click", () => {
    limit += STEP;
    draw();
  });

  function draw() {
    const tests = inputs.map((input) => (input.value.trim() ? test(input.value) : null));
    const kept = rows.filter((row) => tests.every((holds, column) => !holds || holds(row[column])));
    if (sorted >= 0) {
      kept.sort((a, b) => {
        const empty = (a[sorted] === null) - (b[sorted] === null);
        return empty || (up ? 1 : -1) * order(a[sorted], b[sorted]);
      });
    }
    [...titles.cells].forEach((cell, column) => {
      cell.setAttribute("aria-sort", column === sorted ? (up ? "ascending" : "descending") : "none");
      cell.firstChild.textContent = heads[column] + (column === sorted ? (up ? " ▲" : " ▼") : "");
    });
    body.replaceChildren();
    for (const row of kept.slice(0, limit)) {
      const line = element("tr", body);
      row.forEach((value, column) => {
        const decimals = run.decimals[column - 1];
        const shown = value === null ? "–" : typeof value === "number" ? value.toFixed(decimals).replace("-", "−") : String(value);
        if (withText && column === heads.length - 1) {
          const text = element("div", element("td", line, undefined, "text"), shown, "clamped");
          text.title = shown;
        } else {
          element("td", line, shown, typeof value === "string" ? "name" : "");
        }
      });
    }
    const left = run.total > rows.length ? "; the first " + rows.length + " of " + run.total + " rows, all are in examples.csv" : "";
    count.textContent = Math.min(limit, kept.length) + " of " + kept.length + " rows" + left;
    more.hidden = kept.length <= limit;
  }
  draw();
}

const runs = JSON.parse(document.getElementById("data").textContent);
for (const run of runs) show(run, document.getElementById("tables"), runs.length > 1);

// A table that goes on to the right says so.
for (const box of document.querySelectorAll(".wide, .examples")) {
  const look = () => box.classList.toggle("goes-on", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
  box.addEventListener("scroll", look, { passive: true });
  new ResizeObserver(look).observe(box);
}
