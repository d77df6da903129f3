// The page: sliders in, SVG out. The numbers come from solvers.js and, where zoo computed them, from data.js.
"use strict";
const { dot, norm, add, times, product, eye, solve, iterate } = Solvers;
const $ = (id) => document.getElementById(id);
const INK = ["var(--a)", "var(--b)", "var(--c)", "var(--d)"];

// A plot: series of [x, y], linear or logarithmic in y.
function plot(id, series, { log = false, x = "", y = "", equal = null, marks = [] } = {}) {
  const W = 460, H = equal ? 460 : 300, L = 66, B = 40, T = 12, R = 12;
  const put = (v) => (log ? Math.log10(Math.max(v, 1e-17)) : v);
  const all = series.flatMap((s) => s.points).filter((p) => p.every(Number.isFinite));
  let [x0, x1] = equal || [Math.min(...all.map((p) => p[0])), Math.max(...all.map((p) => p[0]))];
  let [y0, y1] = equal || [Math.min(...all.map((p) => put(p[1]))), Math.max(...all.map((p) => put(p[1])))];
  if (log) [y0, y1] = [Math.floor(Math.max(y0, -16)), Math.ceil(Math.min(y1, 6))];
  if (x1 <= x0) x1 = x0 + 1;
  if (y1 <= y0) y1 = y0 + 1;
  if (!log && !equal) [y0, y1] = [y0 - 0.05 * (y1 - y0), y1 + 0.05 * (y1 - y0)];
  const px = (v) => L + ((v - x0) / (x1 - x0)) * (W - L - R);
  const py = (v) => H - B - ((Math.min(Math.max(put(v), y0 - 1), y1 + 1) - y0) / (y1 - y0)) * (H - B - T);
  const out = [`<clipPath id="${id}-clip"><rect x="${L}" y="${T}" width="${W - L - R}" height="${H - B - T}"/></clipPath>`];
  const step = log ? Math.max(1, Math.ceil((y1 - y0) / 6)) : (y1 - y0) / 4;
  for (let v = y0; v <= y1 + 1e-9; v += step) {
    const at = H - B - ((v - y0) / (y1 - y0)) * (H - B - T);
    out.push(`<line class="grid" x1="${L}" x2="${W - R}" y1="${at}" y2="${at}"/>`);
    out.push(`<text x="${L - 6}" y="${at + 4}" text-anchor="end">${log ? "1e" + v : +v.toPrecision(2)}</text>`);
  }
  for (let i = 0; i <= 4; i++) {
    const v = x0 + ((x1 - x0) * i) / 4;
    out.push(`<text x="${px(v)}" y="${H - B + 18}" text-anchor="middle">${+v.toPrecision(2)}</text>`);
  }
  out.push(`<text x="${(W + L) / 2}" y="${H - 4}" text-anchor="middle">${x}</text>`);
  out.push(`<text x="12" y="${(H - B) / 2}" transform="rotate(-90 12 ${(H - B) / 2})" text-anchor="middle">${y}</text>`);
  series.forEach((s, i) => {
    const ink = s.ink || INK[i % INK.length], good = s.points.filter((p) => p.every(Number.isFinite));
    const way = good.map((p) => `${px(p[0]).toFixed(1)},${py(p[1]).toFixed(1)}`);
    const inside = `clip-path="url(#${id}-clip)"`;
    if (!s.dots) out.push(`<polyline ${inside} points="${way.join(" ")}" fill="none" stroke="${ink}" stroke-width="1.8"
      ${s.dash ? 'stroke-dasharray="5 4"' : ""}/>`);
    if (s.dots !== false) good.forEach((p) => out.push(`<circle ${inside} cx="${px(p[0])}" cy="${py(p[1])}" r="2.6" fill="${ink}"/>`));
  });
  marks.forEach((p) => out.push(`<circle class="mark" cx="${px(p[0])}" cy="${py(p[1])}" r="7"/>`));
  $(id).innerHTML = `<svg viewBox="0 0 ${W} ${H}" role="img" aria-label="${y} against ${x}">${out.join("")}</svg>` +
    `<p class="legend">${series.filter((s) => s.name).map((s) => `<span style="--ink:${s.ink || INK[series.indexOf(s) % INK.length]}">${s.name}</span>`).join("")}</p>`;
}

