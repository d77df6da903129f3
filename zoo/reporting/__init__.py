"""Pages, figures and counters, shared by the comparison and the theory."""
