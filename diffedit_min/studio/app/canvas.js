// The mask over its picture, one value for each latent cell, to paint on. Python's side is canvas.py.
// A cell is a digit: found + 2 * own. found: 0 or 1. own: 0 (as it was found), 1 (painted) or 2 (erased).
const find = name => element.querySelector(name);
const canvas = find("canvas"), pen = canvas.getContext("2d"), brush = find(".brush"), size = find("input");
const FOUND = "rgba(235, 0, 120, .6)", PAINTED = "rgba(255, 150, 0, .65)";
let cells = [], rows = 0, columns = 0, past = [], own = 1, at = [0, 0], stroke = false, written = null;

const isOn = cell => cell < 2 ? cell === 1 : cell < 4;
const withOwn = (cell, own) => (cell & 1) + 2 * own;

function draw() {
  pen.clearRect(0, 0, columns, rows);
  cells.forEach((cell, i) => {
    pen.fillStyle = cell < 2 ? FOUND : PAINTED;
    if (isOn(cell)) pen.fillRect(i % columns, Math.floor(i / columns), 1, 1);
  });
  const count = wanted => cells.filter(wanted).length;
  find(".says").textContent = !cells.length ? "" : `The mask covers ${count(isOn)} of ${cells.length} cells: ` +
    `${count(cell => cell === 1)} found, ${count(cell => cell >> 1 === 1)} painted, ${count(cell => cell === 5)} erased.`;
  find("[data-do=undo]").disabled = !past.length;
  find("[data-do=found]").disabled = !cells.some(cell => cell > 1);
}

function showBrush() {
  const side = Number(size.value), corner = at.map(place => Math.floor(place - (side - 1) / 2));
  find("output").textContent = side;
  const [width, height] = [100 * props.across / columns, 100 * props.down / rows];   // of a cell: % of the picture
  Object.assign(brush.style, { left: `${corner[0] * width}%`, top: `${corner[1] * height}%`,
    width: `${side * width}%`, height: `${side * height}%` });
  return { side, corner };
}

function dab() {
  const { side, corner } = showBrush();
  for (let y = Math.max(0, corner[1]); y < Math.min(rows, corner[1] + side); y++)
    for (let x = Math.max(0, corner[0]); x < Math.min(columns, corner[0] + side); x++)
      cells[y * columns + x] = withOwn(cells[y * columns + x], own);
  draw();
}

function write() {      // for Python
  const lines = Array.from({ length: rows }, (_, y) => cells.slice(y * columns, (y + 1) * columns).join(""));
  props.value = written = lines.join("/");
}

function read() {       // from Python: a new start after "=", else what was found, and what was painted stays
  const text = props.value || "", sent = text.replace("=", "").split("/").map(line => [...line].map(Number));
  const goesOn = !text.startsWith("=") && sent.length === rows && sent[0].length === columns;
  if (!goesOn) past = [];
  cells = sent.flat().map((cell, i) => goesOn && cell < 2 ? withOwn(cell, cells[i] >> 1) : cell);
  [rows, columns] = [cells.length && sent.length, sent[0].length];
  if (!goesOn) {
    [canvas.width, canvas.height] = [columns, rows];
    at = [columns >> 1, rows >> 1];
    size.max = Math.max(3, Math.ceil(Math.max(rows, columns) / 4));
    size.value = Math.max(1, Math.round(Math.max(rows, columns) / 10));
  }
  show();
  write();
}

function show() {
  const frame = find(".frame");
  element.querySelector(".mask").classList.toggle("empty", !props.picture);
  if (props.picture) find("img").src = props.picture;
  Object.assign(frame.style, { aspectRatio: props.aspect, maxWidth: `${430 * props.aspect}px` });
  Object.assign(canvas.style, { width: `${100 * props.across}%`, height: `${100 * props.down}%` });
  showBrush();
  draw();
}

function step(change) {     // one that can be undone
  past.push(cells.map(cell => cell >> 1));
  change();
  draw();
  write();
}

function undo() {
  if (!past.length) return;
  const before = past.pop();
  cells = cells.map((cell, i) => withOwn(cell, before[i]));
  draw();
  write();
}

function begin() {
  past.push(cells.map(cell => cell >> 1));
  stroke = true;
  dab();
}

function end() {
  if (stroke) write();
  stroke = false;
}

function placeOf(event) {
  const box = canvas.getBoundingClientRect();
  return [Math.floor((event.clientX - box.left) / box.width * columns),
    Math.floor((event.clientY - box.top) / box.height * rows)];
}

function moveTo(place) {        // by all cells between, as a fast pointer leaves some out
  const from = at, steps = Math.max(1, Math.abs(place[0] - from[0]), Math.abs(place[1] - from[1]));
  for (let i = stroke ? 1 : steps; i <= steps; i++) {
    at = [0, 1].map(axis => Math.round(from[axis] + (place[axis] - from[axis]) * i / steps));
    if (stroke) dab(); else showBrush();
  }
}

canvas.addEventListener("pointerdown", event => {
  if (event.button || !event.isPrimary || !cells.length) return;
  canvas.setPointerCapture(event.pointerId);
  at = placeOf(event);
  begin();
});
canvas.addEventListener("pointermove", event => { if (cells.length && event.isPrimary) moveTo(placeOf(event)); });
for (const name of ["pointerup", "pointercancel", "blur"]) canvas.addEventListener(name, end);

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
canvas.addEventListener("keydown", event => {
  const arrow = ARROWS[event.key];
  if (!cells.length || !(arrow || event.key === " " || event.key === "z" && (event.ctrlKey || event.metaKey))) return;
  event.preventDefault();
  if (arrow) moveTo([0, 1].map(axis => Math.min(Math.max(at[axis] + arrow[axis], 0), [columns, rows][axis] - 1)));
  else if (event.key === "z") undo();
  else if (!stroke) begin();
});

canvas.addEventListener("keyup", event => { if (event.key === " ") end(); });

const ACTIONS = {
  undo,
  found: () => step(() => cells = cells.map(cell => cell & 1)),
  clear: () => step(() => cells = cells.map(cell => withOwn(cell, 2))),
  invert: () => step(() => cells = cells.map(cell => withOwn(cell, isOn(cell) ? 2 : 1))),
};
element.addEventListener("click", event => {
  const button = event.target.closest("[data-do]"), tool = event.target.closest("[data-own]");
  if (button && cells.length) ACTIONS[button.dataset.do]();
  if (!tool) return;
  own = Number(tool.dataset.own);
  for (const each of element.querySelectorAll("[data-own]")) each.setAttribute("aria-pressed", each === tool);
});
size.addEventListener("input", showBrush);
watch(["value", "picture", "aspect", "across", "down"], () => { if (props.value !== written) read(); else show(); });
read();