// 1. A map of the plane: z = act(L Q z + b), Q a rotation, so that L is the contraction of the linear map.
const Q = DATA.plane.Q, BIAS = DATA.plane.b;
function plane(rate, bent) {
  const A = Q.map((row) => row.map((v) => v * rate));
  const inner = (z) => add(times(A, z), BIAS);
  const f = bent ? (z) => inner(z).map(Math.tanh) : inner;
  const slope = (z) => (bent ? inner(z).map((v) => 1 - Math.tanh(v) ** 2) : [1, 1]);
  return { A, f, slope, jacobian: (z) => { const d = slope(z); return A.map((row, i) => row.map((v) => v * d[i])); } };
}
function exact(map) {
  let best = null;
  for (const start of [[0, 0], [0.5, -0.5], [-0.7, 0.7]]) {
    const found = iterate(map.f, start, { solver: "newton", jacobian: map.jacobian, tolerance: 1e-14, most: 100 });
    if (found.result === "converged") return found.z;
    if (!best || found.residuals.at(-1) < best.residuals.at(-1)) best = found;
  }
  return best.z;
}

// The derivative of z* for b: implicit at a point, unrolled along the way, one step.
function gradients(map, points) {
  const n = points[0].length, z = points.at(-1), D = (p) => map.slope(p);
  const J = map.jacobian(z), I = eye(n);
  const scaled = (d) => eye(n).map((row, i) => row.map((v) => v * d[i]));
  const implicit = solve(I.map((row, i) => row.map((v, j) => v - J[i][j])), scaled(D(z)));
  let S = eye(n, 0);
  for (const p of points) {
    const d = D(p), AS = product(map.A, S);
    S = AS.map((row, i) => row.map((v, j) => d[i] * (v + I[i][j])));
  }
  return { implicit, unrolled: S, one: scaled(D(z)) };
}
const distance = (A, B) => Math.sqrt(A.reduce((s, row, i) => s + row.reduce((t, v, j) => t + (v - B[i][j]) ** 2, 0), 0));

function first() {
  const rate = +$("rate").value, solver = $("solver").value, window_ = +$("window").value, bent = $("bent").checked;
  $("rate-out").textContent = rate.toFixed(2);
  $("window-out").textContent = window_;
  $("window").disabled = solver !== "anderson";
  const map = plane(rate, bent), star = exact(map), start = DATA.plane.start;
  const run = iterate(map.f, start, { solver, window: window_, jacobian: map.jacobian });
  const plain = iterate(map.f, start, { solver: "picard", most: 1000 });
  const reach = Math.max(1.2, ...[...run.points, star].flat().map(Math.abs).filter((v) => v < 6)) * 1.05;
  plot("iterates", [{ points: run.points.map((p) => [p[0], p[1]]) }], { equal: [-reach, reach], marks: [star], x: "z1", y: "z2" });
  const curve = (r) => r.residuals.map((v, k) => [k + 1, v]);
  const shown = [{ name: solver, points: curve(run) }];
  if (solver !== "picard") shown.push({ name: "picard", points: curve(plain).slice(0, 60), dash: true, dots: false });
  plot("residuals", shown, { log: true, x: "evaluations of f", y: "relative residual" });
  $("first-says").textContent = run.result === "converged"
    ? `Converged after ${run.points.length} evaluations; plain iteration ${plain.result === "converged" ? "takes " + plain.points.length : "does not arrive"}.`
    : `Not solved (${run.result}): the residual is ${run.residuals.at(-1).toExponential(1)} after ${run.points.length} evaluations.`;

  const truth = gradients(map, [star]).implicit;
  const rows = { implicit: [], unrolled: [], "one step": [] };
  for (let e = 1; e <= 8; e++) {
    const at = iterate(map.f, start, { solver: "picard", tolerance: 10 ** -e, most: 400 });
    if (at.result !== "converged" || !truth) break;
    const found = gradients(map, at.points);
    for (const [name, key] of [["implicit", "implicit"], ["unrolled", "unrolled"], ["one step", "one"]])
      rows[name].push([e, distance(found[key], truth) / distance(truth, eye(2, 0))]);
  }
  const any = rows.implicit.length > 0;
  plot("gradient", any ? Object.entries(rows).map(([name, points]) => ({ name, points })) : [{ points: [[1, 1]] }],
    { log: true, x: "tolerance of the solve, 10^-x", y: "error of the gradient" });
  $("gradient-says").textContent = any ? "" : "Plain iteration does not arrive here, so there is no solve to differentiate.";
}

