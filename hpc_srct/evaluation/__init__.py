"""How good a reconstruction is: metrics, tables and figures, on plain arrays."""
