"""Contents page of the data sets: a name, where it lives, and what it is. Imports no torch."""

from zoo.data.registry import DataSets
from zoo.registry import Entry

DATA = DataSets(
    "data set",
    Entry("digits", "zoo.data.vision:Digits", "1,797 handwritten digits 8x8, part of scikit-learn", "classification"),
    Entry("mnist", "zoo.data.vision:MNIST", "70,000 handwritten digits 28x28", "classification"),
    Entry("fashion_mnist", "zoo.data.vision:FashionMNIST", "70,000 pieces of clothing 28x28", "classification"),
    Entry("cifar10", "zoo.data.vision:CIFAR10", "60,000 color photographs 32x32", "classification"),
    Entry("cifar100", "zoo.data.vision:CIFAR100", "60,000 color photographs 32x32 of 100 classes", "classification"),
    Entry("svhn", "zoo.data.svhn:SVHN", "99,289 digits of house numbers 32x32, in color", "classification"),
    Entry(
        "imagenet", "zoo.data.own.image_folder:ImageNet", "1.3 million photographs of 1,000 classes", "classification"
    ),
    Entry(
        "image_folder",
        "zoo.data.own.image_folder:ImageFolder",
        "your own pictures, a folder a class, by --data.root",
        "classification",
    ),
    Entry(
        "breast_cancer",
        "zoo.data.sklearn_tables:BreastCancer",
        "569 tumors by 30 numbers of their cells",
        "classification",
    ),
    Entry("diabetes", "zoo.data.sklearn_tables:Diabetes", "442 patients by 10 numbers", "regression"),
    Entry(
        "table",
        "zoo.data.own.table:Table",
        "your own CSV or Parquet file, by --data.path",
        "classification regression density",
    ),
    Entry(
        "arrays",
        "zoo.data.own.arrays:Arrays",
        "your own .npz, .npy or .safetensors file, by --data.path",
        "classification regression",
    ),
    Entry(
        "python_docs", "zoo.data.corpora:PythonDocs", "370,000 characters of prose that ship with Python", "language"
    ),
    Entry("tiny_shakespeare", "zoo.data.corpora:TinyShakespeare", "1.1 million characters of plays", "language"),
    Entry("war_and_peace", "zoo.data.corpora:WarAndPeace", "3.2 million characters of a novel", "language"),
    Entry("wikitext2", "zoo.data.corpora:WikiText2", "2.1 million words of Wikipedia", "language"),
    Entry("wikitext103", "zoo.data.corpora:WikiText103", "103 million words of Wikipedia", "language"),
    Entry("ptb", "zoo.data.corpora:PennTreebank", "0.93 million words of the Wall Street Journal", "language"),
    Entry("text", "zoo.data.own.text_files:TextFile", "your own text: a file, a folder, a Parquet column", "language"),
    Entry("two_moons", "zoo.data.density:TwoMoons", "two half circles in the plane, drawn", "density"),
    Entry("eight_gaussians", "zoo.data.density:EightGaussians", "eight normal distributions, drawn", "density"),
    Entry("checkerboard", "zoo.data.density:Checkerboard", "a uniform checkerboard in the plane, drawn", "density"),
    Entry("pinwheel", "zoo.data.density:Pinwheel", "five bent arms in the plane, drawn", "density"),
    Entry("two_spirals", "zoo.data.density:TwoSpirals", "two spirals in the plane, drawn", "density"),
    Entry("swissroll", "zoo.data.density:SwissRoll", "a noisy spiral in the plane, drawn", "density"),
    Entry("rings", "zoo.data.density:Rings", "four noisy circles in the plane, drawn", "density"),
    Entry("power", "zoo.data.tabular:Power", "2 million measurements of a household's power, 6 dimensions", "density"),
    Entry("gas", "zoo.data.tabular:Gas", "1 million measurements of gas sensors, 8 dimensions", "density"),
    Entry("hepmass", "zoo.data.tabular:Hepmass", "525,000 particle collisions, 21 dimensions", "density"),
    Entry("miniboone", "zoo.data.tabular:Miniboone", "36,000 neutrino events, 43 dimensions", "density"),
    Entry("bsds300", "zoo.data.tabular:BSDS300", "1.3 million patches of photographs, 63 dimensions", "density"),
    Entry("ideal_pendulum", "zoo.data.motion:IdealPendulum", "paths of pendulums without friction, made", "motion"),
    Entry("two_body", "zoo.data.motion:TwoBody", "two bodies around one another in a plane, made", "motion"),
    Entry("shapes", "zoo.data.shapes:Shapes", "1,600 made images 32x32 of shapes on textured ground", "segmentation"),
    Entry("voc", "zoo.data.segmentation:VOC", "2,913 photographs with masks, Pascal VOC 2012", "segmentation"),
    Entry(
        "chains",
        "zoo.data.graphs:Chains",
        "chains of nodes whose class only the first one tells",
        "node_classification",
    ),
    Entry("photograph", "zoo.data.signals:Photograph", "one photograph 96x96, part of scikit-learn", "inr"),
    Entry(
        "qp_family",
        "zoo.data.quadratic:QuadraticPrograms",
        "10,000 quadratic programs of 100 variables, made",
        "optimization",
    ),
    Entry(
        "qp_family_nonconvex",
        "zoo.data.quadratic:NonconvexPrograms",
        "the same constraints, a sine in the objective",
        "optimization",
    ),
    Entry("cityscapes", "zoo.data.segmentation:Cityscapes", "3,475 street scenes 2048x1024 with masks", "segmentation"),
    Entry(
        "mask_folder",
        "zoo.data.own.mask_folder:MaskFolder",
        "your own pictures with masks of the same names",
        "segmentation",
    ),
    Entry(
        "episode_folder",
        "zoo.data.own.episode_folder:EpisodeFolder",
        "few-shot episodes of your own pictures",
        "fewshot",
    ),
    Entry("digit_episodes", "zoo.data.episodes:DigitEpisodes", "few-shot episodes of digits 8x8", "fewshot"),
    Entry("omniglot", "zoo.data.omniglot:Omniglot", "few-shot episodes of 1,623 characters 28x28", "fewshot"),
    Entry("split_digits", "zoo.data.continual:SplitDigits", "digits 8x8 as five tasks of two, in turn", "continual"),
    Entry("split_mnist", "zoo.data.continual:SplitMNIST", "MNIST as five tasks of two digits, in turn", "continual"),
    Entry("spirals", "zoo.data.series:Spirals", "noisy planar spirals at irregular times, made on the spot", "series"),
    Entry("pendulums", "zoo.data.systems:Pendulums", "damped pendulums of unknown length and friction, made", "series"),
    Entry("physionet", "zoo.data.physionet:PhysioNet", "8,000 irregular intensive-care records of 48 h", "series"),
    Entry("sudoku4", "zoo.data.puzzles.sudoku:Sudoku4", "Sudokus 4x4 with one solution each, drawn", "reasoning"),
    Entry("sudoku6", "zoo.data.puzzles.sudoku:Sudoku6", "Sudokus 6x6 with one solution each, drawn", "reasoning"),
    Entry("sudoku9", "zoo.data.puzzles.sudoku:Sudoku9", "Sudokus 9x9 with one solution each, drawn", "reasoning"),
    Entry(
        "sudoku_extreme",
        "zoo.data.puzzles.extreme:SudokuExtreme",
        "the published hard Sudokus 9x9, from their CSV files",
        "reasoning",
    ),
    Entry(
        "prefix_sums", "zoo.data.puzzles.prefix:PrefixSums", "parities of the beginnings of bit strings", "reasoning"
    ),
    Entry("mazes", "zoo.data.puzzles.mazes:Mazes", "mazes with their shortest way, larger ones to test", "reasoning"),
    Entry(
        "series_table", "zoo.data.own.series_table:SeriesTable", "your own series, a long CSV or Parquet file", "series"
    ),
    Entry("ett", "zoo.data.ett:ETT", "two years of hourly electricity transformer data, for forecasts", "series"),
)

__all__ = ["DATA"]
