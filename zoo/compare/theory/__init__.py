"""The theory, measured: explicit networks, neural ODEs and equilibrium models on the same small problems.

    python -m zoo.compare --theory [--out DIR]

Each file is one experiment, ``measure(scale) -> numbers``; `report.run_theory` makes the table, the figures and the
page of all of them. One thread of a CPU needs a few minutes for everything.

Shape letters: ``B`` samples, ``N`` numbers of a state, ``L`` layers, ``K`` iterations.
"""
