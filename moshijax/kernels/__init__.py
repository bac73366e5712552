"""Functions of arrays that have a body of their own for some machine, beside their reference."""
