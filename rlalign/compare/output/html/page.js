"use strict";
// A table that is wider than the screen says so, and fades where it goes on.
for (const box of document.querySelectorAll(".scroll")) {
  const look = () => {
    box.classList.toggle("wide", box.scrollWidth > box.clientWidth + 1);
    box.classList.toggle("more", box.scrollWidth - box.clientWidth - box.scrollLeft > 1);
  };
  box.addEventListener("scroll", look, { passive: true });
  new ResizeObserver(look).observe(box);
}
// Hovering over a curve, or tapping on it, shows the numbers at the nearest point. Everything that it needs is in the picture's data-hover.
(() => {
  const tip = document.body.appendChild(document.createElement("div"));
  tip.id = "tip";
  const show = (v) => (v == null ? "–" : Math.abs(v) >= 1000 ? Math.round(v).toLocaleString("en") : v.toFixed(3)).replace("-", "−");
  for (const svg of document.querySelectorAll("svg[data-hover]")) {
    const data = JSON.parse(svg.dataset.hover), [left, right, top, bottom] = data.box;
    const cross = svg.appendChild(document.createElementNS(svg.namespaceURI, "line"));
    cross.setAttribute("class", "cross");
    cross.setAttribute("y1", top);
    cross.setAttribute("y2", bottom);
    const hide = () => { tip.style.visibility = cross.style.visibility = "hidden"; };
    // A finger leaves as soon as it has tapped: what it asked for stays until it taps elsewhere.
    svg.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hide(); });
    document.addEventListener("pointerdown", hide, true); // on its way in, before the picture that was tapped shows its own
    const look = (event) => {
      const box = svg.getBoundingClientRect();
      const unit = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
      const x = data.x[0] + (unit - left) / (right - left) * (data.x[1] - data.x[0]);
      if (unit < left - 6 || unit > right + 6) return hide();
      let at = null;
      tip.replaceChildren();
      for (const s of data.series) {
        let best = -1;
        s.x.forEach((v, i) => { if (s.y[i] != null && (best < 0 || Math.abs(v - x) < Math.abs(s.x[best] - x))) best = i; });
        if (best < 0) continue;
        if (at == null || Math.abs(s.x[best] - x) < Math.abs(at - x)) at = s.x[best];
        const row = tip.appendChild(document.createElement("div"));
        const name = row.appendChild(document.createElement("b")), value = row.appendChild(document.createElement("span"));
        name.className = s.colour;
        name.textContent = s.name;
        const ci = s.low[best] == null ? "" : ` [${show(s.low[best])}, ${show(s.high[best])}]`;
        value.textContent = show(s.y[best]) + ci;
      }
      if (at == null) return hide();
      const head = document.createElement("div");
      head.textContent = `${show(at)} ${data.label}`;
      tip.prepend(head);
      const px = left + (at - data.x[0]) / (data.x[1] - data.x[0]) * (right - left);
      cross.setAttribute("x1", px);
      cross.setAttribute("x2", px);
      tip.style.visibility = cross.style.visibility = "visible";
      const width = tip.offsetWidth, gap = 14;
      const beside = event.clientX + gap + width > document.documentElement.clientWidth ? event.clientX - gap - width : event.clientX + gap;
      tip.style.left = `${Math.max(4, beside)}px`;
      tip.style.top = `${Math.max(4, event.clientY - tip.offsetHeight - 10)}px`;
    };
    for (const kind of ["pointermove", "pointerdown"]) svg.addEventListener(kind, look);
  }
})();
