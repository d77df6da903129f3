"""Deep equilibrium models: the output is a fixed point ``z = f(z, x)`` of one layer."""
