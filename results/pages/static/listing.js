// A long list as a table that sorts, narrowed by a form, a page at a time.
"use strict";
(() => {
  const { element } = vlarig;
  const PAGE = 50;

  // options: table, form, pager and status (elements); columns: [{ name, heading, number, value(row), cell(row) }]; keeps(row, form);
  // rendered(rows), where it is given, gets the rows of the page that is shown.
  vlarig.listing = ({ table, form, pager, status, columns, keeps, noun, rendered = () => {} }) => {
    const query = vlarig.place().query;
    let rows = [];
    let shown = [];
    let column = Math.max(0, columns.findIndex((each) => each.name === query.get("sort")));
    let descending = query.get("order") === "down";
    let page = Math.max(0, Number(query.get("page") || 1) - 1);

    const heads = columns.map((each, index) => {
      const button = element("button", { type: "button" }, each.heading);
      button.addEventListener("click", () => {
        descending = column === index ? !descending : false;
        column = index;
        page = 0;
        render();
      });
      return element("th", { scope: "col", class: each.number ? "number" : null }, button);
    });
    table.tHead.replaceChildren(element("tr", {}, ...heads));

    const number = element("input", { type: "number", min: 1, "aria-label": "Page" });
    const total = element("span", {});
    const turn = (text, target) => {
      const button = element("button", { type: "button" }, text);
      button.addEventListener("click", () => { if (button.getAttribute("aria-disabled") !== "true") { page = target(); render(); } });
      return button;
    };
    const last = () => Math.max(0, Math.ceil(shown.length / PAGE) - 1);
    const back = turn("Previous", () => page - 1);
    const on = turn("Next", () => page + 1);
    number.addEventListener("change", () => { page = Number(number.value || 1) - 1; render(); });
    pager.replaceChildren(back, element("label", {}, "Page ", number), total, on);

    const render = () => {
      const { value } = columns[column];
      shown = rows.filter((row) => keeps(row, form));
      shown.sort((one, other) => {
        const [a, b] = [value(one), value(other)];
        const order = typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
        return descending ? -order : order;
      });
      page = Math.min(Math.max(page, 0), last());
      const part = shown.slice(page * PAGE, (page + 1) * PAGE);
      table.tBodies[0].replaceChildren(...part.map((row) => element("tr", {}, ...columns.map((each, index) => {
        const cell = each.cell(row);
        return index ? element("td", { class: each.number ? "number" : null }, cell) : element("th", { scope: "row", class: each.number ? "number" : null }, cell);
      }))));
      heads.forEach((head, index) => {
        if (index === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
        else head.removeAttribute("aria-sort");
      });
      number.value = page + 1;
      number.max = last() + 1;
      total.textContent = `of ${vlarig.count(last() + 1)}`;
      back.setAttribute("aria-disabled", String(page === 0));
      on.setAttribute("aria-disabled", String(page >= last()));
      pager.hidden = shown.length <= PAGE;
      const text = shown.length === rows.length ? `${vlarig.count(rows.length)} ${noun}` : `${vlarig.count(shown.length)} of ${vlarig.count(rows.length)} ${noun}`;
      if (status.textContent !== text) status.textContent = text;
      rendered(part);
      remember();
    };

    const remember = () => {
      const now = new URLSearchParams();
      for (const field of form.elements) {
        const given = field.type === "checkbox" ? (field.checked ? "yes" : "") : field.value;
        if (field.name && given) now.set(field.name, given);
      }
      if (column || descending) { now.set("sort", columns[column].name); now.set("order", descending ? "down" : "up"); }
      if (page) now.set("page", page + 1);
      vlarig.remember(now);
    };

    for (const field of form.elements) {
      if (!field.name || !query.has(field.name)) continue;
      if (field.type === "checkbox") field.checked = true;
      else field.value = query.get(field.name);
    }
    form.onsubmit = (event) => event.preventDefault();
    form.oninput = () => { page = 0; render(); };
    return { show: (every) => { rows = every; render(); } };
  };
})();
