"use strict";
(() => {
  const $ = (s, r = document) => r.querySelector(s), $$ = (s, r = document) => [...r.querySelectorAll(s)];
  const grid = $("#grid"), say = $("#say"), find = $("#find"), model = $("#model"), only = $("#only"), shown = $("#shown");
  const rows = grid ? $$("tbody tr", grid) : [], parts = $$("details[data-device]");
  // One cell is in the tab order; arrows move it (WAI-ARIA grid pattern).
  let here = grid && $("tbody td", grid);
  if (here) here.tabIndex = 0;
  const tell = cell => {
    const row = cell.parentElement, day = $("thead tr", grid).children[cell.cellIndex].dataset.day;
    say.textContent = row.dataset.device + ", " + day + ": " + (cell.dataset.say || "nothing arrived");
    cell.setAttribute("aria-label", say.textContent); // read out as the cell is reached
  };
  const go = cell => { if (!cell || cell.tagName !== "TD") return; here.tabIndex = -1; here = cell; cell.tabIndex = 0; cell.focus(); cell.scrollIntoView({block: "nearest", inline: "nearest"}); tell(cell); };
  const visible = () => rows.filter(r => !r.hidden);
  if (grid) {
    grid.addEventListener("keydown", e => {
      const cell = e.target.closest("td"); if (!cell) return;
      const row = cell.parentElement, list = visible(), i = list.indexOf(row), n = cell.cellIndex;
      const move = {ArrowRight: () => cell.nextElementSibling, ArrowLeft: () => cell.previousElementSibling,
        ArrowDown: () => (list[i + 1] || row).cells[n], ArrowUp: () => (list[i - 1] || row).cells[n],
        Home: () => row.cells[1], End: () => row.cells[row.cells.length - 1],
        PageDown: () => list[Math.min(list.length - 1, i + 10)].cells[n], PageUp: () => list[Math.max(0, i - 10)].cells[n]}[e.key];
      if (move) { e.preventDefault(); go(move()); }
      else if (e.key === "Enter" || e.key === " ") { e.preventDefault(); open(row.dataset.device); }
    });
    grid.addEventListener("click", e => { const cell = e.target.closest("td"); if (cell) { go(cell); } });
    grid.addEventListener("focusin", e => { const cell = e.target.closest("td"); if (cell) tell(cell); });
  }
  const open = name => { const part = parts.find(p => p.dataset.device === name); if (part) { part.open = true; $("summary", part).focus(); part.scrollIntoView({block: "start"}); } };
  const filter = () => {
    const text = find.value.trim().toLowerCase(), want = model.value;
    let count = 0;
    for (const item of [...rows, ...parts]) {
      const hit = (!text || item.dataset.device.toLowerCase().includes(text)) && (!want || item.dataset.models.split(" ").includes(want)) && (!only.checked || item.dataset.doubt === "1");
      item.hidden = !hit;
      if (hit && item.tagName === "DETAILS") count++;
    }
    shown.textContent = count + " of " + parts.length + " devices shown";
    if (here && here.parentElement.hidden && visible().length) { here.tabIndex = -1; here = visible()[0].cells[1]; here.tabIndex = 0; }
    const state = new URLSearchParams(); if (text) state.set("device", text); if (want) state.set("model", want); if (only.checked) state.set("only", "1");
    try { history.replaceState(null, "", state.toString() ? "#" + state : "#"); } catch { /* a file opened in a sandbox */ }
  };
  if (find) {
    const state = new URLSearchParams(location.hash.slice(1));
    find.value = state.get("device") || ""; model.value = state.get("model") || ""; only.checked = state.get("only") === "1";
    for (const item of [find, model, only]) item.addEventListener("input", filter);
    filter();
  }
  let closed = [];
  addEventListener("beforeprint", () => { closed = parts.filter(p => !p.open && !p.hidden); if (closed.length <= 60) closed.forEach(p => p.open = true); });
  addEventListener("afterprint", () => closed.forEach(p => p.open = false));
})();
