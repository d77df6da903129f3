"""Equilibrium reasoners: a small map revises a grid's state until it no longer changes, and so does its answer."""
