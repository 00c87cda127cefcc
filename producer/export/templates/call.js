"use strict";
// Words know their times: the one that is spoken is marked, and a click on one plays from there.
const audio = document.getElementById("audio");
const wave = document.getElementById("wave");
const head = document.getElementById("head");
const find = document.getElementById("find");
const found = document.getElementById("found");
const durationMs = Number(wave.dataset.duration) || 1;
const words = Array.from(document.querySelectorAll(".w"), (element) => ({
  element, startMs: Number(element.dataset.s), endMs: Number(element.dataset.e),
}));
// Speakers talk at once: in order of time, and not of the page.
const byTime = words.slice().sort((a, b) => a.startMs - b.startMs);
const rows = Array.from(document.querySelectorAll("article"));
let marked = [];
let at = -1;

function seek(ms, play) {
  if (!audio) return;
  audio.currentTime = ms / 1000;
  if (play) audio.play();
  show();
}

// The last word that has begun by a moment.
function lastBegun(ms) {
  let low = 0;
  let high = byTime.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (byTime[middle].startMs <= ms) low = middle + 1; else high = middle;
  }
  return low - 1;
}

function show() {
  const ms = audio.currentTime * 1000;
  head.hidden = false;
  head.style.left = Math.min(100, 100 * ms / durationMs) + "%";
  const last = lastBegun(ms);
  const now = [];
  for (let i = last; i >= 0 && i > last - 8; i -= 1) {
    if (byTime[i].endMs > ms) now.push(byTime[i].element);
  }
  for (const element of marked) if (!now.includes(element)) element.classList.remove("now");
  for (const element of now) element.classList.add("now");
  if (now.length && now[0] !== marked[0] && !audio.paused) {
    const row = rows.indexOf(now[0].closest("article"));
    if (row !== at) { at = row; rows[row].scrollIntoView({ block: "nearest" }); }
  }
  marked = now;
}

function follow() {
  show();
  if (!audio.paused) requestAnimationFrame(follow);
}

if (audio) {
  audio.addEventListener("play", follow);
  audio.addEventListener("seeked", show);
}

document.addEventListener("click", (event) => {
  const target = event.target.closest(".w, .to");
  if (target) {
    seek(Number(target.dataset.s), true);
  } else if (wave.contains(event.target)) {
    const box = wave.getBoundingClientRect();
    seek((event.clientX - box.left) / box.width * durationMs, true);
  }
});

find.addEventListener("input", () => {
  const wanted = find.value.trim().toLowerCase();
  let hits = 0;
  let first = null;
  for (const word of words) {
    const hit = wanted !== "" && word.element.textContent.toLowerCase().includes(wanted);
    word.element.classList.toggle("hit", hit);
    if (hit) { hits += 1; first = first || word.element; }
  }
  // Several words: the utterances that hold them as they are written.
  if (wanted && !hits) {
    for (const row of rows) {
      const text = row.querySelector("p").textContent.toLowerCase();
      if (!text.includes(wanted)) continue;
      for (const element of row.querySelectorAll(".w")) element.classList.add("hit");
      hits += 1;
      first = first || row;
    }
  }
  found.textContent = wanted ? hits + " found" : "";
  if (first) first.scrollIntoView({ block: "center" });
});

function step(by) {
  at = Math.max(0, Math.min(rows.length - 1, at + by));
  const button = rows[at] && rows[at].querySelector(".to");
  if (!button) return;
  rows[at].scrollIntoView({ block: "nearest" });
  button.focus({ preventScroll: true });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") { document.activeElement.blur(); return; }
  if (/^(INPUT|SELECT|TEXTAREA|AUDIO)$/.test(event.target.tagName)) return;
  if (event.key === "/") { find.focus(); event.preventDefault(); return; }
  if (event.key === "j") step(1);
  if (event.key === "k") step(-1);
  if (!audio) return;
  if (event.key === "ArrowLeft") seek(Math.max(0, audio.currentTime * 1000 - 5000), false);
  if (event.key === "ArrowRight") seek(audio.currentTime * 1000 + 5000, false);
  if (event.key === " " && event.target.tagName !== "BUTTON") {
    if (audio.paused) audio.play(); else audio.pause();
    event.preventDefault();
  }
});
