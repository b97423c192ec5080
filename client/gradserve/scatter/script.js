"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const canvas = document.getElementById("canvas"), card = document.getElementById("card");
const thumbnail = document.getElementById("thumbnail"), legend = document.getElementById("legend");
const pen = canvas.getContext("2d");
const REACH = 14;  // Pixels from a point within which the pointer shows it.
const BORDER = 28;  // Pixels around all points when all are shown.
const MOST_ZOOM = 400;

// Every picture: its place, label (-1 for none), name, remark, and whether it was sent with the request.
const all = [
  ...data.points.map(([x, y, label, name]) => ({x, y, label, name, remark: "", sent: false})),
  ...data.pictures.map(([x, y, label, name, remark]) => ({x, y, label, name, remark, sent: true})),
].map((each, cell) => ({...each, cell}));
const hidden = new Set();  // Labels that are switched off.
let sentShown = true, current = null;
let scale = 1, left = 0, top_ = 0, least = 1;  // A place (x, y) is drawn at (x * scale + left, top_ - y * scale).

const sheet = new Image();
sheet.addEventListener("load", () => current && show(current));
if (data.sheet.url) sheet.src = data.sheet.url;

const across = each => each.x * scale + left;
const down = each => top_ - each.y * scale;
const colour = label => label < 0 ? data.no_label : data.colours[label];
const className = label => label < 0 ? "no label" : data.classes[label];
const visible = each => !hidden.has(each.label) && (!each.sent || sentShown);

function fit() {
  if (!all.length) return;
  const xs = all.map(each => each.x), ys = all.map(each => each.y);
  const low = (values, start) => values.reduce((a, b) => Math.min(a, b), start);
  const high = (values, start) => values.reduce((a, b) => Math.max(a, b), start);
  const [x0, x1, y0, y1] = [low(xs, Infinity), high(xs, -Infinity), low(ys, Infinity), high(ys, -Infinity)];
  const {clientWidth: width, clientHeight: height} = canvas;
  scale = Math.min((width - 2 * BORDER) / (x1 - x0 || 1), (height - 2 * BORDER) / (y1 - y0 || 1));
  least = scale / 2;
  left = width / 2 - (x0 + x1) / 2 * scale;
  top_ = height / 2 + (y0 + y1) / 2 * scale;
}

function draw() {
  const ratio = window.devicePixelRatio || 1, {clientWidth: width, clientHeight: height} = canvas;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  const ink = getComputedStyle(document.documentElement).getPropertyValue("--ink");
  const radius = Math.min(7, 2.6 * Math.sqrt(Math.max(1, scale / least / 4)));
  for (const each of all) if (!each.sent && visible(each)) dot(each, radius, 0, ink);
  for (const each of all) if (each.sent && visible(each)) dot(each, radius + 3, 2, ink);
  if (current && visible(current)) {
    pen.beginPath();
    pen.arc(across(current), down(current), radius + 6, 0, 7);
    pen.strokeStyle = ink;
    pen.lineWidth = 2;
    pen.stroke();
  }
}

function dot(each, radius, line, ink) {
  pen.beginPath();
  pen.arc(across(each), down(each), radius, 0, 7);
  pen.globalAlpha = line ? 1 : 0.8;
  pen.fillStyle = colour(each.label);
  pen.fill();
  pen.globalAlpha = 1;
  if (line) {
    pen.strokeStyle = ink;
    pen.lineWidth = line;
    pen.stroke();
  }
}

let waiting = false;
function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; draw(); });
}

function show(each) {
  current = each;
  card.hidden = !each;
  if (each) {
    document.getElementById("name").textContent = each.name;
    const known = each.sent ? `sent; by its neighbours: ${className(each.label)}` : className(each.label);
    document.getElementById("class").textContent = each.remark ? `${known} (${each.remark})` : known;
    const {side, columns} = data.sheet;
    thumbnail.hidden = !side || !sheet.complete;
    if (!thumbnail.hidden) {
      thumbnail.width = thumbnail.height = side;
      const from = [each.cell % columns * side, Math.floor(each.cell / columns) * side];
      thumbnail.getContext("2d").drawImage(sheet, ...from, side, side, 0, 0, side, side);
    }
    place(each);
  }
  redraw();
}

// Beside the point, on the side where there is room.
function place(each) {
  const x = across(each), y = down(each), {clientWidth: width, clientHeight: height} = canvas;
  const after = x + 14 + card.offsetWidth < width ? x + 14 : x - 14 - card.offsetWidth;
  card.style.left = `${Math.max(4, Math.min(width - card.offsetWidth - 4, after))}px`;
  card.style.top = `${Math.max(4, Math.min(height - card.offsetHeight - 4, y - card.offsetHeight / 2))}px`;
}