// 2. The linear equilibrium z = W z + b, W = rho Q diag(spread) Q^T.
function linear(rho) {
  const { basis, spread, b } = DATA.linear;
  const W = product(basis.map((row) => row.map((v, j) => v * rho * spread[j])), basis.map((_, i) => basis.map((row) => row[i])));
  return { W, b, f: (z) => add(times(W, z), b), star: solve(eye(b.length).map((row, i) => row.map((v, j) => v - W[i][j])), b) };
}
function second() {
  const rho = +$("radius").value, K = +$("unrolled").value;
  $("radius-out").textContent = rho.toFixed(2);
  $("unrolled-out").textContent = K;
  const { W, f, star, b } = linear(rho), zero = b.map(() => 0);
  const run = iterate(f, zero, { solver: "picard", tolerance: 1e-6, most: 2000 });
  const bars = (z) => z.map((v, i) => [i + 1, Math.max(-9, Math.min(9, v))]);
  const early = run.points[Math.min(K, run.points.length - 1)];
  plot("linear", [{ name: "z* = (I - W)^-1 b", points: bars(star) }, { name: `after ${K} iterations`, points: bars(early), dash: true }],
    { x: "component", y: "z" });
  const wanted = rho < 1 ? Math.ceil(Math.log(1e-6) / Math.log(rho)) : Infinity;
  $("linear-says").textContent = run.result === "converged"
    ? `${run.points.length} evaluations to a residual of 1e-6; log(1e-6) / log(rho) says about ${wanted}. |z*| = ${norm(star).toFixed(2)}.`
    : `rho >= 1: plain iteration runs away, though z* exists, |z*| = ${norm(star).toFixed(2)}.`;

  // dL/db of L = sum z: exactly (I - W)^-T 1; unrolled K times, sum_k<K (W^T)^k 1
  const one = b.map(() => 1), WT = Solvers.transpose(W);
  const u = solve(eye(b.length).map((row, i) => row.map((v, j) => v - WT[i][j])), one);
  const errors = [], size = norm(u);
  let sum = zero, term = one;
  for (let k = 1; k <= 60; k++) {
    sum = add(sum, term);
    term = times(WT, term);
    errors.push([k, norm(add(sum, u, -1)) / size]);
  }
  // the implicit gradient solves u = W^T u + 1 to the end, by Anderson with a full window, which is GMRES: k products
  const system = iterate((v) => add(times(WT, v), one), one, { solver: "anderson", window: 17, tolerance: 1e-14, most: 60 });
  const solved = system.points.map((v, k) => [k + 1, Math.max(norm(add(v, u, -1)) / size, 1e-16)]);
  plot("truncated", [
    { name: "unrolled: k iterates kept", points: errors, dots: false },
    { name: "implicit, k products: one evaluation kept", points: solved, dash: true, dots: false },
    { points: [errors[K - 1]], dots: true, ink: "var(--a)" },
  ], { log: true, x: "iterations unrolled, or products of the linear solve, k", y: "error of dL/db" });
  $("truncated-says").textContent = `At k = ${K} the unrolled gradient is off by ${(100 * errors[K - 1][1]).toPrecision(2)} % and keeps ${K} iterates. |dL/db| = ${size.toFixed(2)}.`;
}

// What zoo's own solvers measured on the same map, beside what this page computes: the largest difference of the logs.
function check() {
  let worst = 0;
  for (const kept of DATA.traces) {
    const map = plane(kept.rate, kept.bent);
    const run = iterate(map.f, DATA.plane.start, { solver: kept.solver, window: kept.window, tolerance: 0, most: kept.residuals.length });
    kept.residuals.forEach((v, k) => {
      if (v > 1e-9) worst = Math.max(worst, Math.abs(Math.log10(run.residuals[k]) - Math.log10(v)));
    });
  }
  return worst;
}

for (const id of ["rate", "solver", "window", "bent"]) $(id).addEventListener("input", first);
for (const id of ["radius", "unrolled"]) $(id).addEventListener("input", second);
first();
second();
$("checked").textContent = `${DATA.traces.length} residual curves of zoo ${DATA.version} on this map and those of this page differ by at most ${check().toExponential(0)} decades.`;
