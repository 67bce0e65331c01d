// Follows runs that are being written: requests the runs' version, and where that is new replaces the parts of the page that changed.
"use strict";
(() => {
  const EVERY = 2000; // milliseconds
  const progress = document.getElementById("follow");
  const trouble = document.getElementById("follow-trouble"); // read out, which progress is not: it changes all the time
  const served = new Map(); // id of a part of the page: its HTML as it came

  const parts = (root) => [...root.querySelectorAll("[data-live]")];
  const show = (place, text) => { if (place.textContent !== text) place.textContent = text; };

  // How to find again what has the focus, when the part that it is in is replaced.
  const again = (element) => (element.id ? `#${CSS.escape(element.id)}` : element.hasAttribute("href") ? `a[href="${CSS.escape(element.getAttribute("href"))}"]` : "");

  const replace = async () => {
    const answer = await fetch(location.pathname, { cache: "no-store" });
    if (!answer.ok) throw new Error(`the server says ${answer.status}`);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    vlarig.version = fresh.querySelector("meta[name=vlarig-version]").content;
    vlarig.forget();
    for (const part of parts(fresh)) {
      const here = document.getElementById(part.id);
      if (!here || served.get(part.id) === part.innerHTML) continue;
      served.set(part.id, part.innerHTML);
      const focused = here.contains(document.activeElement) ? again(document.activeElement) : "";
      const scrolled = [...here.querySelectorAll(".wide")].map((box) => box.scrollLeft);
      here.replaceChildren(...[...part.childNodes].map((node) => document.importNode(node, true)));
      document.dispatchEvent(new CustomEvent("vlarig:replaced"));
      here.querySelectorAll(".wide").forEach((box, index) => { box.scrollLeft = scrolled[index] || 0; });
      if (focused) here.querySelector(focused)?.focus({ preventScroll: true });
    }
    document.dispatchEvent(new CustomEvent("vlarig:changed"));
  };

  const poll = async () => {
    try {
      const answer = await fetch("version", { cache: "no-store" });
      if (!answer.ok) throw new Error(`the server says ${answer.status}`);
      const { version, progress: text } = await answer.json();
      if (version !== vlarig.version) await replace();
      show(progress, text);
      show(trouble, "");
    } catch {
      show(trouble, "The server does not answer; trying again.");
    }
    setTimeout(poll, EVERY);
  };

  poll();
})();
