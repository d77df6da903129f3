"""Puzzles for reasoners: grids of symbols with an answer that rules can check; generated, all but one set.

search        solve thousands of Sudokus at once; how hard each is
generate      full grids, and puzzles with one solution
text          Sudokus as people write them: read, solve, write
rules         is an answer right?
symmetry      what leaves a Sudoku the same: augmentation, and a proof that two splits share none
cache         keep what was generated
maze          carve mazes, find shortest ways
base          what the data modules share; sudoku, mazes, prefix and extreme are these
"""
