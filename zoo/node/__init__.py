"""Neural ODEs: the output is the state that a field ``dy/dt = f(t, y)`` carries the input to."""
