"""Contents page of the tasks, the LightningModules that train one model: a name and where it lives. Imports no torch.

A model's card names its task by import path; a model of one's own is trained by a task of this page.
"""

from zoo.registry import Entry, Registry

TASKS: Registry = Registry(
    "task",
    Entry("classification", "zoo.tasks.classification:Classification", "a class for each sample"),
    Entry("continual", "zoo.tasks.continual:Continual", "tasks that come one after the other"),
    Entry("density", "zoo.tasks.density:Density", "the density of samples"),
    Entry("fewshot", "zoo.tasks.fewshot:FewShot", "classes that a few examples show"),
    Entry("inr", "zoo.tasks.inr:ImplicitRepresentation", "a signal as a function of its coordinates"),
    Entry("language", "zoo.tasks.language:LanguageModel", "the next symbol of a text"),
    Entry("motion", "zoo.tasks.motion:Motion", "the paths of a physical system"),
    Entry("node_classification", "zoo.tasks.node_classification:NodeClassification", "a class for each node"),
    Entry("reasoning", "zoo.tasks.reasoning:Reasoning", "grids that are filled in, cell by cell"),
    Entry("regression", "zoo.tasks.regression:Regression", "numbers for each sample"),
    Entry("segmentation", "zoo.tasks.segmentation:Segmentation", "a class for each pixel"),
    Entry("series", "zoo.tasks.series:TimeSeries", "series at irregular times"),
)

__all__ = ["TASKS"]
