// What the browser does by itself. Python's side is page.py.

function fieldOf(where) {
  return document.querySelector(`${where} textarea, ${where} input`);
}

function takeWord(event) {      // a word that the model knows was clicked: it goes in place of the last of its kind
  const chosen = event.target.closest("button");
  if (!chosen) return;
  const field = fieldOf("#query"), kind = [...chosen.parentElement.querySelectorAll("button")];
  const words = kind.flatMap(button => [button.innerText, button.innerText.replace(/^a /, "")]);
  const found = [...field.value.matchAll(new RegExp(`\\b(${words.join("|")})\\b`, "gi"))].at(-1);
  field.value = !found ? `${field.value} ${chosen.innerText}`.trim() :
    field.value.slice(0, found.index) + chosen.innerText + field.value.slice(found.index + found[0].length);
  field.dispatchEvent(new Event("input", { bubbles: true }));
}

let tab = null;     // of the report; only a click may open one, so it is open before the report is there

function openTab() {
  tab = window.open("", "_blank");
  if (tab) tab.document.write("<title>DiffEdit</title>The report is being made.");
}

async function showReport(file) {
  if (!tab) return;
  if (!file) return tab.close();
  const page = await (await fetch(file.url)).blob();
  tab.location = URL.createObjectURL(new Blob([page], { type: "text/html" }));
}

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    say('<div role="status" class="said">Copied.</div>');
  } catch {         // some browsers allow it on https pages only
    say('<div role="status" class="said">This browser lets no page copy here: mark the text below "What makes this result again".</div>');
  }
}

function checkSize(event) {     // before a file is sent
  const file = (event.dataTransfer || event.target).files?.[0];
  if (!file || file.size <= MEGABYTES * 2 ** 20) return;
  event.stopPropagation();
  event.preventDefault();
  const line = document.createElement("div");
  line.setAttribute("role", "alert");
  line.className = "problem";
  line.textContent = `${file.name} has ${(file.size / 2 ** 20).toFixed(1)} MB, more than the ${MEGABYTES} MB that ` +
    "this page takes: make the picture smaller first.";
  say(line.outerHTML);
}

for (const name of ["change", "drop"]) document.addEventListener(name, checkSize, true);
