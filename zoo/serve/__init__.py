"""Answers of a trained model over HTTP: ``python -m zoo.serve --model mdeq_tiny.digits``.

command    the options, without torch
batcher    requests that arrive together are one batch; the queue is bounded
requests   what a request may ask, and how an answer is written
app        the addresses, and what each refuses
page.html  a page to draw a digit, drop a picture, write a prompt or type a Sudoku
"""
