// Tables that are in the page: headings that sort, and forms that narrow them.
"use strict";
(() => {
  const sorted = new Map(); // id of a table: the column that it is sorted by, kept when the table is replaced

  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent.trim() : cell.dataset.value === "" ? null : Number(cell.dataset.value);
  };

  const compare = (one, other, descending) => {
    if (one === null || other === null) return (one === null) - (other === null); // without a number: last, either way
    const order = typeof one === "number" && typeof other === "number" ? one - other : String(one).localeCompare(String(other), "en", { numeric: true });
    return descending ? -order : order;
  };

  const sort = (table, column, descending) => {
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort((one, other) => compare(value(one, column), value(other, column), descending)));
    [...table.tHead.rows[0].cells].forEach((cell, index) => {
      if (index === column) cell.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    });
    if (table.dataset.sortable === "ranked") rank(table, column);
  };

  // The rank by the column that is sorted by, if that is one of numbers of which some are better.
  const rank = (table, column) => {
    const better = table.tHead.rows[0].cells[column].dataset.better;
    if (!better) return;
    const rows = [...table.tBodies[0].rows];
    const numbers = rows.map((row) => (row.cells[column].dataset.unranked === undefined ? value(row, column) : null));
    const alone = numbers.filter((number) => number !== null).length < 2;
    rows.forEach((row, index) => {
      const mine = alone ? null : numbers[index];
      const ahead = numbers.filter((other) => other !== null && (better === "higher" ? other > mine : other < mine)).length;
      row.cells[0].textContent = mine === null ? "–" : String(ahead + 1);
    });
  };

  const enhance = (table) => {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((cell, column) => {
      if (cell.querySelector("button") || (table.dataset.sortable === "ranked" && column === 0)) return;
      const button = vlarig.element("button", { type: "button", id: `${table.id}-sort-${column}` }, cell.textContent);
      button.addEventListener("click", () => {
        const now = cell.getAttribute("aria-sort");
        const descending = now ? now === "ascending" : cell.dataset.better === "higher" || (!cell.dataset.better && cell.classList.contains("number"));
        sorted.set(table.id, { column, descending });
        sort(table, column, descending);
      });
      cell.replaceChildren(button);
    });
    const first = heads.findIndex((cell) => cell.hasAttribute("data-first"));
    const known = sorted.get(table.id);
    if (known && known.column < heads.length) sort(table, known.column, known.descending);
    else if (first >= 0) heads[first].setAttribute("aria-sort", heads[first].dataset.better === "higher" ? "descending" : "ascending");
  };

  const narrow = (form) => {
    const table = document.getElementById(form.dataset.filters);
    const text = form.elements.text.value.trim().toLowerCase();
    const chosen = [...form.querySelectorAll("select")].filter((select) => select.value);
    const ranked = form.elements.ranked?.checked;
    const rows = [...table.tBodies[0].rows];
    for (const row of rows) {
      row.hidden = !row.textContent.toLowerCase().includes(text)
        || chosen.some((select) => row.dataset[select.name] !== select.value)
        || (ranked && !row.dataset.ranked);
    }
    const shown = rows.filter((row) => !row.hidden).length;
    const every = `${rows.length} ${rows.length === 1 ? "row" : "rows"}`;
    const count = shown === rows.length ? every : `${shown} of ${every}`;
    const status = form.querySelector("[role=status]");
    if (status.textContent !== count) status.textContent = count;
  };

  const begin = () => {
    document.querySelectorAll("table[data-sortable]").forEach(enhance);
    document.querySelectorAll("form[data-filters]").forEach((form) => {
      if (form.hidden) {
        form.hidden = false;
        form.addEventListener("submit", (event) => event.preventDefault());
        form.addEventListener("input", () => narrow(form));
      }
      narrow(form);
    });
  };
  begin();
  document.addEventListener("vlarig:replaced", begin);
})();
