"""ODE solvers: one file a kind of method, two time loops (`loops`), one entry (`integrate`)."""
