"""Puzzles for reasoners: grids of symbols with an answer that rules can check; all are generated, none is downloaded.

search        solve thousands of Sudokus at once; how hard each is
generate      full grids, and puzzles with one solution
text          Sudokus as people write them: read, solve, write
rules         is an answer right?
symmetry      what leaves a Sudoku the same: augmentation, and a proof that two splits share none
cache         keep what was generated
maze          carve mazes, find shortest ways
base; sudoku, mazes   the data modules
"""
