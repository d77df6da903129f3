"""Search the options of a training: ``python -m zoo.sweep --model mdeq --search optim.lr=log:1e-4:1e-2 --trials 20``.

command    the options, without torch
search     the words of a search: which options, over which values
study      trials by Optuna: suggested, trained, pruned, kept
report     what the trials say: a table, the best, importances and figures
"""
