"""Training, from a request to the results of a run.

request      names, recipe, files and flags -> Request       (no torch)
options      Request -> checked options of every class
build        options -> task, model, data module
run          fit, test, write the run folder
train        the same from Python: `zoo.train`
results      results.json and the figure at the end
run_folder, metrics_log, environment, summary, console, failures, process, figure, compile
"""
