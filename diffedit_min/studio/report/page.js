"use strict";

// A slider does `change` at once and whenever it moves; `change` returns what to say beside it.
function slides(slider, change) {
  const moved = () => {
    const said = change(Number(slider.value));
    slider.parentElement.querySelector("output").textContent = said;
    slider.setAttribute("aria-valuetext", said);
  };
  slider.addEventListener("input", moved);
  moved();
}

// The film: one frame at a time; played, each is shown for a while, and the first one comes after the last.
const film = document.getElementById("film");
if (film) {
  const frames = document.querySelectorAll(".frame"), play = document.getElementById("play");
  slides(film, (now) => {
    frames.forEach((frame, i) => frame.classList.toggle("now", i === now));
    return frames[now].dataset.level;
  });
  let playing = 0;
  const stop = () => {
    playing = clearInterval(playing) ?? 0;
    play.textContent = "Play";
  };
  play.addEventListener("click", () => {
    if (playing) return stop();
    play.textContent = "Pause";
    playing = setInterval(() => {
      film.value = (Number(film.value) + 1) % frames.length;
      film.dispatchEvent(new Event("input"));
    }, 700);
  });
  film.addEventListener("pointerdown", stop);
  film.addEventListener("keydown", stop);
}

// A tooltip that covers something goes away with Escape.
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && document.activeElement.matches(".tip")) document.activeElement.blur();
});

// The mask, cut again from the map by mask.py's own rule: map > threshold, in float32.
const box = document.querySelector(".threshold");
if (box) {
  const map = new Float32Array(Uint8Array.from(atob(box.dataset.map), (letter) => letter.charCodeAt(0)).buffer);
  const columns = Number(box.dataset.columns), [wide, high] = box.dataset.cell.split(" ").map(Number);
  const input = document.querySelector(".wipe img"), drawn = box.querySelector("img");
  const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
  const [width, height] = ["width", "height"].map((side) => Number(input.getAttribute(side)));     // in its own pixels
  const enlarged = Math.max(1, Math.ceil(512 / Math.max(width, height)));
  [canvas.width, canvas.height] = [width * enlarged, height * enlarged];
  canvas.setAttribute("role", "img");
  const line = Math.max(2, canvas.width / 200);

  function draw(cut) {
    const outside = (x, y) => 0 <= x && x < columns && map[y * columns + x] <= cut;     // beyond the picture: false
    pen.imageSmoothingEnabled = false;
    pen.drawImage(input, 0, 0, canvas.width, canvas.height);
    map.forEach((value, i) => {
      const [x, y] = [i % columns, Math.floor(i / columns)];
      const [left, right] = [x, x + 1].map((side) => Math.round(side * wide * canvas.width));
      const [top, bottom] = [y, y + 1].map((side) => Math.round(side * high * canvas.height));
      pen.fillStyle = outside(x, y) ? "rgba(0, 0, 0, 0.6)" : "rgb(255, 230, 0)";
      if (outside(x, y)) pen.fillRect(left, top, right - left, bottom - top);
      else for (const [dx, dy] of [[-1, 0], [1, 0], [0, -1], [0, 1]]) {       // the mask's outline
        if (outside(x + dx, y + dy)) pen.fillRect(dx > 0 ? right - line : left, dy > 0 ? bottom - line : top,
                                                  dx ? line : right - left, dy ? line : bottom - top);
      }
    });
  }

  const bars = box.querySelectorAll("rect"), mark = box.querySelector("line");
  input.decode().then(() => {
    drawn.replaceWith(canvas);
    slides(document.getElementById("cut"), (threshold) => {
      const cut = Math.fround(threshold), covered = map.filter((value) => value > cut).length / map.length;
      draw(cut);
      bars.forEach((bar, i) => bar.classList.toggle("above", i / bars.length >= threshold));
      mark.setAttribute("x1", 400 * threshold);
      mark.setAttribute("x2", 400 * threshold);
      const said = `${threshold.toFixed(2)} covers ${(100 * covered).toFixed(1)} %`;
      canvas.setAttribute("aria-label", `The input picture, darkened but for the mask, which at ${said} of it`);
      box.querySelector("figcaption").textContent = `the mask over the input: ${said} of it`;
      return said;
    });
  });
}
