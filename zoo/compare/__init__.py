"""Models side by side, every number measured in one run.

    python -m zoo.compare --models mdeq_tiny odenet timm:resnet18 --data digits --seeds 0 1 2 --budget 60s
    python -m zoo.compare --theory

From Python: `zoo.compare_models`. It imports no torch; each model is trained and measured in a process of its own.

    comparison    compare_models: the whole, from Python
    command       the same from the command line
    jobs          what has to be run
    runner, rows  processes, and the rows that are kept
    worker        one process: train, then measure
    bench, measure, solver_curves    what is measured of a trained model
    table, figures, report           what is shown
    significance                     intervals and paired tests over seeds, the Pareto front, LaTeX
    theory/       explicit networks, neural ODEs and equilibria on the same small problems
"""
