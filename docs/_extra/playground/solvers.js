// The numerics of the playground: vectors are arrays, matrices arrays of rows. No dependency; also read by the tests.
"use strict";
const Solvers = (() => {
  const dot = (a, b) => a.reduce((s, v, i) => s + v * b[i], 0);
  const norm = (a) => Math.sqrt(dot(a, a));
  const add = (a, b, s = 1) => a.map((v, i) => v + s * b[i]);
  const times = (A, x) => A.map((row) => dot(row, x));
  const transpose = (A) => A[0].map((_, j) => A.map((row) => row[j]));
  const product = (A, B) => { const T = transpose(B); return A.map((row) => T.map((c) => dot(row, c))); };
  const eye = (n, s = 1) => Array.from({ length: n }, (_, i) => Array.from({ length: n }, (_, j) => (i === j ? s : 0)));

  // Gaussian elimination with pivoting; b may be a vector or a matrix of right-hand sides. Null: A is singular.
  function solve(A, b) {
    const vector = !Array.isArray(b[0]), n = A.length;
    const M = A.map((row, i) => [...row, ...(vector ? [b[i]] : b[i])]);
    for (let k = 0; k < n; k++) {
      let p = k;
      for (let i = k + 1; i < n; i++) if (Math.abs(M[i][k]) > Math.abs(M[p][k])) p = i;
      if (Math.abs(M[p][k]) < 1e-300) return null;
      [M[k], M[p]] = [M[p], M[k]];
      for (let i = 0; i < n; i++) {
        if (i === k) continue;
        const q = M[i][k] / M[k][k];
        for (let j = k; j < M[i].length; j++) M[i][j] -= q * M[k][j];
      }
    }
    const X = M.map((row, i) => row.slice(n).map((v) => v / row[i]));
    return vector ? X.map((row) => row[0]) : X;
  }

  // Each method: (f, z, fz, state) -> next iterate. What it has learned lies in its state.
  const METHODS = {
    picard: (z, fz, s, o) => z.map((v, i) => v + o.damping * (fz[i] - v)),
    // As zoo.solvers.anderson: weights a ~ H^-1 1 over the iterates of the window, H_ij = g_i . g_j with a trace of ridge.
    anderson(z, fz, s, o) {
      const g = add(fz, z, -1);
      s.f ||= [];
      s.g ||= [];
      s.f.push(fz);
      s.g.push(g);
      s.least = Math.min(s.least ?? Infinity, norm(g));
      if (norm(g) > 10 * s.least) { s.f = [fz]; s.g = [g]; } // grown: forget what is older
      while (s.f.length > o.window) { s.f.shift(); s.g.shift(); }
      const gram = s.g.map((p, i) => s.g.map((q, j) => dot(p, q) * (i === j ? 1 + 2.2e-15 : 1)));
      const y = s.f.length > 1 ? solve(gram, s.f.map(() => 1)) : [1];
      const total = y ? y.reduce((t, v) => t + v, 0) : 0;
      if (!Number.isFinite(1 / total)) return fz;
      return s.f.reduce((sum, f, i) => add(add(sum, f, y[i] / total), s.g[i], ((o.damping - 1) * y[i]) / total), z.map(() => 0));
    },
    broyden(z, fz, s, o) {
      const g = add(fz, z, -1);
      s.B ||= eye(z.length, -1);
      if (s.z) {
        const dz = add(z, s.z, -1), dg = add(g, s.g, -1), Bdg = times(s.B, dg);
        const left = times(transpose(s.B), dz), denominator = dot(dz, Bdg);
        if (Math.abs(denominator) > 1e-30) {
          const u = add(dz, Bdg, -1).map((v) => v / denominator);
          s.B = s.B.map((row, i) => row.map((v, j) => v + u[i] * left[j]));
        }
      }
      Object.assign(s, { z, g });
      return add(z, times(s.B, g), -1);
    },
    newton(z, fz, s, o) {
      const J = o.jacobian(z), A = eye(z.length).map((row, i) => row.map((v, j) => v - J[i][j]));
      const step = solve(A, add(fz, z, -1));
      return step ? add(z, step) : fz;
    },
  };

  // Iterate until |f(z) - z| <= tolerance |z|; the points that f saw, and the relative residual at each.
  function iterate(f, z0, options) {
    const o = { solver: "picard", window: 5, damping: 1, tolerance: 1e-10, most: 60, ...options };
    const points = [], residuals = [], state = {};
    let z = z0, result = "max_steps";
    for (let k = 0; k < o.most; k++) {
      const fz = f(z), r = norm(add(fz, z, -1)) / Math.max(norm(z), 1e-12);
      points.push(z);
      residuals.push(Math.min(r, 1e12));
      if (!z.every(Number.isFinite) || norm(z) > 1e9) { result = "nonfinite"; break; }
      if (r <= o.tolerance) { result = "converged"; break; }
      z = METHODS[o.solver](z, fz, state, o);
    }
    return { points, residuals, result, z: points[points.length - 1] };
  }

  return { dot, norm, add, times, transpose, product, eye, solve, iterate, METHODS };
})();
if (typeof module !== "undefined") module.exports = Solvers;
