"use strict";
// A table that is wider than the screen shows a hint, and fades at its right edge until it is scrolled to the end.
for (const box of document.querySelectorAll(".scroll")) {
  const update = () => {
    box.classList.toggle("wide", box.scrollWidth > box.clientWidth + 1);
    box.classList.toggle("more", box.scrollWidth - box.clientWidth - box.scrollLeft > 1);
  };
  box.addEventListener("scroll", update, { passive: true });
  new ResizeObserver(update).observe(box);
}
// Hovering over a curve, or tapping on it, shows the values at the nearest point, from the drawing's data-hover.
(() => {
  const tip = document.body.appendChild(document.createElement("div"));
  tip.id = "tip";
  const format = (v) => {
    if (v == null) return "–";
    const text = Math.abs(v) >= 1000 ? Math.round(v).toLocaleString("en") : v.toFixed(3);
    return text.replace("-", "−");
  };
  for (const svg of document.querySelectorAll("svg[data-hover]")) {
    const data = JSON.parse(svg.dataset.hover);
    const [left, right, top, bottom] = data.box;
    const cross = svg.appendChild(document.createElementNS(svg.namespaceURI, "line"));
    cross.setAttribute("class", "cross");
    cross.setAttribute("y1", top);
    cross.setAttribute("y2", bottom);
    const hide = () => { tip.style.visibility = cross.style.visibility = "hidden"; };
    // On a touch screen the pointer leaves at once after a tap: the values stay until the next tap elsewhere.
    svg.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hide(); });
    document.addEventListener("pointerdown", hide, true); // capture phase: before the tapped drawing shows its own values
    const showNearest = (event) => {
      const box = svg.getBoundingClientRect();
      const unit = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
      const x = data.x[0] + (unit - left) / (right - left) * (data.x[1] - data.x[0]);
      if (unit < left - 6 || unit > right + 6) return hide();
      let nearest = null;
      tip.replaceChildren();
      for (const s of data.series) {
        let best = -1;
        s.x.forEach((v, i) => { if (s.y[i] != null && (best < 0 || Math.abs(v - x) < Math.abs(s.x[best] - x))) best = i; });
        if (best < 0) continue;
        if (nearest == null || Math.abs(s.x[best] - x) < Math.abs(nearest - x)) nearest = s.x[best];
        const row = tip.appendChild(document.createElement("div"));
        const name = row.appendChild(document.createElement("b"));
        const value = row.appendChild(document.createElement("span"));
        name.className = s.color;
        name.textContent = s.name;
        const ci = s.low[best] == null ? "" : ` [${format(s.low[best])}, ${format(s.high[best])}]`;
        value.textContent = format(s.y[best]) + ci;
      }
      if (nearest == null) return hide();
      const head = document.createElement("div");
      head.textContent = `${format(nearest)} ${data.label}`;
      tip.prepend(head);
      const px = left + (nearest - data.x[0]) / (data.x[1] - data.x[0]) * (right - left);
      cross.setAttribute("x1", px);
      cross.setAttribute("x2", px);
      tip.style.visibility = cross.style.visibility = "visible";
      const width = tip.offsetWidth;
      const gap = 14; // pixels between pointer and values, which move to its left side at the right edge of the screen
      const after = event.clientX + gap;
      const beside = after + width > document.documentElement.clientWidth ? event.clientX - gap - width : after;
      tip.style.left = `${Math.max(4, beside)}px`;
      tip.style.top = `${Math.max(4, event.clientY - tip.offsetHeight - 10)}px`;
    };
    for (const kind of ["pointermove", "pointerdown"]) svg.addEventListener(kind, showNearest);
  }
})();
