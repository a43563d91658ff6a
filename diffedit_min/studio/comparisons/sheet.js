"use strict";

// Arrow keys: from the large cell, or from the one that has the focus, to its neighbours. Escape: back to all.
const wide = document.querySelector(".wide"), columns = Number(wide.dataset.columns);
const links = [...wide.querySelectorAll(".open")], places = links.map((link) => Number(link.hash.slice(6)));
const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };

function show(hash) {
  location.hash = hash;
  document.querySelector(hash).focus({ preventScroll: true });
}

document.addEventListener("keydown", (event) => {
  if (event.target.type === "range" || event.altKey || event.ctrlKey || event.metaKey) return;
  const large = location.hash.startsWith("#cell-"), focused = links.indexOf(document.activeElement);
  const now = large ? places.indexOf(Number(location.hash.slice(6))) : focused;
  if (now < 0) return;
  if (large && event.key === "Escape") {
    location.hash = "#sheet";
    links[now].focus();
  } else if (event.key in steps) {
    const next = places.indexOf(places[now] + steps[event.key]);
    if (next < 0) return;
    event.preventDefault();
    if (large) show(links[next].hash);
    else links[next].focus();
  }
});

links.forEach((link) => link.addEventListener("click", (event) => {
  event.preventDefault();
  show(link.hash);
}));