function near(x, y) {
  let best = null, least = REACH * REACH;
  for (const each of all) {
    if (!visible(each)) continue;
    const distance = (across(each) - x) ** 2 + (down(each) - y) ** 2 - (each.sent ? 40 : 0);
    if (distance < least) [best, least] = [each, distance];
  }
  return best;
}

function zoom(factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
  const wanted = Math.min(Math.max(scale * factor, least), least * MOST_ZOOM), ratio = wanted / scale;
  left = x - (x - left) * ratio;
  top_ = y - (y - top_) * ratio;
  scale = wanted;
  if (current) place(current);
  redraw();
}

function at(event) {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

canvas.addEventListener("wheel", event => {
  event.preventDefault();
  zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), ...at(event));
}, {passive: false});

const fingers = new Map();  // Pointers that are down, with where they are.
canvas.addEventListener("pointerdown", event => {
  fingers.set(event.pointerId, at(event));
  canvas.setPointerCapture?.(event.pointerId);
  if (event.pointerType !== "mouse") show(near(...at(event)));
});
canvas.addEventListener("pointermove", event => {
  const [x, y] = at(event), before = fingers.get(event.pointerId);
  if (!before) {
    show(near(x, y));
    return;
  }
  const other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
  if (other) {
    const spread = Math.hypot(before[0] - other[0], before[1] - other[1]);
    zoom(Math.hypot(x - other[0], y - other[1]) / (spread || 1), (x + other[0]) / 2, (y + other[1]) / 2);
  } else {
    left += x - before[0];
    top_ += y - before[1];
    if (current) place(current);
    redraw();
  }
  fingers.set(event.pointerId, [x, y]);
});
for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, e => fingers.delete(e.pointerId));
canvas.addEventListener("pointerleave", event => { if (event.pointerType === "mouse") show(null); });

// The nearest picture in the direction of an arrow key, those straight ahead first.
const ARROWS = {ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
function step([dx, dy]) {
  const x = current ? across(current) : canvas.clientWidth / 2, y = current ? down(current) : canvas.clientHeight / 2;
  let best = null, least = Infinity;
  for (const each of all) {
    if (each === current || !visible(each)) continue;
    const ahead = (across(each) - x) * dx + (down(each) - y) * dy;
    const aside = Math.abs((across(each) - x) * dy) + Math.abs((down(each) - y) * dx);
    if (ahead > 0 && ahead + 3 * aside < least) [best, least] = [each, ahead + 3 * aside];
  }
  if (!best) return;
  const margin = 20;
  left += Math.max(0, margin - across(best)) - Math.max(0, across(best) - canvas.clientWidth + margin);
  top_ += Math.max(0, margin - down(best)) - Math.max(0, down(best) - canvas.clientHeight + margin);
  show(best);
}
canvas.addEventListener("focus", () => { if (!current && !fingers.size) step(ARROWS.ArrowRight); });
canvas.addEventListener("keydown", event => {
  if (ARROWS[event.key]) step(ARROWS[event.key]);
  else if (event.key === "+" || event.key === "=") zoom(1.4);
  else if (event.key === "-") zoom(1 / 1.4);
  else if (event.key === "Escape") show(null);
  else return;
  event.preventDefault();
});
document.getElementById("in").addEventListener("click", () => zoom(1.6));
document.getElementById("out").addEventListener("click", () => zoom(1 / 1.6));
document.getElementById("all").addEventListener("click", () => { fit(); show(null); });

function button(text, count, kind, pressed, click) {
  const each = document.createElement("button");
  each.type = "button";
  each.className = kind;
  each.append(text);
  if (count !== null) each.append(Object.assign(document.createElement("i"), {textContent: count}));
  each.setAttribute("aria-pressed", pressed());
  each.addEventListener("click", () => {
    click();
    for (const other of legend.children) other.setAttribute("aria-pressed", other.pressed());
    if (current && !visible(current)) show(null);
    redraw();
  });
  each.pressed = pressed;
  legend.append(each);
  return each;
}

const counts = new Map();
for (const each of all) counts.set(each.label, (counts.get(each.label) || 0) + 1);
const labels = [...counts.keys()].sort((a, b) => a - b);
if (labels.length > 1) {
  const every = () => (hidden.size ? hidden.clear() : labels.forEach(label => hidden.add(label)));
  button("all classes", null, "every", () => !hidden.size, every);
}
if (data.pictures.length) {
  button("sent pictures", data.pictures.length, "sent", () => sentShown, () => { sentShown = !sentShown; });
}
for (const label of labels) {
  const turn = () => (hidden.has(label) ? hidden.delete(label) : hidden.add(label));
  button(className(label), counts.get(label), "", () => !hidden.has(label), turn).style.setProperty("--c", colour(label));
}

fit();
draw();
new ResizeObserver(() => { fit(); if (current) place(current); redraw(); }).observe(canvas);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
