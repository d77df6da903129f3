"""Contents page of the data sets: a name, where it lives, and what it is. Imports no torch."""

from zoo.registry import Entry, Registry

DATA: Registry = Registry(
    "data set",
    Entry("digits", "zoo.data.vision:Digits", "1,797 handwritten digits 8x8, part of scikit-learn", "classification"),
    Entry("mnist", "zoo.data.vision:MNIST", "70,000 handwritten digits 28x28", "classification"),
    Entry("fashion_mnist", "zoo.data.vision:FashionMNIST", "70,000 pieces of clothing 28x28", "classification"),
    Entry("cifar10", "zoo.data.vision:CIFAR10", "60,000 colour photographs 32x32", "classification"),
)

__all__ = ["DATA"]
