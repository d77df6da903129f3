"""The figures of the theory, one for each experiment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.reporting.plots import Picture, legend, panels, style, write


def memory(m: Mapping[str, Any], folder: Path) -> Picture:
    figure, axes = panels(1, 2, width=6.4, height=5.2)
    for axis, ways, label in (
        (axes[0, 0], m["ways"], "kept for the backward pass (KiB)"),
        (axes[0, 1], m["forward"], "most alive at once, without gradients (KiB)"),
    ):
        for i, (way, found) in enumerate(ways.items()):
            kib = [b / 1024 for b in found["bytes"]]
            axis.plot(m["depths"], kib, label=f"{way}  (exponent {abs(found['exponent']):.2f})", **hollow(i))
        axis.set(xscale="log", yscale="log", xlabel="layers, iterations or time steps (rk4: 4 evaluations each)")
        axis.set_xticks(m["depths"], [str(d) for d in m["depths"]])
        axis.minorticks_off()
        axis.set_ylabel(label)
        legend(axis, 2)
    axes[0, 1].set_ylim(axes[0, 0].get_ylim())
    caption = (
        f"Memory against depth, {m['batch']} samples of {m['width']} numbers in float32. Left: between forward and "
        "backward pass. Explicit chains keep every layer (exponent 1); the implicit function theorem and the adjoint "
        "ODE keep one state (exponent 0). Right: the peak of a forward pass without gradients, which no way pays for "
        "by depth; Anderson's method keeps a history."
    )
    return write(figure, folder, "theory_memory", caption)


def gradients(m: Mapping[str, Any], folder: Path) -> Picture:
    figure, axes = panels(2, 2, height=3.4)
    for column, (key, title) in enumerate((("fixed_point", "fixed point, |W| = 0.9"), ("ode", "ODE, dopri5"))):
        for i, (adjoint, rows) in enumerate(m[key].items()):
            axes[0, column].plot(m["tolerances"], [r["error"] for r in rows], label=adjoint, **style(i))
            axes[1, column].plot(m["tolerances"], [max(1 - r["cosine"], 1e-16) for r in rows], **style(i))
        axes[0, column].set_title(title, fontsize=10)
        for axis in axes[:, column]:
            axis.set(xscale="log", yscale="log")
            axis.invert_xaxis()
        axes[1, column].set_xlabel("tolerance of the solver")
    axes[0, 0].set_ylabel("relative error of the gradient")
    axes[1, 0].set_ylabel("1 - cosine")
    for column in (0, 1):
        handles, labels = axes[0, column].get_legend_handles_labels()
        axes[1, column].legend(
            handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=3, frameon=False, fontsize=8,
            handlelength=3.2,
        )  # fmt: skip
    caption = (
        "Gradient against a float64 reference, by tolerance. Implicit and unrolled gradients become exact with the "
        "tolerance; phantom, jfb, a Neumann series of 5 terms and SHINE keep a bias of their own. unroll and "
        "checkpoint are the same gradient, so that their lines coincide."
    )
    return write(figure, folder, "theory_gradients", caption)


def lipschitz(m: Mapping[str, Any], folder: Path) -> Picture:
    figure, axes = panels(1, 2)
    left, right = axes[0]
    shown = [r for r in m["rates"] if r["kind"] == "tanh, symmetric W" and r["constant"] in (0.5, 0.8, 0.9, 0.95)]
    for i, row in enumerate(shown):
        error = row["error"]
        look = style(i)
        left.plot(range(len(error)), error, label=f"L = {row['measured']:.3f}", markevery=12, **look)
        bound = [row["measured"] ** k for k in range(len(error))]
        left.plot(range(len(error)), bound, color="0.55", lw=2.6, alpha=0.6, zorder=0,
                  label="Banach's bound $L^k$" if i == len(shown) - 1 else None)  # fmt: skip
    left.set(yscale="log", xlabel="iteration k", ylabel="$|z_k - z^*|\\,/\\,|z_0 - z^*|$, worst sample")
    left.set_title("error, z = tanh(Wz + x)", fontsize=10)
    legend(left, 3)
    for i, kind in enumerate(dict.fromkeys(r["kind"] for r in m["rates"])):
        rows = [r for r in m["rates"] if r["kind"] == kind]
        look = {**style(i), "linestyle": "none", "ms": 6, "fillstyle": ("full", "none", "full")[i % 3]}
        right.plot([r["measured"] for r in rows], [r["rate"] for r in rows], label=kind, **look)
    right.plot([0, 1], [0, 1], color="0.55", lw=2.6, alpha=0.6, zorder=0, label="Banach's bound")
    right.set(
        xlabel="Lipschitz constant L: largest |Jacobian| in the ball",
        ylabel="measured rate of convergence",
        xlim=(0, 1),
        ylim=(0, 1),
    )
    right.set_title("rate, by map", fontsize=10)
    legend(right, 2)
    caption = (
        "Plain iteration converges at the rate that Banach's theorem gives, or faster. L is the largest spectral norm "
        "of the map's Jacobian over points of the ball that holds the iterates. Left: the error after k iterations, "
        "the bound in grey behind it. Right: the rate at the end against L; symmetric W meets the bound, a random one "
        "converges faster."
    )
    return write(figure, folder, "theory_lipschitz", caption)


def beyond(m: Mapping[str, Any], folder: Path) -> Picture:
    figure, axes = panels(2, 2, height=3.6)
    rows = m["beyond"]
    one = _crossing([(r["norm"], r["radius"]) for r in rows])
    for i, solver in enumerate(dict.fromkeys(r["solver"] for r in rows)):
        mine = [r for r in rows if r["solver"] == solver]
        norms = [r["norm"] for r in mine]
        axes[0, 0].plot(norms, [r["nfe"] for r in mine], label=solver, **style(i))
        axes[0, 1].plot(norms, [100 * r["converged"] for r in mine], label=solver, **style(i))
    axes[0, 0].set(yscale="log", xlabel="spectral norm of W", ylabel=f"evaluations (at most {m['cap']} steps)")
    axes[0, 1].set(xlabel="spectral norm of W", ylabel="converged samples (%)", ylim=(-4, 104))
    for axis in axes[0]:
        axis.axvline(1, color="0.5", lw=1, ls="--")
        if one:
            axis.axvline(one, color="0.5", lw=1, ls=":")
        legend(
            axis, 4, title=f"dashed: |W| = 1;  dotted: spectral radius of W = 1, at |W| = {one:.2f}" if one else None
        )
    for i, (label, run) in enumerate(m["training"].items()):
        look = {**style(i), "markevery": max(1, len(run) // 8)}
        steps = [r["step"] for r in run]
        axes[1, 0].plot(steps, [r["norm"] for r in run], label=label, **look)
        axes[1, 1].plot(steps, [r["nfe"] for r in run], label=label, **look)
    axes[1, 0].set(xlabel="training step", ylabel="spectral norm of W", ylim=(0, None))
    axes[1, 0].axhline(1, color="0.5", lw=1, ls="--")
    axes[1, 1].set(xlabel="training step", ylabel="evaluations (DEQ: at most 100)", ylim=(0, None))
    for axis in axes[1]:
        legend(axis, 1)
    caption = (
        "Beyond 1. Above: solvers on z = tanh(Wz + x) as the norm of a random W grows; plain iteration fails where the "
        "spectral radius of W passes 1, the others later (a step of Newton "
        "holds a linear solve). Below: the same cell in training, its weight free or spectrally normalised (DEQ: plain "
        "iteration); free, the norm grows until the equilibrium's solves no longer converge, while the ODE's (dopri5) "
        "all reach their end."
    )
    return write(figure, folder, "theory_beyond", caption)


def timing(m: Mapping[str, Any], folder: Path) -> Picture:
    figure, axes = panels(1, 1, width=6.6, height=5.2)
    axis = axes[0, 0]
    for i, (label, way) in enumerate(m["ways"].items()):
        axis.plot(m["depths"], way["ms"], label=label, **style(i))
    axis.set(xscale="log", yscale="log", xlabel="layers, iterations or time steps (rk4: 4 evaluations each)")
    axis.set_xticks(m["depths"], [str(d) for d in m["depths"]])
    axis.minorticks_off()
    axis.set_ylabel("forward and backward (ms)")
    legend(axis, 2)
    return write(
        figure,
        folder,
        "theory_timing",
        f"Time of a training step against depth, processor time of one thread, the fastest of {m['repeats']}.",
    )


def annuli(m: Mapping[str, Any], folder: Path) -> Picture:
    models = m["models"]
    figure, axes = panels(2, -(-len(models) // 2), width=3.2, height=3.5)
    side = m["side"]
    for axis, (label, model) in zip(axes.flat, models.items(), strict=False):
        image = [[(int(c) + 0.5) / 10 for c in row] for row in model["picture"]]
        axis.contourf(side, side, image, levels=[0, 0.25, 0.5, 0.75, 1.0001], cmap="Greys", alpha=0.8)
        for radius, dash in ((0.5, "-"), (1.0, "--"), (1.5, "--")):
            axis.add_patch(_circle(radius, dash))
        mean = sum(model["accuracy"]) / len(model["accuracy"])
        worst = min(model["accuracy"])
        nfe = sum(model["nfe"]) / len(model["nfe"])
        work = f"{nfe:.0f} evaluations" if nfe > 1 else "no solve"
        axis.set_title(f"{label}\n{mean:.1%} (worst {worst:.1%})\n{work}", fontsize=9)
        axis.set(aspect="equal", xlabel="$x_1$", ylabel="$x_2$")
        axis.grid(False)
    caption = (
        f"Nested annuli: the disc (solid) against the ring (dashed), after {m['steps']} steps; the darker, the surer "
        f"of the disc. Test accuracy, mean and worst of {m['seeds']} seeds. A flow of the plane can only squeeze a "
        "channel through the ring; added dimensions and an equilibrium need none."
    )
    return write(figure, folder, "theory_annuli", caption)


def hollow(i: int) -> dict[str, Any]:
    """The i-th series with open markers, each smaller than the one before: lines that coincide are still all seen."""
    return {**style(i), "fillstyle": "none", "ms": 13 - 1.2 * i, "mew": 1.3}


def _crossing(points: list[tuple[float, float]]) -> float | None:
    """The norm at which the radius is 1: both scale with W."""
    norm, radius = points[0]
    return norm / radius if radius else None


def _circle(radius: float, dash: str) -> Any:
    from matplotlib.patches import Circle

    return Circle((0, 0), radius, fill=False, ls=dash, lw=1.1, color="#c2571a")


def draw(results: Mapping[str, Any], folder: Path) -> dict[str, Picture]:
    """All figures, by the name of what they show."""
    made = {
        "memory": memory(results["memory"], folder),
        "gradients": gradients(results["gradients"], folder),
        "lipschitz": lipschitz(results["lipschitz"], folder),
        "beyond": beyond(results["lipschitz"], folder),
        "timing": timing(results["timing"], folder),
        "annuli": annuli(results["annuli"], folder),
    }
    return made
